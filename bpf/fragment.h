/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * IPv4 fragments (RFC 791 3.2, RFC 5508, RFC 4787 req. 14). TC only.
 *
 * A first fragment has ports and goes the way of its flow; a KIND_FRAGMENT entry remembers that
 * way for the others. Behind one NAT IP two tenants' equal ids would be reassembled into one
 * datagram, so every fragmented datagram gets an id that is unique per (source, destination,
 * protocol) on the outgoing side, in both directions: a KIND_IPID entry holds it. It is the
 * packet's own id if that is free, else the next of IPID_TRIES steps.
 *
 * An id is free again when its datagram went through whole: in order, without gap or overlap, to
 * the last fragment. Any other is held for IDLE_FRAGMENT seconds after the last of its fragments
 * that left, so that what somebody leaves lying at the receiver never meets another tenant's. How
 * far a datagram has come stands in the generation and flags of the IPID entry's tag (in units of
 * 8 bytes), changed by compare-and-swap with the link as its owner.
 */
#ifndef PRIVLINK_FRAGMENT_H
#define PRIVLINK_FRAGMENT_H

#include "open.h"
#include "rewrite.h"

#define IPID_TRIES  16
#define IPID_STEP   0x9e37
#define IPID_BROKEN 0xffff /* in place of the units: out of order, no early end */

/* Bytes of a fragment's payload; 0 if the fragment is malformed (RFC 1858, RFC 3128). */
static __always_inline __u32 fragment_bytes(const struct packet *p)
{
	__u32 bytes = p->length - p->header, offset = (p->fragment & FRAGMENT_OFFSET) * 8;

	if (offset + bytes + p->header > 65535)
		return 0;
	if (p->fragment & FRAGMENT_MORE && bytes & 7)
		return 0;
	if (offset && p->key.proto == IPPROTO_TCP && offset < sizeof(struct tcphdr))
		return 0;
	return bytes;
}

static __always_inline void fragment_key(struct flow_key *key, __be32 saddr, __be32 daddr,
                                         __be16 id, __u16 vnet, __u8 proto, __u8 kind)
{
	key->saddr = saddr;
	key->daddr = daddr;
	key->sport = id;
	key->dport = 0;
	key->vnet = vnet;
	key->proto = proto;
	key->kind = kind;
}

/* One incomplete datagram more, or false if the link or the table holds too many. */
static __always_inline bool fragments_take(__u32 link)
{
	struct usage *u = usage_at(link);
	struct table *t = table_only();

	if (!u || !t)
		return false;
	if (__sync_fetch_and_add(&u->fragments, 1) < MAX_FRAGMENTS) {
		if (__sync_fetch_and_add(&t->fragments, 1) < max_pairs / 4)
			return true;
		__sync_fetch_and_sub(&t->fragments, 1);
	}
	__sync_fetch_and_sub(&u->fragments, 1);
	return false;
}

static __always_inline void fragments_return(__u32 link)
{
	struct usage *u = usage_at(link);
	struct table *t = table_only();

	if (!u || !t)
		return;
	__sync_fetch_and_sub(&u->fragments, 1);
	__sync_fetch_and_sub(&t->fragments, 1);
}

/* The live IPID entry in `slot`, if it holds the id that `rw` gives a datagram; else NULL. */
static __always_inline struct flow *fragment_id(__u32 slot, const struct rewrite *rw, __u32 *state)
{
	struct flow *f = flow_at(slot);

	if (!f)
		return NULL;
	*state = FLOW_STATE(f);
	if ((*state & FLOW_STATE_MASK) != SLOT_LIVE || f->key.kind != KIND_IPID ||
	    f->key.saddr != rw->saddr || f->key.daddr != rw->daddr || f->key.sport != rw->sport)
		return NULL;
	return flow_same(f, *state) ? f : NULL;
}

/* Advances the datagram whose id stands in `slot`; its fragment is about to leave, so a receiver may
 * keep what has that id for as long as the hold from now on. True when it went through whole: the hold
 * is over, and the caller ends the KIND_FRAGMENT entry as well.
 */
static __always_inline bool fragment_progress(__u32 slot, const struct rewrite *rw, __u32 offset,
                                              __u32 bytes, bool last, __u32 now)
{
	union tag old, new;
	struct flow *f;
	__u32 state;

	f = fragment_id(slot, rw, &state);
	if (!f)
		return false;
	if (!MUTANT(38))
		FLOW_READ(f->stamp) = now;
	old.word = FLOW_READ(f->rw.tag.word);
	if (old.of.link != rw->tag.of.link || old.of.link_gen == IPID_BROKEN)
		return false;
	new = old;
	new.of.link_gen = old.of.link_gen == offset / 8 ? (offset + bytes + 7) / 8 : IPID_BROKEN;
	if (__sync_val_compare_and_swap(&f->rw.tag.word, old.word, new.word) != old.word)
		return false;
	if (!last || new.of.link_gen == IPID_BROKEN || !flow_end(f, state, now - PORT_REST))
		return false;
	fragments_return(rw->tag.of.link);
	return true;
}

/* In and out of fragment_open. Clear it whole first. */
struct fragment_opening {
	struct flow_key key;       /* in: KIND_FRAGMENT, as the datagram arrives */
	struct rewrite rw;         /* in: its flow's; out: sport = the new id */
	__u16 vnet;                /* in: where it leaves to */
	__be16 id;                 /* in */
	__u32 now;                 /* in */
	__u32 twin;                /* out: slot of the IPID entry */
	struct flow_insert insert; /* scratch */
};

/* What does not fit on the stack. A packet program is not interrupted by another one on its CPU:
 * both hooks run with softirqs off. The sweep, in process context, uses none of it.
 */
struct scratch {
	struct opening opening;
	struct fragment_opening fragment;
};

PERCPU(scratch_v1, 1, struct scratch);

static __always_inline struct scratch *scratch_own(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch_v1, &zero);
}

/* Inserts an IP id that the programs of before have not given either. A function of its own, or 6.1 does
 * not like what clang makes of the loop around it.
 */
SLOW int ipid_insert(struct flow_insert *in)
{
	if (!in)
		return FLOW_FULL;
	if (migrating && old_holds(&in->key))
		return FLOW_EXISTS;
	return flow_insert(in);
}

/* Finds or makes the entries of a datagram whose first fragment passes. An enum reason. */
SLOW int fragment_open(struct fragment_opening *o)
{
	struct flow_insert *in;
	int r = FLOW_FULL;

	if (!o)
		return REASON_HELPER;
	in = &o->insert;
	in->rest = 0;
	in->wait = 0;
	in->revived = 0;
	if (!fragments_take(o->rw.tag.of.link))
		return REASON_FRAGMENT_IDS;
	in->now = o->now;
	for (int i = 0; i < IPID_TRIES; i++) {
		__u16 id = bpf_ntohs(o->id) + i * IPID_STEP;

		fragment_key(&in->key, o->rw.saddr, o->rw.daddr, bpf_htons(id), o->vnet,
		             o->key.proto, KIND_IPID);
		in->rw = o->rw;
		in->rw.tag.of.link_gen = 0;
		in->rw.tag.of.flags = 0;
		in->twin = NO_SLOT;
		r = ipid_insert(in);
		if (r != FLOW_EXISTS || MUTANT(17))
			break;
	}
	if (r != FLOW_NEW && !MUTANT(17)) {
		fragments_return(o->rw.tag.of.link);
		return r == FLOW_FULL     ? REASON_WINDOW_FULL
		       : r == FLOW_LOCKED ? REASON_TABLE_BUSY
		                          : REASON_FRAGMENT_IDS;
	}
	o->twin = in->slot;
	o->rw.sport = in->key.sport;
	o->rw.dport = 0;
	in->key = o->key;
	in->rw = o->rw;
	in->twin = o->twin;
	r = flow_insert(in);
	if (r == FLOW_EXISTS) {
		/* the same first fragment at the same time on another CPU: its id holds */
		o->rw.sport = in->rw.sport;
		return REASON_NONE;
	}
	return r == FLOW_NEW      ? REASON_NONE
	       : r == FLOW_LOCKED ? REASON_TABLE_BUSY
	                          : REASON_WINDOW_FULL;
}

/* Does a fragment entry belong to this flow? Other ports may mean another backend or NAT IP. */
static __always_inline bool fragment_of(const struct rewrite *fragment, const struct rewrite *flow)
{
	return fragment->saddr == flow->saddr && fragment->daddr == flow->daddr &&
	       fragment->tag.of.link == flow->tag.of.link &&
	       fragment->tag.of.link_gen == flow->tag.of.link_gen &&
	       !((fragment->tag.of.flags ^ flow->tag.of.flags) & FLOW_REVERSE);
}

/* The new id of a datagram whose first fragment is about to leave, or an enum reason. `h` is the
 * half of its flow, `vnet` where it leaves to.
 */
SLOW int fragment_first(hook *ctx, struct packet *p, struct half *h, __u16 vnet, __be16 *id)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct scratch *scratch = scratch_own();
	struct iphdr *ip = data + L3;
	struct fragment_opening *o;
	struct half old = {};
	struct flow *f;
	__u32 state;
	int r;

	if (!p || !h || !id || !scratch || (void *)(ip + 1) > end)
		return REASON_SHORT;
	o = &scratch->fragment;
	fragment_key(&o->key, p->key.saddr, p->key.daddr, ip->id, p->key.vnet, p->key.proto,
	             KIND_FRAGMENT);
	f = half_find(&o->key, &old);
	if (f && flow_age(p->now, old.stamp) <= IDLE_FRAGMENT && fragment_of(&old.rw, &h->rw) &&
	    fragment_id(FLOW_READ(f->twin), &old.rw, &state)) {
		*id = old.rw.sport; /* sent again */
		fragment_progress(FLOW_READ(f->twin), &old.rw, 0, p->length - p->header, false,
		                  p->now);
		return REASON_NONE;
	}
	if (f)
		flow_end(f, old.state, p->now - PORT_REST);
	o->rw = h->rw;
	o->vnet = vnet;
	o->id = ip->id;
	o->now = p->now;
	r = fragment_open(o);
	if (r)
		return r;
	*id = o->rw.sport;
	fragment_progress(o->twin, &o->rw, 0, p->length - p->header, false, p->now);
	return REASON_NONE;
}

/* Copies what the table of before knows of a fragment's datagram; called first of all, where there is
 * stack enough.
 */
SLOW int fragment_migrate(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct iphdr *ip = data + L3;
	struct flow_key key;

	if (!migrating || !p || (void *)(ip + 1) > end)
		return 0;
	fragment_key(&key, p->key.saddr, p->key.daddr, ip->id, p->key.vnet, p->key.proto,
	             KIND_FRAGMENT);
	return migrate_key(&key, p->now);
}

/* Finds what the first fragment left behind. GO_ON with `h`, or a drop. */
static __always_inline int fragment_later(hook *ctx, struct packet *p, struct half *h,
                                          struct flow **f)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct iphdr *ip = data + L3;
	struct flow_key key;

	if ((void *)(ip + 1) > end)
		return DROP(SHORT);
	fragment_key(&key, p->key.saddr, p->key.daddr, ip->id, p->key.vnet, p->key.proto,
	             KIND_FRAGMENT);
	*f = half_find(&key, h);
	if (!*f || flow_age(p->now, h->stamp) > IDLE_FRAGMENT)
		return DROP(FRAGMENT_ORPHAN);
	return GO_ON;
}

#endif
