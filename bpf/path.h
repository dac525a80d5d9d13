/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* May a packet leave by a path? And who is told when not. */
#ifndef PRIVLINK_PATH_H
#define PRIVLINK_PATH_H

#include "rewrite.h"

static __always_inline int path_check(struct packet *p, const struct path *path)
{
#ifdef HOOK_XDP
	if (p->ttl <= 1 || !path->ifindex || !(path->flags & OUT_XDP) || path->vlan ||
	    p->length > path->mtu)
		return UP;
#else
	if (p->ttl <= 1 && !MUTANT(18))
		return DECIDE(WANT_TTL, REASON_TTL);
	if (!path->ifindex)
		return DROP(NO_OUTPUT);
	if (p->length > path->mtu && !MUTANT(19)) {
		p->mtu = path->mtu;
		return DECIDE(WANT_TOO_BIG, p->fragment & MAY_NOT_FRAGMENT
		                                    ? REASON_TOO_BIG
		                                    : REASON_TOO_BIG_MAY_FRAGMENT);
	}
#endif
	return GO_ON;
}

/* A drop, with a RST where one is due: never for a fragment, never for a RST. */
static __always_inline int refuse(const struct packet *p, __u32 reason, enum wanted rst)
{
	if (p->key.proto != IPPROTO_TCP || (p->tcp & TCP_RST && !MUTANT(14)) ||
	    p->fragment & (FRAGMENT_MORE | FRAGMENT_OFFSET))
		return DECIDE(ACTION_DROP, reason);
	return DECIDE(rst, reason);
}

#endif
