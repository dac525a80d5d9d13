/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What a destination address is to privlink. */
#ifndef PRIVLINK_ADDRESS_H
#define PRIVLINK_ADDRESS_H

#include "tables.h"
#include "flowtable.h"

struct meaning {
	__u32 link; /* slot */
	__u8 kind;  /* enum address_kind */
	__u8 arp;
	__u16 pad;
};

/* Kind ADDR_NONE when the address is not privlink's in this VNet. A HASH element may become
 * another's while it is read: what it says comes first, in one load, then whose it is.
 */
static __always_inline struct meaning address_find(__u16 vnet, __be32 addr)
{
	struct address_key key = {.addr = addr, .vnet = vnet};
	struct address *a = bpf_map_lookup_elem(&addresses_v1, &key);
	union {
		__u64 word;
		struct meaning of;
	} m = {};

	if (!a)
		return m.of;
	m.word = *(volatile __u64 *)&a->link;
	flow_barrier();
	if (*(volatile __u64 *)&a->key != *(__u64 *)&key)
		m.word = 0;
	return m.of;
}

#endif
