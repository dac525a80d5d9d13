/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Configuration as another version might have it: fields at other places, and one that only the State
 * says (types.h). What the tests of pkg/dataplane migrate from.
 */
#ifndef PRIVLINK_OTHER_CONFIG_H
#define PRIVLINK_OTHER_CONFIG_H

struct out {
	__u64 ident;
	__u64 more[3];
	__u32 ifindex;
	__u16 mtu;
	__u16 vlan;
	__u8 mac[6];
	__u16 vnet;
	__u8 flags;
	__u8 pad[7];
};

struct link {
	__u64 more;
	__u32 quota_of_before; /* as if it were another field: only the State says it */
	__u32 service;
	__be32 addr;
	__u16 gen;
	__u8 state;
	__u8 pad;
	__u16 epoch;
	__u16 vnet;
	__u32 link_id;
	__u64 ident;
};
#define max_flows quota_of_before

struct link_stats {
	__u64 dropped;
	__u64 more[3];
	__u64 refused;
	__u64 opened;
	__u64 bytes_out;
	__u64 packets_out;
	__u64 bytes_in;
	__u64 packets_in;
};

struct address {
	__u32 link;
	__u8 kind;
	__u8 arp;
	__u16 pad;
	struct address_key key;
	__u64 more;
};

struct natset {
	__be32 addr[MAX_NAT_IPS];
	__u16 vnet;
	__u8 count;
	__u8 pad[5];
	__u64 ident;
};

struct backend {
	__u32 pool;
	__u32 rule;
	__u32 idle_udp;
	__u32 idle_tcp;
	__u16 gen;
	__u8 state;
	__u8 flags;
	__u16 vnet;
	__be16 port;
	__be32 addr;
	struct hop hop;
	__u64 more[10];
	__u64 ident;
};

#endif
