// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * XDP, in front of TC where asked for: finishes what is plain, passes up everything else. Frags: a
 * device may hand over frames in several buffers; their headers do not reach the end of the packet
 * and go up.
 */
#define HOOK_XDP
#include "core.h"

SEC("xdp.frags")
int privlink_xdp(struct xdp_md *ctx)
{
	struct packet p = {};
	int decision;
	__u32 length = hook_length(ctx);

	decision = receive(ctx, &p);
	switch (decide(&p, decision, length)) {
	case ACTION_REDIRECT:
		return bpf_redirect_map(&xdp_outs_v1, p.out, 0);
	case ACTION_UP:
		return XDP_PASS;
	default:
		return XDP_DROP;
	}
}

char _license[] SEC("license") = "Dual BSD/GPL";
