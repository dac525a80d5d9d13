// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Forwarding and nothing else: the cost that no NAT can go below. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/* The two interfaces of the gateway. A packet that enters by one leaves by the other. */
volatile const __u32 client_ifindex, server_ifindex;

static __always_inline __u32 other(__u32 ifindex)
{
	return ifindex == client_ifindex ? server_ifindex : client_ifindex;
}

SEC("xdp")
int redirect_xdp(struct xdp_md *ctx)
{
	return bpf_redirect(other(ctx->ingress_ifindex), 0);
}

SEC("tc")
int redirect_tc(struct __sk_buff *skb)
{
	return bpf_redirect(other(skb->ifindex), 0);
}

char LICENSE[] SEC("license") = "GPL";
