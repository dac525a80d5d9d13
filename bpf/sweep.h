/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The sweep: what packets leave to time. It visits the table in slices of a millisecond, takes no
 * lock and may stop anywhere; packets treat an idle pair as absent whether or not it came by. It
 * runs in process context and uses no memory of the packet programs but the tables.
 *
 *	live, idle		both halves DEAD, or marked ended if both ends are owed a RST
 *	live, link or backend gone	marked ended (TCP) or DEAD (UDP)
 *	DEAD, rested		entry freed, then quota, then the port's bit
 */
#ifndef PRIVLINK_SWEEP_H
#define PRIVLINK_SWEEP_H

#include "fragment.h"
#include "track.h"

/* Seconds a DEAD half without a port stands: longer than anybody holds its slot. */
#define GRACE 2

/* Slots whose twins are asked for at once: as many as a CPU can look at while it waits for the first. */
#define SWEEP_TOGETHER 16

static __always_inline void sweep_dead(struct sweep *s, struct flow *f, __u32 slot, __u32 state)
{
	bool port;
	struct flow was;

	s->dead++;
	if (!flow_snapshot(f, &was) || was.state != state)
		return;
	port = was.key.kind == KIND_FLOW && was.rw.tag.of.flags & FLOW_REVERSE;
	if (flow_age(s->now, was.stamp) < (port && !MUTANT(25) ? PORT_REST : GRACE))
		return;
	if (!flow_free(f, slot, state))
		return;
	s->freed++;
	if (!port)
		return;
	usage_return(&was.rw.tag);
	port_rested(&was.key, was.rw.tag.of.flags);
}

static __always_inline bool sweep_gone(const struct rewrite *forward)
{
	struct link *link = link_at(forward->tag.of.link);
	struct backend *b = backend_at(forward->via.forward.backend);

	return !link || !link_carries(link, forward->tag.of.link_gen) || !b ||
	       (b->gen != forward->via.forward.backend_gen && !MUTANT(26));
}

static __always_inline void sweep_live(struct sweep *s, struct flow *f, __u32 slot, __u32 state)
{
	struct half h = {.slot = slot, .state = state};
	struct flow *twin;
	__u32 twin_state, twin_stamp = 0, limit;
	struct backend *b;
	__u16 flags;
	__s32 age;

	s->live++;
	h.rw = f->rw;
	h.stamp = FLOW_READ(f->stamp);
	flags = half_flags(&h);
	age = flow_age(s->now, h.stamp);
	if (unlikely(f->key.kind != KIND_FLOW)) {
		bool id = f->key.kind == KIND_IPID;

		if (age > IDLE_FRAGMENT && flow_same(f, state) &&
		    flow_end(f, state, s->now - PORT_REST) && id)
			fragments_return(h.rw.tag.of.link);
		return;
	}
	if (flags & FLOW_REVERSE) {
		/* Its forward half decides for both. Alone it is what an opening or a new pair left. */
		if (age <= ORPHAN_AGE || !flow_same(f, state))
			return;
		twin = half_twin(f, &h, &twin_state, &twin_stamp);
		if (!twin && half_end(f, state, s->now))
			s->orphans++;
		return;
	}
	if (!flow_same(f, state))
		return;
	if (unlikely(sweep_gone(&h.rw)) && (flags & PHASE_MASK) != PHASE_ENDED) {
		s->ended++;
		if (!(flags & FLOW_TCP)) {
			pair_end(&h, s->now);
			return;
		}
		pair_mark_ended(&h, s->now);
		s->unanswered++;
		return;
	}
	if ((flags & PHASE_MASK) == PHASE_ENDED)
		s->unanswered++;
	if (age <= IDLE_MIN)
		return;
	limit = idle_limit(&h.rw);
	if (age <= (__s32)limit)
		return;
	twin = half_twin(f, &h, &twin_state, &twin_stamp);
	if (twin && flow_age(s->now, twin_stamp) <= (__s32)limit)
		return;
	/* a packet that came meanwhile refreshed nothing: to it the pair was absent */
	b = backend_at(h.rw.via.forward.backend);
	if (b && b->flags & BACKEND_TCP_RESET && flags & FLOW_TCP &&
	    (flags & PHASE_MASK) == PHASE_OPEN) {
		pair_mark_ended(&h, s->now);
		s->unanswered++;
		s->ended++;
		return;
	}
	pair_end(&h, s->now);
	s->killed++;
}

/* Nanoseconds a slice may take; another number in a test only. */
volatile const __u64 sweep_budget = SWEEP_BUDGET;

/* One slot; a function of its own, so that the verifier walks it once. */
SLOW int sweep_slot(struct sweep *s, __u32 slot)
{
	struct flow *f = flow_at(slot);
	__u32 state;

	if (!s || !f)
		return 0;
	state = FLOW_STATE(f);
	if ((state & FLOW_STATE_MASK) == SLOT_LIVE)
		sweep_live(s, f, slot, state);
	else if ((state & FLOW_STATE_MASK) == SLOT_DEAD)
		sweep_dead(s, f, slot, state);
	return 0;
}

/* A slice under way. */
struct slice {
	struct sweep sweep; /* count: slots visited so far */
	__u32 end;          /* slot behind the last */
};

/* Which of the next slots are in use, as bits, and a load from the twin of each that is going to be
 * asked for its twin. Twins are anywhere in the table; one after the other these waits were a third of
 * a sweep, together they are one. (A load whose value nobody uses: see recent.h.) A function of its
 * own, so that the verifier does not go on with every combination of bits.
 */
SLOW __u32 sweep_look(__u32 slot, __u32 now)
{
	__u32 used = 0;

	for (int i = 0; i < SWEEP_TOGETHER; i++) {
		struct flow *f = flow_at(slot + i), *twin;
		__u32 state;

		if (!f)
			break;
		state = FLOW_READ(f->state) & FLOW_STATE_MASK;
		used |= ((state | state >> 1) & 1) << i; /* FREE is 0 */
		if (state != SLOT_LIVE || flow_age(now, FLOW_READ(f->stamp)) <= ORPHAN_AGE)
			continue;
		twin = flow_at(FLOW_READ(f->twin));
		if (twin)
			(void)FLOW_READ(twin->state);
	}
	return used;
}

/* Some slots, the callback of bpf_loop. Nothing else runs on a CPU while it sweeps (unless the kernel
 * preempts itself), so a slice ends by the clock: what a slot costs depends on what is in it.
 */
static long sweep_slots(__u32 n, struct slice *slice)
{
	__u32 done = n * SWEEP_TOGETHER, slot = slice->sweep.first + done, used;
	struct sweep *s = &slice->sweep;

	if (n && done % SWEEP_STRIDE == 0 && bpf_ktime_get_ns() >= s->until)
		return 1;
	used = sweep_look(slot, s->now);
	for (int i = 0; i < SWEEP_TOGETHER && slot + i < slice->end; i++) {
		s->count++;
		if (used >> i & 1)
			sweep_slot(s, slot + i);
	}
	return 0;
}

#endif
