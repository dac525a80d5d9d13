/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The sweep: what packets leave to time. It visits the table in slices of a millisecond, takes no
 * lock and may stop anywhere; packets treat an idle pair as absent whether or not it came by. It
 * runs in process context and uses no memory of the packet programs but the tables.
 *
 *	live, idle		both halves DEAD, or marked ended if both ends are owed a RST
 *	live, link or backend gone	marked ended (TCP) or DEAD (UDP)
 *	DEAD, rested		entry freed, then the port's bit; with the end of the slice the quota
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

/* Ports that began to rest, not yet counted at their domain. In the object's own memory, so one sweep
 * at a time; what two would lose is a count, never a port.
 */
#define RESTS 64 /* eight NAT IPs, eight backends, if their last octets follow each other */

static struct rest {
	struct domain_key domain;
	__u32 ports;
} rests[RESTS];

static __always_inline struct rest *rest_at(__u32 place)
{
	/* masked where it is used: 6.1 forgets the bounds of a number that was on the stack */
	asm volatile("" : "+r"(place));
	return &rests[place & (RESTS - 1)];
}

SLOW int rest_count(__u32 place)
{
	struct rest *rest = rest_at(place);
	struct domain *d;

	if (!rest->ports)
		return 0;
	d = domain_find(&rest->domain);
	if (d)
		__sync_fetch_and_add(&d->resting, rest->ports);
	rest->ports = 0;
	return 0;
}

/* The reverse half of a pair that went idle: LIVE to DEAD. Its domain is not looked up for each. */
static __always_inline void sweep_end_reverse(struct flow *f, __u32 state, __u32 now)
{
	struct domain_key domain = domain_name(&f->key, FLOW_READ(f->rw.tag.of.flags));
	__u32 place = (domain.nat >> 24 & 7) | (domain.backend >> 24 & 7) << 3;
	flow_word *name = (flow_word *)&domain, *there;
	struct rest *rest;

	if (!flow_end(f, state, now))
		return;
	there = (flow_word *)&rest_at(place)->domain;
	if (there[0] != name[0] || there[1] != name[1])
		rest_count(place);
	rest = rest_at(place);
	rest->domain = domain;
	rest->ports++;
}

/* What the slice found for others: quotas get back what it freed, domains learn what rests. Together, as each
 * is a line that packets on other CPUs write, and a domain a look-up.
 */
static __always_inline void slice_settle(struct slice *slice)
{
	struct table *t = table_only();

	for (int i = 0; i < RESTS; i++)
		rest_count(i);

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
	port_rested(&key, tag.of.flags);
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
