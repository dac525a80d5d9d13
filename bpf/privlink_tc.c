// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * TC ingress, on every attached interface: able to do everything. Attached by TCX, or by clsact
 * before 6.6; the return values are the same numbers for both.
 */
#define HOOK_TC
#include "core.h"

SEC("tc")
int privlink_tc(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 length, action;
	int decision;

	if (test_mode && test_input.vlan && !skb->vlan_present &&
	    bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), test_input.vlan))
		return TC_ACT_SHOT;
	length = skb->len;
	decision = receive(skb, &p);
	if (unlikely(decision != REDIRECTED))
		decision = answer(skb, &p, decision);
	action = decide(&p, decision, length);
	if (test_mode)
		test_verdict.vlan = skb->vlan_present ? skb->vlan_tci & 0xfff : 0;
	switch (action) {
	case ACTION_REDIRECT:
	case ACTION_ANSWER:
		return bpf_redirect(p.ifindex, 0);
	case ACTION_PEER: /* without a second receive queue and softirq */
		return bpf_redirect_peer(p.ifindex, 0);
	case ACTION_PASS:
		return TC_ACT_UNSPEC; /* whoever comes next on this hook, then the host */
	default:
		return TC_ACT_SHOT;
	}
}

char _license[] SEC("license") = "Dual BSD/GPL";
