/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Changing a packet and sending it on.
 *
 * In TC an L4 checksum may be partial, complete or none: only bpf_l4_csum_replace knows, so it
 * alone touches the field. The IPv4 header is written directly: with its own checksum it sums to a
 * constant, so a checksum over the whole packet (CHECKSUM_COMPLETE) stays right; the ports are made
 * up for by the L4 checksum. In XDP the checksum is in the packet, or the packet went up.
 */
#ifndef PRIVLINK_REWRITE_H
#define PRIVLINK_REWRITE_H

#include "checksum.h"

/* TTL minus 1: the header word {TTL, protocol} changes by -1 in its low byte (little endian). */
#define TTL_DELTA 0xfffe

/* Where a packet goes. */
struct path {
	__u32 macs[3]; /* destination, source */
	__u16 out;     /* slot */
	__u16 mtu;
};

static __always_inline void path_forward(struct path *path, struct backend *b)
{
	__u32 *macs = (__u32 *)b->dmac;

	path->macs[0] = macs[0];
	path->macs[1] = macs[1];
	path->macs[2] = macs[2];
	path->out = b->out;
	path->mtu = b->mtu;
}

static __always_inline void path_reverse(struct path *path, struct via_reverse via, struct out *out)
{
	__builtin_memcpy(path->macs, via.mac, 6);
	__builtin_memcpy((__u8 *)path->macs + 6, out->mac, 6);
	path->out = via.out;
	path->mtu = out->mtu;
}

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
	ip->check = check_apply(ip->check, delta_add(delta, MUTANT(12) ? 0xfeff : TTL_DELTA));
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
		*check = check_apply(*check, delta_add(rw->l3_delta, rw->l4_delta));
	} else {
		__u16 *check = data + L3 + 20 + offsetof(struct udphdr, check);

		if ((void *)(check + 1) > end)
			return DROP(SHORT);
		if (*check) /* RFC 768: 0 = none, and stays so; a sum of 0 is sent as 0xffff */
			*check = check_apply(*check, delta_add(rw->l3_delta, rw->l4_delta))
			                 ?: 0xffff;
	}
#else
	if (p->key.proto == IPPROTO_TCP) {
		at += offsetof(struct tcphdr, check);
		if (MUTANT(33) || bpf_l4_csum_replace(ctx, at, 0, rw->l3_delta, BPF_F_PSEUDO_HDR) ||
		    bpf_l4_csum_replace(ctx, at, 0, rw->l4_delta, 0))
			return DROP(HELPER);
	} else {
		__u64 zero = MUTANT(13) ? 0 : BPF_F_MARK_MANGLED_0;

		at += offsetof(struct udphdr, check);
		if (bpf_l4_csum_replace(ctx, at, 0, rw->l3_delta, BPF_F_PSEUDO_HDR | zero) ||
		    bpf_l4_csum_replace(ctx, at, 0, rw->l4_delta, zero))
			return DROP(HELPER);
	}
#endif
	return GO_ON;
}

#ifdef HOOK_TC
/* The tag of the interface it leaves by instead of the one it came with. */
static __always_inline int retag(hook *ctx, __u16 vlan)
{
	if (ctx->vlan_present) {
		if ((ctx->vlan_tci & 0xfff) == vlan && vlan)
			return GO_ON;
		if (bpf_skb_vlan_pop(ctx))
			return DROP(HELPER);
	}
	if (vlan && bpf_skb_vlan_push(ctx, bpf_htons(ETH_P_8021Q), vlan))
		return DROP(HELPER);
	return GO_ON;
}
#endif

/* Leaves by an output: the entry redirects. */
static __always_inline int leave(hook *ctx, struct packet *p, struct out *out, __u16 slot)
{
	p->out = slot;
	p->ifindex = out->ifindex;
#ifdef HOOK_TC
	if (out->vlan || ctx->vlan_present) {
		int r = retag(ctx, out->vlan);

		if (r)
			return r;
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
