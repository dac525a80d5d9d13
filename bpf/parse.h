/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* From bytes to struct packet: Ethernet (RFC 894), IPv4 (RFC 791), TCP (RFC 9293), UDP (RFC 768). */
#ifndef PRIVLINK_PARSE_H
#define PRIVLINK_PARSE_H

#include "flowtable.h"
#include "tables.h"

/* The second word of the key, whose first half both L4 headers begin with, in one store: a lookup reads
 * words, and one that is not there yet in one piece makes the CPU wait.
 */
static __always_inline void key_ports(struct packet *p, __u32 ports)
{
	flow_word *word = (flow_word *)&p->key;

	word[1] = ports | (__u64)p->key.vnet << 32 | (__u64)p->key.proto << 48;
}

/* Ports and flags. A header that is malformed is remembered, not decided on: whether the packet
 * is privlink's to drop depends on its destination.
 */
static __always_inline void parse_l4(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	__u32 at = IS_XDP ? L3 + 20 : p->l4 & 0x7f;
	__u32 rest = p->length - p->header;

	if (p->key.proto == IPPROTO_TCP) {
		struct tcphdr *tcp = data + at;
		__u32 size;

		if ((void *)(tcp + 1) > end || rest < sizeof(*tcp)) {
			p->bad = REASON_BAD_L4;
			return;
		}
		key_ports(p, load32(&tcp->source));
		p->tcp = ((__u8 *)tcp)[13];
		size = tcp->doff * 4;
		if (size < sizeof(*tcp) || size > rest)
			p->bad = REASON_BAD_L4;
		else
			p->payload = rest - size;
	} else {
		struct udphdr *udp = data + at;

		if ((void *)(udp + 1) > end || rest < sizeof(*udp)) {
			p->bad = REASON_BAD_L4;
			return;
		}
		key_ports(p, load32(&udp->source));
		if (!(p->fragment & FRAGMENT_MORE) &&
		    (bpf_ntohs(udp->len) < sizeof(*udp) || bpf_ntohs(udp->len) > rest))
			p->bad = REASON_BAD_L4;
		p->payload = rest - sizeof(*udp);
	}
	if (!p->key.sport || !p->key.dport)
		p->bad = REASON_BAD_L4;
}

/* The IPv4 header. GO_ON, or what the packet is instead. */
static __always_inline int parse_ipv4(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct iphdr *ip = data + L3;
	__u32 length;

	if ((void *)(ip + 1) > end)
		return OTHER(SHORT);
	length = bpf_ntohs(ip->tot_len);
	p->header = ip->ihl * 4;
	if (ip->version != 4 || p->header < sizeof(*ip) || length < p->header ||
	    length > hook_length(ctx) - L3)
		return OTHER(BAD_HEADER);
	p->length = length;
	p->bytes = length;
	p->packets = 1;
	p->l4 = L3 + p->header;
	p->ttl = ip->ttl;
	p->fragment = bpf_ntohs(ip->frag_off);
	*(flow_word *)&p->key = load64(&ip->saddr);
	p->key.proto = ip->protocol;
	return GO_ON;
}

#ifdef HOOK_TC
/* Counts a GSO packet as the segments it becomes on a wire, and its length as that of the largest,
 * which is what an MTU is about.
 */
static __always_inline void parse_gso(hook *ctx, struct packet *p, __u32 headers)
{
	__u32 size = ctx->gso_size, segments = ctx->gso_segs;

	if (!size)
		return;
	if (segments > 1) {
		p->packets = segments;
		p->bytes += (segments - 1) * headers;
	}
	if (size + headers < p->length)
		p->length = size + headers;
}
#endif

/* Source addresses no host sends from (RFC 1122 3.2.1.3, RFC 6890), and land packets. */
static __always_inline bool is_martian(const struct flow_key *key)
{
	__u32 source = bpf_ntohl(key->saddr);

	return source >> 24 == 0 || source >> 24 == 127 || source >> 28 >= 0xe ||
	       key->saddr == key->daddr;
}

#endif
