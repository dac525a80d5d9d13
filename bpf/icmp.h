/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ICMP errors of flows (RFC 792, RFC 5508 4), in both directions, from 8 quoted L4 bytes on. The
 * packet quoted is one that left here translated; it is turned back into the one its sender sent.
 * The entry that replies to it would match knows how. TC only.
 */
#ifndef PRIVLINK_ICMP_H
#define PRIVLINK_ICMP_H

#include "address.h"
#include "answer.h"
#include "fragment.h"
#include "parse.h"
#include "track.h"

/* An IPv4 header without options and the 8 bytes behind it. */
struct quoted {
	struct iphdr ip;
	__be16 sport;
	__be16 dport;
	__u16 word[2]; /* UDP: length, checksum */
};

static __always_inline bool icmp_is_error(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB;
}

/* What one 16-bit checksum field of a quote becomes, in the packet; the change, for the sum around
 * it. A UDP checksum of 0 stays. Stores leave CHECKSUM_COMPLETE alone: the ICMP checksum makes up
 * for them.
 */
static __always_inline int quote_check(hook *ctx, const struct packet *p, __u32 at, bool udp,
                                       __u16 delta, __u16 *change)
{
	__u16 old, new;

	*change = 0;
	if (at + sizeof(old) > L3 + p->length)
		return GO_ON; /* not quoted */
	if (bpf_skb_load_bytes(ctx, at, &old, sizeof(old)))
		return DROP(HELPER);
	if (udp && !old)
		return GO_ON;
	new = check_apply(old, delta);
	if (udp && !new)
		new = 0xffff;
	*change = delta16(old, new);
	return bpf_skb_store_bytes(ctx, at, &new, sizeof(new), 0) ? DROP(HELPER) : GO_ON;
}

/* Rewrites the quote at `at` and the sums over it. */
static __always_inline int icmp_requote(hook *ctx, struct packet *p, struct quoted *q, __u32 at,
                                        __u32 header, const struct rewrite *rw)
{
	__u32 l4 = at + header;
	bool udp = q->ip.protocol == IPPROTO_UDP;
	__u16 l3_delta, ports, field, total;
	__be16 pair[2] = {rw->dport, rw->sport};
	int r;

	l3_delta = delta_add(delta32(q->ip.saddr, rw->daddr), delta32(q->ip.daddr, rw->saddr));
	ports = delta_add(delta16(q->sport, rw->dport), delta16(q->dport, rw->sport));
	q->ip.saddr = rw->daddr;
	q->ip.daddr = rw->saddr;
	q->ip.check = check_apply(q->ip.check, l3_delta);
	r = quote_check(
		ctx, p,
		l4 + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check)), udp,
		delta_add(l3_delta, ports), &field);
	if (r)
		return r;
	if (bpf_skb_store_bytes(ctx, at, &q->ip, sizeof(q->ip), 0) ||
	    bpf_skb_store_bytes(ctx, l4, pair, sizeof(pair), 0))
		return DROP(HELPER);
	/* The quoted IP header sums to what it did; ports and the L4 checksum do not. */
	total = delta_add(ports, field);
	if (!MUTANT(15) &&
	    bpf_l4_csum_replace(ctx, (p->l4 & 0x7f) + offsetof(struct icmphdr, checksum), 0, total,
	                        0))
		return DROP(HELPER);
	return GO_ON;
}

static __always_inline int icmp_error(hook *ctx, struct packet *p)
{
	__u32 at = (p->l4 & 0x7f) + sizeof(struct icmphdr), header;
	struct quoted q = {};
	struct scratch *scratch = scratch_own();
	struct half h = {};
	struct backend *b;
	struct flow *f;
	struct link *link;
	struct path *path;
	__be32 addresses[2];
	__u16 delta;
	int r;

	if (!scratch)
		return DROP(HELPER);
	path = &scratch->opening.path;
	if (bpf_skb_load_bytes(ctx, at, &q.ip, sizeof(q.ip)))
		return DROP(ICMP_SHORT);
	header = q.ip.ihl * 4;
	if (q.ip.version != 4 || header < sizeof(q.ip) || at + header + 8 > L3 + p->length ||
	    bpf_skb_load_bytes(ctx, at + header, &q.sport, 8))
		return DROP(ICMP_SHORT);
	/* a quoted later fragment has no ports; and an error goes to who sent what it quotes */
	if ((q.ip.protocol != IPPROTO_TCP && q.ip.protocol != IPPROTO_UDP) ||
	    q.ip.frag_off & bpf_htons(FRAGMENT_OFFSET) || q.ip.saddr != p->key.daddr)
		return DROP(ICMP_NO_FLOW);
	p->key.proto = q.ip.protocol;
	p->key.saddr = q.ip.daddr;
	p->key.daddr = q.ip.saddr;
	p->key.sport = q.dport;
	p->key.dport = q.sport;
	f = half_find(&p->key, &h);
	if (!f || half_phase(&h) == PHASE_ENDED ||
	    (flow_age(p->now, h.stamp) > IDLE_MIN && pair_idle(&h, p->now)))
		return DROP(ICMP_NO_FLOW);
	link = link_at(h.rw.tag.of.link);
	if (!link || !link_carries(link, h.rw.tag.of.link_gen))
		return DROP(ICMP_NO_FLOW);
	p->link = h.rw.tag.of.link;
	if (half_reverse(&h)) {
		path_take(path, &h.rw.via.reverse);
	} else {
		b = backend_at(h.rw.via.forward.backend);
		if (!b || b->gen != h.rw.via.forward.backend_gen)
			return DROP(ICMP_NO_FLOW);
		path_take(path, &b->hop);
	}
	if (!path->ifindex)
		return DROP(NO_OUTPUT);
	if (p->ttl <= 1)
		return DROP(TTL); /* no error about an error (RFC 1122 3.2.2) */
	r = icmp_requote(ctx, p, &q, at, header, &h.rw);
	if (r)
		return r;
	/* Outside: from the address its receiver talks to, whoever sent it. */
	{
		void *data = hook_data(ctx), *end = hook_end(ctx);
		struct iphdr *ip = data + L3;
		__u32 *eth = data;

		if ((void *)(ip + 1) > end)
			return DROP(SHORT);
		eth[0] = path->macs[0];
		eth[1] = path->macs[1];
		eth[2] = path->macs[2];
		addresses[0] = ip->saddr;
		addresses[1] = ip->daddr;
		delta = delta_add(delta32(addresses[0], h.rw.saddr),
		                  delta32(addresses[1], h.rw.daddr));
		ip->check = check_apply(ip->check, delta_add(delta, TTL_DELTA));
		ip->ttl--;
		ip->saddr = MUTANT(16) ? ip->saddr : h.rw.saddr;
		ip->daddr = h.rw.daddr;
	}
	count_flow(p, &h.rw);
	return leave(ctx, p, path);
}

/* ICMP to an address of privlink. */
SLOW int icmp(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct icmphdr *icmp;
	struct meaning m;
	struct link *link;

	if (!p)
		return DROP(HELPER);
	icmp = data + (p->l4 & 0x7f);
	m = address_find(p->key.vnet, p->key.daddr);
	if (!m.kind || m.kind == ADDR_GATEWAY)
		return OTHER(OTHER_IPV4);
	if ((void *)(icmp + 1) > end || p->length < p->header + sizeof(*icmp))
		return DROP(ICMP_SHORT);
	if (p->fragment & (FRAGMENT_MORE | FRAGMENT_OFFSET))
		return DROP(ICMP_OTHER);
	if (icmp_is_error(icmp->type))
		return icmp_error(ctx, p);
	p->link = m.link;
	if (icmp->type != ICMP_ECHO || icmp->code || m.kind == ADDR_NAT)
		return DROP(ICMP_OTHER);
	if (is_martian(&p->key))
		return DROP(MARTIAN);
	link = link_at(m.link);
	if (!link || (link->state != LINK_APPROVED && !MUTANT(27)))
		return DROP(NOT_APPROVED);
	return answer_echo(ctx, p);
}

#endif
