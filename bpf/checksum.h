/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Internet checksums (RFC 1071), updated incrementally (RFC 1624, eqn. 3): a delta is the one's
 * complement sum of ~old + new over 16-bit words as they stand in memory, so no byte is swapped.
 */
#ifndef PRIVLINK_CHECKSUM_H
#define PRIVLINK_CHECKSUM_H

#include "hook.h"

static __always_inline __u16 fold(__u32 sum)
{
	if (MUTANT(32))
		return sum;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline __u16 delta16(__u16 from, __u16 to)
{
	return fold((__u16)~from + (__u32)to);
}

static __always_inline __u16 delta32(__u32 from, __u32 to)
{
	__u32 inverse = ~from;

	return fold((inverse & 0xffff) + (inverse >> 16) + (to & 0xffff) + (to >> 16));
}

static __always_inline __u16 delta_add(__u16 a, __u16 b)
{
	return fold((__u32)a + b);
}

/* The checksum after two changes: folded once, for three 16-bit numbers fit as well as two. */
static __always_inline __u16 check_apply2(__u16 check, __u16 a, __u16 b)
{
	return ~fold((__u16)~check + (__u32)a + b);
}

/* The checksum after a change. */
static __always_inline __u16 check_apply(__u16 check, __u16 delta)
{
	return check_apply2(check, delta, 0);
}

/* Sum of `words` 16-bit words. */
static __always_inline __u32 sum16(const __u16 *p, int words)
{
	__u32 sum = 0;

	for (int i = 0; i < words; i++)
		sum += p[i];
	return sum;
}

/* The pseudo-header's sum, folded, not complemented (RFC 9293, 3.1). Length in host order. */
static __always_inline __u16 sum_pseudo(__be32 saddr, __be32 daddr, __u8 proto, __u16 length)
{
	__u32 sum = (saddr & 0xffff) + (saddr >> 16) + (daddr & 0xffff) + (daddr >> 16);

	return fold(sum + bpf_htons(proto) + bpf_htons(length));
}

#endif
