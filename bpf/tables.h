/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Lookups in the configuration, and the counters. Inlined array loads; no helper call. */
#ifndef PRIVLINK_TABLES_H
#define PRIVLINK_TABLES_H

#include "hook.h"

static __always_inline struct out *out_at(__u32 slot)
{
	return bpf_map_lookup_elem(&outs_v1, &slot);
}

static __always_inline struct link *link_at(__u32 slot)
{
	return bpf_map_lookup_elem(&links_v1, &slot);
}

static __always_inline struct usage *usage_at(__u32 slot)
{
	return bpf_map_lookup_elem(&usage_v1, &slot);
}

static __always_inline struct backend *backend_at(__u32 slot)
{
	return bpf_map_lookup_elem(&backends_v1, &slot);
}

static __always_inline struct natset *natset_at(__u32 slot)
{
	return bpf_map_lookup_elem(&natsets_v1, &slot);
}

static __always_inline struct table *table_only(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&table_v1, &zero);
}

static __always_inline struct iface *iface_at(__u32 slot, __u32 ifindex, __u16 vlan)
{
	struct iface *in = bpf_map_lookup_elem(&ifaces_v1, &slot);

	return in && in->ifindex == ifindex && in->vlan == vlan ? in : NULL;
}

/* Where an attachment may stand: IFACE_PROBES places from its hash on. Also in pkg/dataplane. */
static __always_inline __u32 iface_home(__u32 ifindex, __u16 vlan)
{
	return (ifindex * 0x9e3779b1u ^ vlan * 0x85ebca6bu) >> 19;
}

/* The slot among the places after the first, IFACE_SLOTS if it is in none. */
SLOW __u32 iface_further(__u32 ifindex, __u16 vlan)
{
	__u32 home = iface_home(ifindex, vlan);

	for (int i = 1; i < IFACE_PROBES; i++) {
		__u32 slot = (home + i) & (IFACE_SLOTS - 1);

		if (iface_at(slot, ifindex, vlan))
			return slot;
	}
	return IFACE_SLOTS;
}

static __always_inline struct iface *iface_find(__u32 ifindex, __u16 vlan)
{
	struct iface *in = iface_at(iface_home(ifindex, vlan), ifindex, vlan);

	return likely(in) ? in : iface_at(iface_further(ifindex, vlan), ifindex, vlan);
}

/* Is the link approved, and the same as when the flow was opened? Generation and state are one
 * word, so that no packet sees one without the other.
 */
static __always_inline bool link_carries(struct link *link, __u16 gen)
{
	__u32 word = *(volatile __u32 *)&link->gen;

	if (MUTANT(1))
		return (word >> 16 & 0xff) == LINK_APPROVED;
	return (word & 0xffffff) == (LINK_APPROVED << 16 | gen);
}

static __always_inline void count_reason(__u32 reason, __u32 bytes)
{
	struct reason_stats *stats = bpf_map_lookup_elem(&reasons_v2, &reason);

	if (!stats)
		return;
	stats->packets++;
	stats->bytes += bytes;
}

static __always_inline struct link_stats *stats_at(__u32 link)
{
	return bpf_map_lookup_elem(&link_stats_v1, &link);
}

/* Takes one of `limit` tokens a second; false when there is none left. Two CPUs may give out a
 * few too many: it limits, it does not meter.
 */
static __always_inline bool bucket_take(__u32 out, __u32 now, __u32 limit, int what)
{
	struct bucket *b = bpf_map_lookup_elem(&buckets_v1, &out);
	__u32 *used;

	if (!b)
		return false;
	if (b->stamp != now) {
		b->rst = 0;
		b->icmp = 0;
		b->arp = 0;
		b->stamp = now;
	}
	used = what == 0 ? &b->rst : what == 1 ? &b->icmp : &b->arp;
	if (*used >= limit)
		return false;
	*used += 1;
	return true;
}

#define TOKEN_RST  0
#define TOKEN_ICMP 1
#define TOKEN_ARP  2

#endif
