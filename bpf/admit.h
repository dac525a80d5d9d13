/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A packet without a flow: to what would it go, and may it? Fills in a struct opening; changes
 * nothing.
 */
#ifndef PRIVLINK_ADMIT_H
#define PRIVLINK_ADMIT_H

#include "address.h"
#include "fragment.h"
#include "parse.h"
#include "path.h"

/* Where the client of this packet is, as the reverse half holds it. */
static __always_inline union via client_via(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct ethhdr *eth = data;
	union via via = {};

	if ((void *)(eth + 1) > end)
		return via;
	/* in one load with the EtherType, which makes room for the slot */
	via.word = (load64(eth->h_source) & 0xffffffffffff) | (__u64)p->in << 48;
	return via;
}

static __always_inline __u16 client_hash(union via via)
{
	__u64 word = via.word ^ via.word >> 32;

	return word ^ word >> 16;
}

static __always_inline struct rule *rule_find(__u32 service, __be16 port, __u8 proto, __u32 *slot)
{
	struct rule_key key = {.service = service, .port = port, .proto = proto};
	struct rule_ref *ref = bpf_map_lookup_elem(&ruleidx_v1, &key);

	if (!ref)
		return NULL;
	*slot = *(volatile __u32 *)&ref->rule;
	flow_barrier();
	if (*(volatile __u64 *)&ref->key != *(__u64 *)&key)
		return NULL;
	return bpf_map_lookup_elem(&rules_v1, slot);
}

/* Out of the inner VNet goes only what the daemon announced. */
static __always_inline int admit_dial(struct packet *p, struct opening *o)
{
	struct dial_key key = {.addr = p->key.saddr, .port = p->key.sport, .proto = p->key.proto};
	struct dial *d = bpf_map_lookup_elem(&dials_v1, &key);
	struct backend *b;
	struct link *link;
	__u16 gen;

	if (!d)
		return DROP(NO_DIAL);
	o->link = d->link;
	o->link_gen = d->link_gen;
	o->nat = d->nat;
	o->backend = d->backend;
	o->backend_port = d->dport;
	gen = d->backend_gen;
	flow_barrier();
	if (*(volatile __u64 *)&d->key != *(__u64 *)&key)
		return DROP(NO_DIAL);
	o->flags = FLOW_INNER;
	p->link = o->link;
	link = link_at(o->link);
	if (!link || !link_carries(link, o->link_gen))
		return DROP(NOT_APPROVED);
	b = backend_at(o->backend);
	if (!b || b->gen != gen)
		return refuse(p, REASON_NO_BACKEND, WANT_RST);
	return GO_ON;
}

/* Through a link: approved, a rule, a backend. */
static __always_inline int admit_link(struct packet *p, struct opening *o)
{
	struct link *link = link_at(p->link);
	struct rule *rule;
	__u32 word, slot = 0;

	if (!link)
		return DROP(NOT_APPROVED);
	word = *(volatile __u32 *)&link->gen;
	if ((word >> 16 & 0xff) != LINK_APPROVED && !MUTANT(20))
		return DROP(NOT_APPROVED);
	rule = rule_find(link->service, p->key.dport, p->key.proto, &slot);
	if (!rule) /* TCP of a PROXY rule for every port */
		rule = rule_find(link->service, 0, p->key.proto, &slot);
	if (!rule)
		rule = rule_find(link->service, 0, 0, &slot);
	if (!rule)
		return refuse(p, REASON_NO_RULE, WANT_RST);
	if (p->key.proto == IPPROTO_TCP && !is_opener(p))
		return refuse(p, REASON_NO_FLOW, WANT_RST);
	o->link = p->link;
	o->link_gen = word;
	o->nat = rule->nat;
	o->backend_port = rule->backend_port ?: p->key.dport;
	o->flags = 0;
	o->max_flows = link->max_flows;
	o->backend = balance(slot, balance_hash(&p->key, link->link_id, rule->distribution));
	return GO_ON;
}

/* Counts a flow that was asked for and not opened. */
static __always_inline int admit_refuse(struct packet *p, __u32 reason)
{
	int decision = refuse(p, reason, WANT_RST);
	struct link_stats *stats = stats_at(p->link);

	if (IS_XDP && decision >> 16 != ACTION_DROP)
		return UP; /* TC counts it */
	if (stats)
		stats->refused++;
	return decision;
}

SLOW int admit(hook *ctx, struct packet *p)
{
	struct scratch *scratch = scratch_own();
	struct opening *o;
	struct backend *b;
	struct meaning m;
	union via client;
	int r;

	if (!p || !scratch)
		return DROP(HELPER);
	o = &scratch->opening;
	m = address_find(p->key.vnet, p->key.daddr);
	p->link = m.link;
	if ((!m.kind || m.kind == ADDR_GATEWAY) && !(p->flags & IFACE_INNER))
		return OTHER(OTHER_IPV4);
	if (p->bad)
		return DECIDE(ACTION_DROP, p->bad);
	if (is_martian(&p->key))
		return DROP(MARTIAN);
	if (m.kind == ADDR_NAT) {
		/* a backend opens nothing: its SYN gets nothing, other segments a RST */
		if (is_opener(p))
			return DROP(NAT_NO_FLOW);
		return refuse(p, REASON_NAT_NO_FLOW, WANT_RST);
	}
	if (p->flags & IFACE_INNER) {
		if (p->key.proto == IPPROTO_TCP && !is_opener(p))
			return refuse(p, REASON_NO_FLOW, WANT_RST);
		r = admit_dial(p, o);
	} else {
		r = admit_link(p, o);
	}
	if (r)
		return r;
	b = backend_at(o->backend);
	if (!o->backend || !b)
		return admit_refuse(p, REASON_NO_BACKEND);
	if (b->flags & BACKEND_HA)
		o->flags |= FLOW_HA;
	path_take(&o->path, &b->hop);
	client = client_via(ctx, p);
	o->key = p->key;
	o->now = p->now;
	o->client = client;
	o->client_hash = client_hash(client);
	return path_check(p, &o->path);
}

#endif
