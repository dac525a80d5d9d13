/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Packets privlink builds out of the one that provoked them, sent back the way it came. TC only.
 *
 * A local VM's packet has a partial checksum (CHECKSUM_PARTIAL), and keeps that when it is cut and
 * grown: whoever completes it later, a NIC or the stack, writes two bytes at the place where the
 * *original* packet's checksum stood. bpf_l4_csum_replace without BPF_F_PSEUDO_HDR leaves a partial
 * field alone, which is the only exact test for it.
 */
#ifndef PRIVLINK_ANSWER_H
#define PRIVLINK_ANSWER_H

#include "rewrite.h"

#define ANSWER_TTL 64

/* Ethernet addresses swapped: back to the sender, from the address it wrote to. */
static __always_inline int answer_ethernet(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct out *out = out_at(p->in);
	struct ethhdr *eth = data;

	if (!out || (void *)(eth + 1) > end)
		return DROP(SHORT);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, out->mac, ETH_ALEN);
	return GO_ON;
}

/* Out by the interface it came in on, with the tag it came with: it is still on the packet. */
static __always_inline int answer_send(hook *ctx, struct packet *p, __u32 reason)
{
	p->out = p->in;
	p->ifindex = hook_ifindex(ctx);
	return DECIDE(ACTION_ANSWER, reason);
}

struct rst_headers {
	struct iphdr ip;
	struct tcphdr tcp;
};

/* A RST to the sender of this segment, with the numbers RFC 9293 3.10.7.1 asks for. `reason` says
 * why it was due; no RST answers a RST, and `limited` ones stay below RST_PER_SECOND.
 */
SLOW int answer_rst(hook *ctx, struct packet *p, __u32 reason, bool limited)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct rst_headers h = {};
	__u64 zeros[5] = {};
	__u32 at, header;
	struct tcphdr *tcp;
	__u16 pseudo, full;
	int r;

	if (!p)
		return DROP(HELPER);
	at = p->l4 & 0x7f;
	header = p->header & 0x3c;
	tcp = data + at;
	if (limited && !bucket_take(p->in, p->now, RST_PER_SECOND, TOKEN_RST)) {
		count_reason(REASON_RST_LIMITED, hook_length(ctx));
		return DECIDE(ACTION_DROP, reason);
	}
	if ((void *)(tcp + 1) > end || header < sizeof(h.ip))
		return DROP(SHORT);
	h.ip.version = 4;
	h.ip.ihl = header / 4;
	h.ip.tot_len = bpf_htons(header + sizeof(*tcp));
	h.ip.frag_off = bpf_htons(MAY_NOT_FRAGMENT);
	h.ip.ttl = ANSWER_TTL;
	h.ip.protocol = IPPROTO_TCP;
	h.ip.saddr = p->key.daddr;
	h.ip.daddr = p->key.saddr;
	h.ip.check =
		~fold(sum16((__u16 *)&h.ip, 10)); /* options become zeros: End of Options List */
	h.tcp.source = p->key.dport;
	h.tcp.dest = p->key.sport;
	h.tcp.doff = 5;
	h.tcp.rst = 1;
	if (p->tcp & TCP_ACK) {
		h.tcp.seq = tcp->ack_seq;
	} else {
		h.tcp.ack = 1;
		h.tcp.ack_seq =
			bpf_htonl(bpf_ntohl(tcp->seq) + p->payload +
		                  !!(p->tcp & TCP_SYN && !MUTANT(28)) + !!(p->tcp & TCP_FIN));
	}
	pseudo = sum_pseudo(h.ip.saddr, h.ip.daddr, IPPROTO_TCP, sizeof(*tcp));
	full = ~fold(sum16((__u16 *)&h.tcp, 10) + pseudo);
	h.tcp.check = pseudo;

	if (bpf_skb_change_tail(ctx, at + sizeof(*tcp), 0))
		return DROP(HELPER);
	if (bpf_skb_store_bytes(ctx, L3, &h.ip, sizeof(h.ip), BPF_F_RECOMPUTE_CSUM) ||
	    bpf_skb_store_bytes(ctx, at, &h.tcp, sizeof(h.tcp), BPF_F_RECOMPUTE_CSUM))
		return DROP(HELPER);
	header -= sizeof(h.ip);
	/* Two comparisons, or 6.1 does not see that the size is not 0: clang would make one of them. */
	asm volatile("" : "+r"(header));
	if (header >= 4) {
		asm volatile("" : "+r"(header));
		if (header <= sizeof(zeros) && bpf_skb_store_bytes(ctx, L3 + sizeof(h.ip), zeros,
		                                                   header, BPF_F_RECOMPUTE_CSUM))
			return DROP(HELPER);
	}
	/* skipped for a partial checksum, else it makes the field the full one; the last is for
	 * CHECKSUM_COMPLETE, and refused for everything else
	 */
	if (bpf_l4_csum_replace(ctx, at + offsetof(struct tcphdr, check), 0,
	                        delta16(~pseudo, ~full), 0))
		return DROP(HELPER);
	bpf_csum_update(ctx, delta16(pseudo, full));
	r = answer_ethernet(ctx, p);
	if (r)
		return r;
	count_reason(REASON_RST_SENT, at + sizeof(*tcp));
	return answer_send(ctx, p, reason);
}

/* Is the L4 checksum at `at` partial? Exact: the helper leaves only such a field alone. */
static __always_inline int checksum_partial(hook *ctx, __u32 at)
{
	__u16 before = 0, after = 0;

	if (bpf_skb_load_bytes(ctx, at, &before, 2) || bpf_l4_csum_replace(ctx, at, 0, 1, 0) ||
	    bpf_skb_load_bytes(ctx, at, &after, 2))
		return -1;
	if (before == after)
		return 1;
	if (bpf_skb_store_bytes(ctx, at, &before, 2, 0))
		return -1;
	return 0;
}

struct icmp_headers {
	struct iphdr ip;
	struct icmphdr icmp;
};

/* What of the packet that is answered stands behind the ICMP header: the largest is an IPv4 header
 * with options and 20 bytes.
 */
#define QUOTE_MAX 80

/* An ICMP error to the sender (RFC 792, RFC 1191, RFC 1812 4.3.2), from the address it wrote to,
 * so that no address of the other side shows. `type_code` is ICMP_ERROR(type, code). Quotes the IP header and 8 bytes, of TCP 20: less
 * cannot be cut off a packet with a partial checksum. `mtu` in host order, only for type 3 code 4.
 */
#define ICMP_ERROR(type, code) ((type) << 8 | (code))

SLOW int answer_icmp(hook *ctx, struct packet *p, __u16 type_code, __u16 mtu, __u32 reason)
{
	__u32 at, header, quoted, check, sum = 0, size;
	struct icmp_headers h = {};
	__u8 quote[QUOTE_MAX] = {};
	__u16 field = 0;
	int partial, r;

	if (!p)
		return DROP(HELPER);
	at = p->l4 & 0x7f;
	header = p->header & 0x3c;
	quoted = p->key.proto == IPPROTO_TCP ? 20 : 8;
	check = at + (p->key.proto == IPPROTO_TCP ? offsetof(struct tcphdr, check)
	                                          : offsetof(struct udphdr, check));
	size = header + quoted;
	if (!bucket_take(p->in, p->now, ICMP_PER_SECOND, TOKEN_ICMP)) {
		count_reason(REASON_ICMP_LIMITED, hook_length(ctx));
		return DECIDE(ACTION_DROP, reason);
	}
	if (header < 20 || size < 28 || size > QUOTE_MAX)
		return DROP(SHORT);
	partial =
		p->fragment & (FRAGMENT_OFFSET | FRAGMENT_MORE) ? 0 : checksum_partial(ctx, check);
	if (partial < 0 || bpf_skb_change_tail(ctx, L3 + size, 0))
		return DROP(HELPER);
	if (bpf_skb_load_bytes(ctx, L3, quote, size))
		return DROP(HELPER);
	if (partial) {
		/* the quoted L4 part will sum to the complement of what its field holds now */
		if (bpf_skb_load_bytes(ctx, check, &field, 2))
			return DROP(HELPER);
		field = ~field;
		size = header;
	}
	/* A helper, not a loop: 6.1 walks every end that a loop to a variable one may have. */
	sum = fold(bpf_csum_diff(NULL, 0, (__be32 *)quote, size, 0)) + field;

	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.tot_len = bpf_htons(sizeof(h) + header + quoted);
	h.ip.ttl = ANSWER_TTL;
	h.ip.protocol = IPPROTO_ICMP;
	h.ip.saddr = p->key.daddr;
	h.ip.daddr = p->key.saddr;
	h.ip.check = ~fold(sum16((__u16 *)&h.ip, 10));
	h.icmp.type = type_code >> 8;
	h.icmp.code = type_code;
	h.icmp.sequence = bpf_htons(mtu);
	h.icmp.checksum = ~fold(sum16((__u16 *)&h.icmp, 4) + sum);

	if (bpf_skb_adjust_room(ctx, sizeof(h), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(ctx, L3, &h, sizeof(h), BPF_F_RECOMPUTE_CSUM))
		return DROP(HELPER);
	r = answer_ethernet(ctx, p);
	if (r)
		return r;
	count_reason(REASON_ICMP_SENT, L3 + sizeof(h) + header + quoted);
	return answer_send(ctx, p, reason);
}

/* Echo to an endpoint IP (RFC 792). */
static __always_inline int answer_echo(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct iphdr *ip = data + L3;
	struct icmphdr *icmp = data + (p->l4 & 0x7f);
	__u16 old, new;

	if ((void *)(ip + 1) > end || (void *)(icmp + 1) > end)
		return DROP(SHORT);
	__builtin_memcpy(&old, &ip->ttl, 2);
	ip->ttl = ANSWER_TTL;
	__builtin_memcpy(&new, &ip->ttl, 2);
	ip->check = check_apply(ip->check, delta16(old, new));
	ip->saddr = p->key.daddr;
	ip->daddr = p->key.saddr;
	icmp->type = ICMP_ECHOREPLY;
	if (bpf_l4_csum_replace(ctx, (p->l4 & 0x7f) + offsetof(struct icmphdr, checksum), 0,
	                        delta16(ICMP_ECHO, ICMP_ECHOREPLY), 0))
		return DROP(HELPER);
	if (answer_ethernet(ctx, p))
		return DROP(SHORT);
	return answer_send(ctx, p, REASON_ECHO_REPLY);
}

#endif
