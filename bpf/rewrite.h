/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Changing a packet and sending it on.
 *
 * In TC an L4 checksum may be partial, verified, complete or none; which of them, the kernel says from 6.2
 * on (enum summed). The IPv4 header is written directly: with its own checksum it sums to a constant, so
 * a checksum over the whole packet (CHECKSUM_COMPLETE) stays right; the ports are made up for by the L4
 * checksum. In XDP the checksum is in the packet, or the packet went up.
 */
#ifndef PRIVLINK_REWRITE_H
#define PRIVLINK_REWRITE_H

#include <bpf/bpf_core_read.h>
#include "checksum.h"

/* TTL minus 1: the header word {TTL, protocol} changes by -1 in its low byte (little endian). */
#define TTL_DELTA 0xfffe

/* Where a packet goes: a hop, and what its output says. */
struct path {
	__u32 macs[3]; /* destination, source */
	__u32 ifindex; /* 0 = there is no such output */
	__u16 out;     /* slot */
	__u16 mtu;     /* bytes of an IP packet */
	__u16 vlan;
	__u16 vnet;
	__u8 flags; /* enum out_flags */
	__u8 pad[3];
};

static __always_inline void path_take(struct path *path, const struct hop *hop)
{
	__u64 word = *(volatile __u64 *)hop;
	struct out *out;

	path->out = word >> 48;
	path->macs[0] = word;
	path->ifindex = 0;
	out = out_at(path->out);
	if (!out || !path->out)
		return;
	path->macs[1] = (__u16)(word >> 32) | (__u32) * (__u16 *)out->mac << 16;
	path->macs[2] = *(__u32 *)(out->mac + 2);
	path->ifindex = out->ifindex;
	path->mtu = out->mtu;
	path->vlan = out->vlan;
	path->vnet = out->vnet;
	path->flags = out->flags;
}

#ifdef HOOK_TC
/* What the kernel knows of a packet's L4 checksum (CHECKSUM_*, include/linux/skbuff.h). */
enum summed {
	SUMMED_NONE = 0,        /* it is in the packet */
	SUMMED_UNNECESSARY = 1, /* it is in the packet, and right: a NIC or GRO verified it */
	SUMMED_COMPLETE = 2,    /* it is in the packet, and skb->csum is the sum of everything */
	SUMMED_PARTIAL = 3,     /* the pseudo-header's sum is, for a NIC to complete */
	SUMMED_UNKNOWN = 4,
};

struct sk_buff {
	__u8 ip_summed:2;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak; /* 6.2; no call in the end */

static __always_inline enum summed summed(hook *ctx)
{
	struct sk_buff *skb;

	if (!bpf_cast_to_kern_ctx || (test_mode && test_input.blind))
		return bpf_csum_level(ctx, BPF_CSUM_LEVEL_QUERY) < 0 ? SUMMED_UNKNOWN
		                                                     : SUMMED_UNNECESSARY;
	skb = bpf_cast_to_kern_ctx(ctx);
	if (MUTANT(39))
		return SUMMED_NONE;
	return BPF_CORE_READ_BITFIELD(skb, ip_summed);
}

/* 0 and 0xffff are the same sum. */
static __always_inline bool sum_equal(__u16 a, __u16 b)
{
	return (a == 0xffff ? 0 : a) == (b == 0xffff ? 0 : b);
}

/* A checksum that may be anything, at `at`, after addresses and ports have changed: the helper knows
 * whether it is partial, in which case only the addresses enter, and corrects skb->csum where it is
 * complete. It is called once, for these; what it made of the field tells which one it was, and the
 * ports are added here. A function of its own: the fast path is the shorter for it.
 */
SLOW int rewrite_unknown(hook *ctx, __u32 at, __u16 l3_delta, __u16 l4_delta, bool udp)
{
	__u64 zero = udp && !MUTANT(13) ? BPF_F_MARK_MANGLED_0 : 0;
	void *data = hook_data(ctx), *end = hook_end(ctx);
	__u16 old, full, *check;

	at &= 0x7f;
	check = data + at;
	if ((void *)(check + 1) > end)
		return DROP(SHORT);
	old = *check;
	if (MUTANT(33) || bpf_l4_csum_replace(ctx, at, 0, l3_delta, BPF_F_PSEUDO_HDR | zero))
		return DROP(HELPER);
	if (unlikely(sum_equal(l3_delta, 0))) {
		/* the addresses sum to what they did, so the field tells nothing (only then: with a sum of
		 * d a complete one became old - d, a partial one old + d, and 65,535 is odd)
		 */
		if (bpf_l4_csum_replace(ctx, at, 0, l4_delta, zero))
			return DROP(HELPER);
		return GO_ON;
	}
	full = check_apply(old, l3_delta);
	data = hook_data(ctx);
	end = hook_end(ctx);
	check = data + at;
	if ((void *)(check + 1) > end)
		return DROP(SHORT);
	if (sum_equal(*check, full)) {
		full = check_apply(*check, l4_delta);
		*check = udp && !full ? 0xffff : full;
	}
	return GO_ON;
}

/* The L4 checksum after addresses and ports have changed. */
static __always_inline int rewrite_check(hook *ctx, const struct packet *p,
                                         const struct rewrite *rw, __u32 at)
{
	bool udp = p->key.proto == IPPROTO_UDP;
	void *data = hook_data(ctx), *end = hook_end(ctx);
	__u16 full, *check;

	at += udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check);
	check = data + at;
	if ((void *)(check + 1) > end)
		return DROP(SHORT);
	if (udp && !*check && !MUTANT(13)) { /* RFC 768: 0 = none, and stays so */
		/* nothing in it makes up for the ports: for CHECKSUM_COMPLETE, and refused for the rest */
		bpf_csum_update(ctx, rw->l4_delta);
		return GO_ON;
	}
	switch (summed(ctx)) {
	case SUMMED_NONE:
	case SUMMED_UNNECESSARY:
		full = check_apply2(*check, rw->l3_delta, rw->l4_delta);
		*check = udp && !full ? 0xffff : full;
		return GO_ON;
	case SUMMED_PARTIAL: /* not complemented yet, and without the ports */
		*check = delta_add(*check, rw->l3_delta);
		return GO_ON;
	default:
		return rewrite_unknown(ctx, at, rw->l3_delta, rw->l4_delta, udp);
	}
}
#endif

/* Headers as the other side sees them. New id only with `id` (fragments). GO_ON or a drop. */
static __always_inline int rewrite(hook *ctx, struct packet *p, const struct rewrite *rw,
                                   const struct path *path, bool ports, bool new_id, __be16 id)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	__u32 at = IS_XDP ? L3 + 20 : p->l4 & 0x7f;
	struct iphdr *ip = data + L3;
	__u32 *eth = data;
	__u16 delta = rw->l3_delta;
	__be16 *l4 = data + at;

	if (data + L3 + sizeof(*ip) > end || (ports && data + at + 8 > end))
		return DROP(SHORT);
	eth[0] = path->macs[0];
	eth[1] = path->macs[1];
	eth[2] = path->macs[2];
	if (new_id) {
		delta = delta_add(delta, delta16(ip->id, id));
		ip->id = id;
	}
	ip->check = check_apply2(ip->check, delta, MUTANT(12) ? 0xfeff : TTL_DELTA);
	ip->ttl--;
	ip->saddr = rw->saddr;
	ip->daddr = rw->daddr;
	if (!ports)
		return GO_ON;
	l4[0] = rw->sport;
	l4[1] = rw->dport;
#ifdef HOOK_XDP
	if (p->key.proto == IPPROTO_TCP) {
		__u16 *check = data + L3 + 20 + offsetof(struct tcphdr, check);

		if ((void *)(check + 1) > end)
			return DROP(SHORT);
		*check = check_apply2(*check, rw->l3_delta, rw->l4_delta);
	} else {
		__u16 *check = data + L3 + 20 + offsetof(struct udphdr, check);

		if ((void *)(check + 1) > end)
			return DROP(SHORT);
		if (*check) /* RFC 768: 0 = none, and stays so; a sum of 0 is sent as 0xffff */
			*check = check_apply2(*check, rw->l3_delta, rw->l4_delta) ?: 0xffff;
	}
#else
	return rewrite_check(ctx, p, rw, at);
#endif
	return GO_ON;
}

#ifdef HOOK_TC
/* The tag of the interface it leaves by instead of the one it came with. */
SLOW int retag(hook *ctx, __u16 vlan)
{
	if (ctx->vlan_present) {
		if ((ctx->vlan_tci & 0xfff) == vlan && vlan)
			return GO_ON;
		if (!MUTANT(34) && bpf_skb_vlan_pop(ctx))
			return DROP(HELPER);
	}
	if (vlan && !MUTANT(35) && bpf_skb_vlan_push(ctx, bpf_htons(ETH_P_8021Q), vlan))
		return DROP(HELPER);
	return GO_ON;
}
#endif

/* Leaves by a path: the entry redirects. */
static __always_inline int leave(hook *ctx, struct packet *p, const struct path *path)
{
	p->out = path->out;
	p->ifindex = path->ifindex;
#ifdef HOOK_TC
	if (path->vlan || path->flags & OUT_PEER || ctx->vlan_present) {
		int r = retag(ctx, path->vlan);

		if (r)
			return r;
		if (path->flags & OUT_PEER)
			return DECIDE(ACTION_PEER, REASON_NONE);
	}
#endif
	return REDIRECTED;
}

static __always_inline void count_flow(const struct packet *p, const struct rewrite *rw)
{
	struct link_stats *stats;

	if (rw->tag.of.flags & FLOW_INNER)
		return;
	stats = stats_at(rw->tag.of.link);
	if (!stats)
		return;
	if (rw->tag.of.flags & FLOW_REVERSE) {
		stats->packets_out += p->packets;
		stats->bytes_out += p->bytes;
	} else {
		stats->packets_in += p->packets;
		stats->bytes_in += p->bytes;
	}
}

#endif
