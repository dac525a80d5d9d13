/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Opening a flow: backend, NAT IP, port, both entries, reverse half first. Nothing here touches a
 * packet, so it is one global function, verified once for both hooks.
 */
#ifndef PRIVLINK_OPEN_H
#define PRIVLINK_OPEN_H

#include "balance.h"
#include "recent.h"
#include "rewrite.h"
#include "track.h"

/* Ports tried when the reverse entry of a reserved one cannot be inserted. */
#define PORT_TRIES 4

/* In and out of flow_open; too large for a stack. What admit() found out is most of it. */
struct opening {
	struct flow_key key; /* in: as the packet arrived */
	union via client;    /* in: via.reverse: where replies go */
	__u32 link;          /* in: slot */
	__u32 nat;           /* in: slot of the NAT set */
	__u32 backend;       /* in: slot */
	__u32 now;           /* in */
	__u32 max_flows;     /* in: of the link; not asked with FLOW_INNER */
	__u16 link_gen;      /* in */
	__u16 flags;         /* in: FLOW_INNER, FLOW_HA */
	__be16 backend_port; /* in */
	__u16 client_hash;   /* in */
	struct path path;    /* to the backend; not asked by flow_open */
	__u32 slot;          /* out: of the forward half */
	__u32 state;
	__u32 stamp;
	struct rewrite rw;         /* out: of the forward half */
	struct flow_insert insert; /* scratch */
	struct domain_key domain;  /* scratch */
	__u32 cursor;              /* scratch: of the domain, before the first try */
	__s32 bit;                 /* scratch: the port, in the domain */
	union tag tag;             /* scratch: of the forward half */
	__u32 reason;              /* scratch: why there is no port */
};

/* o->domain is the one until `used` of its ports are in use, or another one drains. */
static __always_inline void nat_remember(const struct opening *o, const struct natset *set,
                                         struct recent_nat *recent, __u32 refills, __u32 used)
{
	recent->domain = o->domain;
	recent->set = o->nat;
	recent->ident = set->ident;
	recent->refills = refills;
	recent->used = used;
}

/* The NAT IP whose port the next flow takes, into o->domain: they fill in order, the next one opens
 * when the open ones are half full, and then the first that has a port left. NULL and o->reason if
 * none has. Which one it was is remembered until it is too full, or until any has drained.
 */
static __always_inline struct domain *nat_choose(struct opening *o)
{
	struct natset *set = natset_at(o->nat);
	__u32 resting = 0, missing = 0, refills = refills_count();
	struct recent_nat *recent = recent_nat(&o->domain);
	__be32 first = 0;

	o->reason = REASON_PORTS;
	if (!set || !recent)
		return NULL;
	if (recent->set == o->nat && recent->ident == (__u32)set->ident &&
	    recent->refills == refills && recent->domain.backend == o->domain.backend &&
	    recent->domain.port == o->domain.port && recent->domain.vnet == o->domain.vnet &&
	    recent->domain.proto == o->domain.proto) {
		struct domain *d = domain_find(&recent->domain);

		if (d && d->used < recent->used) {
			o->domain.nat = recent->domain.nat;
			return d;
		}
	}
	for (int i = 0; i < MAX_NAT_IPS; i++) {
		struct domain *d;
		__u32 used;

		if (i >= set->count)
			break;
		o->domain.nat = set->addr[i];
		d = domain_find(&o->domain);
		if (!d && domain_make(&o->domain))
			d = domain_find(&o->domain);
		if (!d) {
			missing++;
			continue;
		}
		used = d->used;
		if (used < PORT_COUNT / 2 && !MUTANT(9)) {
			if (!missing)
				nat_remember(o, set, recent, refills, PORT_COUNT / 2);
			return d;
		}
		if (used < PORT_COUNT && !first)
			first = o->domain.nat;
		resting += d->resting;
	}
	if (!first) {
		o->reason = missing   ? REASON_DOMAINS
		            : resting ? REASON_PORTS_RESTING
		                      : REASON_PORTS;
		return NULL;
	}
	o->domain.nat = first;
	if (!missing)
		nat_remember(o, set, recent, refills, PORT_COUNT);
	return domain_find(&o->domain);
}

/* A port, and the reverse half that proves it. An enum flow_inserted; FLOW_FULL with o->reason when
 * there is no port at all.
 */
SLOW int reverse_insert(struct opening *o)
{
	struct flow_insert *in;
	struct domain *d;
	struct table *t;
	__s32 bit;
	int r;

	if (!o)
		return FLOW_FULL;
	in = &o->insert;
	d = nat_choose(o);
	if (!d)
		return FLOW_FULL;
	o->reason = REASON_NONE;
	if (o->bit < 0)
		o->cursor = d->cursor;
	bit = port_take(d);
	if (bit < 0)
		return FLOW_RESTING;
	t = table_only();
	if (t && d->used > PORT_COUNT / 10 * 9)
		t->wanted_sweep = 1;
	in->key.saddr = o->domain.backend;
	in->key.daddr = o->domain.nat;
	in->key.sport = o->backend_port;
	in->key.dport = bpf_htons(port_of_bit(bit));
	in->key.vnet = o->domain.vnet;
	in->key.proto = o->key.proto;
	in->key.kind = KIND_FLOW;
	in->rw.saddr = o->key.daddr;
	in->rw.daddr = o->key.saddr;
	in->rw.sport = o->key.dport;
	in->rw.dport = o->key.sport;
	in->rw.l3_delta = delta_add(delta32(o->domain.backend, o->key.daddr),
	                            delta32(o->domain.nat, o->key.saddr));
	in->rw.l4_delta = delta_add(delta16(in->key.sport, o->key.dport),
	                            delta16(in->key.dport, o->key.sport));
	in->rw.via = o->client;
	in->rw.tag = o->tag;
	in->rw.tag.of.flags |= FLOW_REVERSE;
	in->twin = NO_SLOT;
	in->now = o->now;
	in->rest = PORT_REST;
	in->wait = 1;
	in->revived = 0;
	o->bit = bit;
	recent_expect(o->backend, &in->key, d);
	r = flow_insert(in);
	/* An entry that is there although its bit was not set belongs to another domain: the backend
	 * was given HA ports, or lost them, while it lived. The cursor has moved on.
	 */
	if (r != FLOW_NEW)
		port_release(d, bit);
	return r;
}

/* An opening that failed leaves no trace: TC opens alike what XDP could not, and no port rests for
 * nothing. The next opening looks at the same ports again.
 */
SLOW int port_return(struct opening *o)
{
	struct domain *d;

	if (!o)
		return 0;
	d = domain_find(&o->domain);
	if (!d)
		return 0;
	if (o->bit >= 0)
		port_release(d, o->bit);
	d->cursor = o->cursor;
	return 0;
}

static __always_inline void usage_return(const union tag *tag)
{
	struct table *t = table_only();
	struct usage *u = usage_at(tag->of.link);

	if (t)
		__sync_fetch_and_sub(&t->pairs, 1);
	if (u && !(tag->of.flags & FLOW_INNER))
		__sync_fetch_and_sub(&u->pairs, 1);
}

volatile const __u32 max_pairs = 8;

/* Counts the pair, or says why it may not be opened. Exact: takes first, gives back if too many. */
static __always_inline __u32 usage_take(const struct opening *o)
{
	struct table *t = table_only();
	struct usage *u = usage_at(o->link);

	if (!t || !u)
		return REASON_TABLE_FULL;
	if (__sync_fetch_and_add(&t->pairs, 1) >= max_pairs) {
		__sync_fetch_and_sub(&t->pairs, 1);
		return REASON_TABLE_FULL;
	}
	if (o->flags & FLOW_INNER)
		return 0;
	if (__sync_fetch_and_add(&u->pairs, 1) >= o->max_flows && !MUTANT(10)) {
		__sync_fetch_and_sub(&u->pairs, 1);
		__sync_fetch_and_sub(&t->pairs, 1);
		return REASON_QUOTA;
	}
	return 0;
}

/* Opens o->key, or finds that another CPU just did. An enum reason. */
SLOW int flow_open(struct opening *o)
{
	struct flow_insert *in;
	struct backend *b;
	struct flow *f;
	__u32 reverse, reverse_state;
	union tag revived;
	int r = FLOW_FULL, reason;

	if (!o)
		return REASON_HELPER;
	in = &o->insert;
	b = backend_at(o->backend);
	if (!b)
		return REASON_NO_BACKEND;
	o->tag.of.link = o->link;
	o->tag.of.link_gen = o->link_gen;
	o->tag.of.flags =
		o->flags | (o->key.proto == IPPROTO_TCP ? FLOW_TCP | PHASE_SYN : PHASE_OPEN);
	reason = usage_take(o);
	if (reason)
		return reason;
	o->domain.backend = b->addr;
	o->domain.port = o->flags & FLOW_HA ? 0 : o->backend_port;
	o->domain.vnet = b->vnet;
	o->domain.proto = o->key.proto;
	o->bit = -1;
	for (int i = 0; i < PORT_TRIES; i++) {
		r = reverse_insert(o);
		if (r == FLOW_NEW || o->reason)
			break;
	}
	if (r != FLOW_NEW) {
		usage_return(&o->tag);
		if (o->bit >= 0) {
			o->bit = -1; /* given back already */
			port_return(o);
		}
		if (o->reason)
			return o->reason;
		return r == FLOW_FULL     ? REASON_WINDOW_FULL
		       : r == FLOW_LOCKED ? REASON_TABLE_BUSY
		                          : REASON_PORTS;
	}
	if (in->revived) {
		/* of another domain, see reverse_insert: here the bit would still have been set */
		revived.word = in->revived_tag;
		usage_return(&revived);
		if ((revived.of.flags ^ o->flags) & FLOW_HA)
			port_rested(&in->key, revived.of.flags);
	}
	reverse = in->slot;
	reverse_state = in->state;
	f = flow_at(reverse);
	if (!f)
		return REASON_HELPER;
	o->rw.saddr = o->domain.nat;
	o->rw.daddr = o->domain.backend;
	o->rw.sport = in->key.dport;
	o->rw.dport = o->backend_port;
	o->rw.l3_delta = delta_add(delta32(o->key.saddr, o->domain.nat),
	                           delta32(o->key.daddr, o->domain.backend));
	o->rw.l4_delta = delta_add(delta16(o->key.sport, in->key.dport),
	                           delta16(o->key.dport, o->backend_port));
	o->rw.via.forward.backend = o->backend;
	o->rw.via.forward.backend_gen = b->gen;
	o->rw.via.forward.client = o->client_hash;
	o->rw.tag = o->tag;
	in->key = o->key;
	in->rw = o->rw;
	in->twin = reverse;
	in->rest = 0;
	in->wait = 0;
	in->revived = 0;
	r = flow_insert(in);
	if (r != FLOW_NEW) {
		/* it carried no packet: its port need not rest */
		if (flow_end(f, reverse_state, o->now - PORT_REST) &&
		    flow_free(f, reverse, reverse_state ^ SLOT_LIVE ^ SLOT_DEAD)) {
			usage_return(&o->tag);
			port_return(o);
		}
		if (r != FLOW_EXISTS)
			return r == FLOW_FULL ? REASON_WINDOW_FULL : REASON_TABLE_BUSY;
		o->rw = in->rw;
	} else if (!MUTANT(11)) {
		flow_link(f, reverse_state, in->slot);
	}
	o->slot = in->slot;
	o->state = in->state;
	o->stamp = r == FLOW_EXISTS ? in->stamp : o->now;
	return REASON_NONE;
}

#endif
