/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* ARP (RFC 826): answered for privlink's addresses, and told to the daemon. TC only. */
#ifndef PRIVLINK_ARP_H
#define PRIVLINK_ARP_H

#include "address.h"
#include "answer.h"

struct arp_packet {
	struct ethhdr eth;
	struct arphdr arp;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender_ip;
	__u8 target_mac[ETH_ALEN];
	__be32 target_ip;
} __attribute__((packed));

/* Tells the daemon who said to be where; bounded, so that nobody fills the ring. */
static __always_inline void arp_event(struct packet *p, const struct arp_packet *arp)
{
	struct event *e;

	if (!bucket_take(p->in, p->now, ARP_PER_SECOND, TOKEN_ARP))
		return;
	e = bpf_ringbuf_reserve(&events_v1, sizeof(*e), 0);
	if (!e)
		return;
	e->type = EVENT_ARP;
	e->out = p->in;
	e->arp_op = bpf_ntohs(arp->arp.ar_op);
	e->sender_ip = arp->sender_ip;
	e->target_ip = arp->target_ip;
	__builtin_memcpy(e->mac, arp->sender_mac, ETH_ALEN);
	e->vnet = p->key.vnet;
	bpf_ringbuf_submit(e, 0);
}

/* ARP for IPv4 over Ethernet (RFC 826): answered for what is privlink's. */
SLOW int arp(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	struct arp_packet *a = data;
	struct meaning target, sender;
	struct out *out;
	bool request;

	if (!p || (void *)(a + 1) > end)
		return OTHER(SHORT);
	out = out_at(p->in);
	if (!out)
		return OTHER(NO_ATTACHMENT);
	if (a->arp.ar_hrd != bpf_htons(ARPHRD_ETHER) || a->arp.ar_pro != bpf_htons(ETH_P_IP) ||
	    a->arp.ar_hln != ETH_ALEN || a->arp.ar_pln != 4)
		return OTHER(OTHER_ARP);
	request = a->arp.ar_op == bpf_htons(ARPOP_REQUEST);
	target = address_find(p->key.vnet, a->target_ip);
	sender = address_find(p->key.vnet, a->sender_ip);
	if (!request || target.kind || sender.kind || a->sender_ip == a->target_ip)
		arp_event(p, a);
	/* An ARP probe (RFC 5227, sender 0.0.0.0) is answered too: the address is taken. An
	 * announcement of our own address by somebody else is not; the daemon defends it.
	 */
	if (!request || !target.arp || a->sender_ip == a->target_ip)
		return OTHER(OTHER_ARP);
	a->arp.ar_op = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(a->target_mac, a->sender_mac, ETH_ALEN);
	__builtin_memcpy(a->sender_mac, out->mac, ETH_ALEN);
	{
		__be32 asked = a->target_ip;

		a->target_ip = a->sender_ip;
		a->sender_ip = asked;
	}
	__builtin_memcpy(a->eth.h_dest, a->eth.h_source, ETH_ALEN);
	__builtin_memcpy(a->eth.h_source, out->mac, ETH_ALEN);
	return answer_send(ctx, p, REASON_ARP_REPLY);
}

#endif
