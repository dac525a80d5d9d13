/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which backend a new flow gets: a place in the rule's Maglev table, chosen by a hash that every
 * node computes alike. The link is part of it: consumers with equal addresses are told apart.
 */
#ifndef PRIVLINK_BALANCE_H
#define PRIVLINK_BALANCE_H

#include "tables.h"

/* Places looked at when the table names a backend that was lost since it was written. */
#define BALANCE_TRIES 8

volatile const __u64 balance_seed[2] = {};

static __always_inline __u64 mix64(__u64 h)
{
	h ^= h >> 32;
	h *= 0x9fb21c651e98df25ull;
	h ^= h >> 29;
	h *= 0xd6e8feb86659fd93ull;
	return h ^ h >> 32;
}

/* Hash of what the distribution mode looks at. Written for both byte orders of the host: addresses
 * and ports enter as they stand in the packet. Also in pkg/splice, for the second leg.
 */
static __always_inline __u32 balance_hash(const struct flow_key *key, __u32 link_id,
                                          __u8 distribution)
{
	__u64 h = mix64(balance_seed[0] ^ ((__u64)link_id << 32 | key->saddr));

	if (distribution == DIST_SOURCE_IP_PROTOCOL)
		h = mix64(h ^ balance_seed[1] ^ key->proto);
	if (distribution == DIST_5_TUPLE)
		h = mix64(h ^ balance_seed[1] ^
		          ((__u64)key->proto << 32 | (__u32)key->sport << 16 | key->dport));
	return h >> 32;
}

/* Slot of a backend that takes new flows, 0 if there is none. */
static __always_inline __u32 balance(__u32 rule, __u32 hash)
{
	void *table = bpf_map_lookup_elem(&maglev_v1, &rule);
	__u32 zero = 0, places, at, *slot;

	if (!table)
		return 0;
	slot = bpf_map_lookup_elem(table, &zero);
	if (!slot || !*slot)
		return 0;
	places = *slot;
	at = ((__u64)hash * places) >> 32;
	for (int i = 0; i < BALANCE_TRIES; i++) {
		__u32 place = 1 + at;
		struct backend *b;

		slot = bpf_map_lookup_elem(table, &place);
		if (!slot)
			return 0;
		b = backend_at(*slot);
		if (b && b->state == BACKEND_UP && b->hop.out)
			return *slot;
		at++;
		if (at >= places)
			at = 0;
	}
	return 0;
}

#endif
