/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The sweep: what packets leave to time. It visits the table in slices of a millisecond, takes no
 * lock and may stop anywhere; packets treat an idle pair as absent whether or not it came by. It
 * runs in process context and uses no memory of the packet programs but the tables.
 *
 *	live, idle		both halves DEAD, or marked ended if both ends are owed a RST; by
 *				whichever half comes first
 *	live, link or backend gone	marked ended (TCP) or DEAD (UDP)
 *	DEAD, rested		entry freed; at the latest with the end of the slice the port's bit
 *				and the quota
 */
#ifndef PRIVLINK_SWEEP_H
#define PRIVLINK_SWEEP_H

#include "fragment.h"
#include "track.h"

/* Seconds a DEAD half without a port stands: longer than anybody holds its slot. */
#define GRACE 2

/* Slots whose twins are asked for at once: as many as a CPU can look at while it waits for the first. */
#define SWEEP_TOGETHER 16

/* A slice under way. */
struct slice {
	struct sweep sweep; /* count: slots visited so far */
	__u32 end;          /* slot behind the last */
	__u32 pairs;        /* to be given back to the table, */
	__u32 link;         /* and to this link: */
	__u32 link_pairs;
};

static __always_inline void slice_return_link(struct slice *slice)
{
	struct usage *u = usage_at(slice->link);

	if (u && slice->link_pairs)
		__sync_fetch_and_sub(&u->pairs, slice->link_pairs);
	slice->link_pairs = 0;
}

/* Ports that began to rest and ports that have rested, not yet told to their domain: a domain is a look-up,
 * and a line that packets write. In the object's own memory, so one sweep at a time (sweep_slice).
 */
#define RESTS      64 /* eight NAT IPs, eight backends, if their last octets follow each other */
#define REST_PORTS 32

static struct rest {
	struct domain_key domain;
	__u32 began;
	__u32 over;
	__u16 bit[REST_PORTS]; /* of those that are over */
} rests[RESTS];

static __u32 sweeping; /* 1 = a slice is under way */

static __always_inline struct rest *rest_at(__u32 place)
{
	/* masked where it is used: 6.1 forgets the bounds of a number that was on the stack */
	asm volatile("" : "+r"(place));
	return &rests[place & (RESTS - 1)];
}

/* A function of its own, so that the verifier does not go on with each of its ends. */
SLOW __u32 rest_clear(struct domain *d, __u32 bit)
{
	return d ? port_clear(d, bit) : 0;
}

SLOW int rest_settle(__u32 place)
{
	struct rest *rest = rest_at(place);
	__u32 cleared = 0;
	struct domain *d;

	if (!rest->began && !rest->over)
		return 0;
	d = domain_find(&rest->domain);
	if (d) {
		for (__u32 i = 0; i < REST_PORTS && i < rest->over; i++)
			cleared += rest_clear(d, rest->bit[i]);
		__sync_fetch_and_add(&d->resting, rest->began - rest->over);
		port_uncount(d, cleared);
	}
	rest->began = 0;
	rest->over = 0;
	return 0;
}

/* Where the ports of a domain are collected. */
static __always_inline struct rest *rest_of(struct domain_key domain)
{
	__u32 place = (domain.nat >> 24 & 7) | (domain.backend >> 24 & 7) << 3;
	flow_word *name = (flow_word *)&domain, *there;
	struct rest *rest = rest_at(place);

	there = (flow_word *)&rest->domain;
	if (there[0] != name[0] || there[1] != name[1] || rest->over >= REST_PORTS) {
		rest_settle(place);
		rest = rest_at(place);
		rest->domain = domain;
	}
	return rest;
}

/* The reverse half of a pair that went idle: LIVE to DEAD. */
static __always_inline void sweep_end_reverse(struct flow *f, __u32 state, __u32 now)
{
	struct domain_key domain = domain_name(&f->key, FLOW_READ(f->rw.tag.of.flags));

	if (flow_end(f, state, now))
		rest_of(domain)->began++;
}

/* The port of a reverse half that was freed. */
static __always_inline void sweep_rested(const struct flow_key *reverse, __u16 flags)
{
	struct rest *rest = rest_of(domain_name(reverse, flags));
	__u32 n = rest->over;

	rest->bit[n & (REST_PORTS - 1)] = bit_of_port(bpf_ntohs(reverse->dport));
	rest->over = n + 1;
}

/* What the slice found for others: quotas get back what it freed, domains their ports. Together, as each is a
 * line that packets on other CPUs write.
 */
static __always_inline void slice_settle(struct slice *slice)
{
	struct table *t = table_only();

	for (int i = 0; i < RESTS; i++)
		rest_settle(i);

	if (t && slice->pairs)
		__sync_fetch_and_sub(&t->pairs, slice->pairs);
	slice->pairs = 0;
	slice_return_link(slice);
}

static __always_inline void slice_keep(struct slice *slice, const struct flow_tag *tag)
{
	slice->pairs++;
	if (tag->flags & FLOW_INNER)
		return;
	if (tag->link != slice->link) {
		slice_return_link(slice);
		slice->link = tag->link;
	}
	slice->link_pairs++;
}

static __always_inline void sweep_dead(struct slice *slice, struct flow *f, __u32 slot, __u32 state)
{
	/* of the entry that has this state, if flow_free finds it still there */
	union tag tag = {.word = FLOW_READ(f->rw.tag.word)};
	struct flow_key key = f->key;
	struct sweep *s = &slice->sweep;
	bool port = key.kind == KIND_FLOW && tag.of.flags & FLOW_REVERSE;

	s->dead++;
	if (flow_age(s->now, FLOW_READ(f->stamp)) < (port && !MUTANT(25) ? PORT_REST : GRACE))
		return;
	if (!flow_free(f, slot, state))
		return;
	s->freed++;
	if (!port)
		return;
	slice_keep(slice, &tag.of);
	sweep_rested(&key, tag.of.flags);
}

static __always_inline bool sweep_gone(const struct rewrite *forward)
{
	struct link *link = link_at(forward->tag.of.link);
	struct backend *b = backend_at(forward->via.forward.backend);

	return !link || !link_carries(link, forward->tag.of.link_gen) || !b ||
	       (b->gen != forward->via.forward.backend_gen && !MUTANT(26));
}

/* The pair of a reverse half that nothing came by for long. Idle, it is ended here: its forward half, anywhere
 * in the table, need not look for its twin again. What else is to be done with a pair is done there.
 */
static __always_inline void sweep_reverse(struct sweep *s, struct flow *f, const struct half *h,
                                          struct flow *twin, __u32 twin_state, __u32 twin_stamp)
{
	__u16 flags = half_flags(h), phase = half_phase(h);
	struct rewrite forward = h->rw;
	struct backend *b;
	__s32 limit;

	/* phases are the same in both; of another owner of the slot flow_end wants to know nothing */
	forward.via.word = FLOW_READ(twin->rw.via.word);
	b = backend_at(forward.via.forward.backend);
	if (phase != PHASE_ENDED && unlikely(sweep_gone(&forward)))
		return;
	if (b && b->flags & BACKEND_TCP_RESET && flags & FLOW_TCP && phase == PHASE_OPEN)
		return;
	limit = idle_limit(&forward);
	if (flow_age(s->now, h->stamp) <= limit || flow_age(s->now, twin_stamp) <= limit)
		return;
	if (flow_end(twin, twin_state, s->now)) {
		sweep_end_reverse(f, h->state, s->now);
		s->killed++;
	}
}

static __always_inline void sweep_live(struct sweep *s, struct flow *f, __u32 slot, __u32 state)
{
	struct half h = {.slot = slot, .state = state};
	struct flow *twin;
	__u32 twin_state = 0, twin_stamp = 0, limit;
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
		/* Alone it is what an opening or a new pair left. */
		if (age <= ORPHAN_AGE || !flow_same(f, state))
			return;
		twin = half_twin(f, &h, &twin_state, &twin_stamp);
		if (twin && age > IDLE_MIN)
			sweep_reverse(s, f, &h, twin, twin_state, twin_stamp);
		else if (!twin && half_end(f, state, s->now))
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
	if (twin && flow_end(f, state, s->now)) {
		if (!MUTANT(3))
			sweep_end_reverse(twin, twin_state, s->now);
	} else {
		pair_end(&h, s->now); /* looks again: it may be linked only now */
	}
	s->killed++;
}

/* Nanoseconds a slice may take; another number in a test only. */
volatile const __u64 sweep_budget = SWEEP_BUDGET;

/* One slot; a function of its own, so that the verifier walks it once. */
SLOW int sweep_slot(struct slice *slice, __u32 slot)
{
	struct flow *f = flow_at(slot);
	__u32 state;

	if (!slice || !f)
		return 0;
	state = FLOW_STATE(f);
	if ((state & FLOW_STATE_MASK) == SLOT_LIVE)
		sweep_live(&slice->sweep, f, slot, state);
	else if ((state & FLOW_STATE_MASK) == SLOT_DEAD)
		sweep_dead(slice, f, slot, state);
	return 0;
}

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
	__u32 done = n * SWEEP_TOGETHER, slot = slice->sweep.first + done, used, slots;
	struct sweep *s = &slice->sweep;

	if (n && done % SWEEP_STRIDE == 0 && bpf_ktime_get_ns() >= s->until)
		return 1;
	if (slot >= slice->end)
		return 1;
	slots = slice->end - slot;
	if (slots > SWEEP_TOGETHER)
		slots = SWEEP_TOGETHER;
	used = sweep_look(slot, s->now) & ((1u << slots) - 1);
	for (int i = 0; i < SWEEP_TOGETHER; i++)
		if (used >> i & 1)
			sweep_slot(slice, slot + i);
	s->count += slots;
	return 0;
}

#endif
