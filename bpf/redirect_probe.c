// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Does a device take frames that XDP redirects to it? Kernels before 6.3 have no xdp-features to ask,
 * and a veth whose peer does no GRO drops them unseen. So one frame is redirected to it, and the
 * tracepoint behind every such transmission says what became of it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* Written before and read after one run of the program, under the daemon's lock. */
__u32 probe_target = 0; /* ifindex */
__u32 probe_sent = 0;   /* frames that the device took */

struct net_device {
	int ifindex;
} __attribute__((preserve_access_index));

SEC("xdp")
int redirect_probe(struct xdp_md *ctx)
{
	return bpf_redirect(probe_target, 0);
}

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(redirect_seen, const struct net_device *from, const struct net_device *to, int sent,
             int drops, int err)
{
	if ((__u32)to->ifindex == probe_target && sent > 0)
		__sync_fetch_and_add(&probe_sent, sent);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
