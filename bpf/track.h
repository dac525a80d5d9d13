/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The life of a pair: idle, phases, endings.
 *
 * Both halves carry the phase and the flags, so that each knows its timeout; stamps are each
 * half's own, so that the two directions share no cache line while traffic runs. A pair is idle
 * when both stamps are older than its timeout.
 */
#ifndef PRIVLINK_TRACK_H
#define PRIVLINK_TRACK_H

#include "migrate.h"
#include "ports.h"

/* A half as a packet found it. */
struct half {
	__u32 slot;
	__u32 state;
	__u32 stamp;
	struct rewrite rw;
};

static __always_inline struct flow *half_find(const struct flow_key *key, struct half *h)
{
	return flow_find(key, &h->rw, &h->slot, &h->state, &h->stamp);
}

/* After a miss: copied from the table of before, if it is there? A function of its own, as the fast path
 * is better off without a second copy of the look-up.
 */
SLOW int half_find_before(struct flow_key *key, struct half *h, __u32 now)
{
	struct flow_key copy;

	if (!key || !h)
		return false;
	copy = *key;
	return migrate_key(&copy, now) && half_find(&copy, h);
}

/* The same as half_find, in the table of before as well while there is one. Its packets are TC's: XDP
 * steps aside for as long.
 */
static __always_inline struct flow *half_find_anywhere(struct flow_key *key, struct half *h,
                                                       __u32 now)
{
	struct flow *f = half_find(key, h);

	if (likely(f) || IS_XDP || !migrating || !half_find_before(key, h, now))
		return f;
	return flow_at(h->slot);
}

/* The twin of a half, live and pointing back, or NULL. Asks last whether the half still stands: a
 * packet may have been held up until its slot is somebody else's, and so the twin found there.
 */
static __always_inline struct flow *half_twin(struct flow *f, const struct half *h, __u32 *state,
                                              __u32 *stamp)
{
	struct flow *twin = flow_twin(h->slot, FLOW_READ(f->twin), state, stamp);

	if (twin && !flow_same(f, h->state) && !FLOW_FAULT(FAULT_BLIND_TWIN))
		return NULL;
	return twin;
}

#define half_flags(h)   ((h)->rw.tag.of.flags)
#define half_phase(h)   (half_flags(h) & PHASE_MASK)
#define half_reverse(h) (half_flags(h) & FLOW_REVERSE)

/* Changes flags in one live entry, if link and generation are still those of `tag`. */
static __always_inline void flags_change(struct flow *f, union tag tag, __u16 clear, __u16 set)
{
	for (int i = 0; i < 4; i++) {
		union tag old = {.word = FLOW_READ(f->rw.tag.word)}, new = old;

		if (old.of.link != tag.of.link || old.of.link_gen != tag.of.link_gen)
			return;
		new.of.flags = (old.of.flags & ~clear) | set;
		if (new.word == old.word ||
		    __sync_val_compare_and_swap(&f->rw.tag.word, old.word, new.word) == old.word)
			return;
	}
}

/* The same in both halves of a pair, if it still stands. */
static __always_inline void pair_change(struct half *h, __u16 clear, __u16 set)
{
	struct flow *f = flow_at(h->slot), *twin;
	__u32 state, stamp;

	h->rw.tag.of.flags = (h->rw.tag.of.flags & ~clear) | set;
	if (!f || !flow_same(f, h->state))
		return;
	flags_change(f, h->rw.tag, clear, set);
	if (MUTANT(2))
		return;
	twin = half_twin(f, h, &state, &stamp);
	if (twin)
		flags_change(twin, h->rw.tag, clear, set);
}

/* LIVE to DEAD, both halves, the forward one first (flowtable.h, rule 7). */
SLOW int pair_end(struct half *h, __u32 now)
{
	struct flow *f = h ? flow_at(h->slot) : NULL, *twin;
	__u32 state, stamp;

	if (!f)
		return 0;
	twin = half_twin(f, h, &state, &stamp);
	if (twin && half_reverse(h))
		half_end(twin, state, now);
	half_end(f, h->state, now);
	if (twin && !half_reverse(h) && !MUTANT(3))
		half_end(twin, state, now);
	return 0;
}

/* A half was in use, if it still stands. */
static __always_inline void half_touch(const struct half *h, __u32 now)
{
	struct flow *f = flow_at(h->slot);

	if (f && flow_same(f, h->state))
		FLOW_READ(f->stamp) = now;
}

/* Both ends are owed a RST: the pair stays findable for one more idle timeout, and where both got one for as
 * long as after any RST.
 */
static __always_inline void pair_mark_ended(struct half *h, __u32 now)
{
	struct flow *f = flow_at(h->slot), *twin;
	__u32 state, stamp;

	if (!f || !flow_same(f, h->state))
		return;
	pair_change(h, PHASE_MASK, PHASE_ENDED);
	FLOW_READ(f->stamp) = now;
	twin = half_twin(f, h, &state, &stamp);
	if (twin)
		FLOW_READ(twin->stamp) = now;
}

/* Seconds a half may be silent. A backend that is gone leaves its numbers behind. */
static __always_inline __u32 idle_limit(const struct rewrite *forward)
{
	__u16 flags = forward->tag.of.flags, phase = flags & PHASE_MASK;
	struct backend *b;
	__u32 limit;

	if (phase == PHASE_SYN)
		return IDLE_SYN;
	if (phase == PHASE_CLOSING)
		return MUTANT(4) ? IDLE_DEFAULT : IDLE_CLOSING;
	if (phase == PHASE_RESET)
		return IDLE_RESET;
	if (phase == PHASE_ENDED && (flags & FLOW_RST_BOTH) == FLOW_RST_BOTH && !MUTANT(37))
		return IDLE_RESET;
	b = backend_at(forward->via.forward.backend);
	if (!b)
		return IDLE_DEFAULT;
	limit = flags & FLOW_TCP ? b->idle_tcp : b->idle_udp;
	return limit ?: IDLE_DEFAULT;
}

/* Has the pair been silent for too long, in both directions? Asked only when the own stamp is
 * older than any timeout could be; a missing twin counts as silent.
 */
SLOW int pair_idle(struct half *h, __u32 now)
{
	struct flow *f = h ? flow_at(h->slot) : NULL, *twin;
	__u32 state, stamp = 0, limit;
	struct rewrite forward;

	if (!f)
		return true;
	forward = h->rw;
	twin = half_twin(f, h, &state, &stamp);
	if (half_reverse(h)) {
		if (!twin)
			return true;
		/* only the backend is taken from the twin: phases are the same in both */
		forward.via.word = FLOW_READ(twin->rw.via.word);
	}
	limit = idle_limit(&forward);
	if (flow_age(now, h->stamp) <= (__s32)limit)
		return false;
	if (MUTANT(5))
		return true;
	return !twin || flow_age(now, stamp) > (__s32)limit;
}

/* The segment that may open a connection (RFC 9293 3.5). */
static __always_inline bool is_opener(const struct packet *p)
{
	return (p->tcp & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* A client's SYN on a pair that is closing or was reset opens a new one. */
static __always_inline bool opens_anew(const struct packet *p, struct half *h)
{
	return !half_reverse(h) && half_flags(h) & FLOW_TCP && is_opener(p) && !MUTANT(24) &&
	       (half_phase(h) == PHASE_CLOSING || half_phase(h) == PHASE_RESET);
}

/* TCP states (RFC 9293 3.3.2 as a middlebox sees them, RFC 7857 2): called on SYN, FIN, RST, and
 * for every segment while the pair is not open.
 */
SLOW int track_tcp(struct packet *p, struct half *h)
{
	__u16 flags, phase, set = 0;
	bool reverse;

	if (!p || !h)
		return 0;
	flags = half_flags(h);
	phase = flags & PHASE_MASK;
	reverse = flags & FLOW_REVERSE;
	if (p->tcp & TCP_RST) {
		/* An RST out of the window must not end the flow: the next segment takes it back. */
		pair_change(h, PHASE_MASK, PHASE_RESET);
		if (MUTANT(23))
			pair_end(h, p->now);
		return 0;
	}
	if (p->tcp & TCP_FIN && !MUTANT(6))
		set |= reverse ? FLOW_FIN_BACKEND : FLOW_FIN_CLIENT;
	if (p->tcp & TCP_SYN && reverse)
		set |= FLOW_ANSWERED;
	flags |= set;
	if (phase == PHASE_RESET)
		phase = flags & FLOW_ANSWERED ? PHASE_OPEN : PHASE_SYN;
	if (phase == PHASE_SYN && !reverse && p->tcp & TCP_ACK && flags & FLOW_ANSWERED)
		phase = PHASE_OPEN;
	if ((flags & (FLOW_FIN_CLIENT | FLOW_FIN_BACKEND)) == (FLOW_FIN_CLIENT | FLOW_FIN_BACKEND))
		phase = PHASE_CLOSING;
	pair_change(h, PHASE_MASK, set | phase);
	return 0;
}

#endif
