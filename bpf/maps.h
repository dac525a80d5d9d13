/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The maps. A name ends on the version of its layout: a changed layout is a new map,
 * never a pinned one read wrongly. 15 characters at most. What becomes of what is in the old one
 * is said in pkg/dataplane (layouts); a field that goes on has its name and its size there too.
 *
 * Configuration stands in mmapable arrays, written with single stores by pkg/dataplane;
 * the HASH maps only lead to slots of these.
 */
#ifndef PRIVLINK_MAPS_H
#define PRIVLINK_MAPS_H

#include "types.h"
#include "reasons.h"

#define ARRAY(map, entries, type_)                 \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);  \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__uint(max_entries, entries);      \
		__type(key, __u32);                \
		__type(value, type_);              \
	} map SEC(".maps")

#define PERCPU(map, entries, type_)                      \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, entries);            \
		__type(key, __u32);                      \
		__type(value, type_);                    \
	} map SEC(".maps")

#define HASH(map, entries, key_, value_, flags)  \
	struct {                                 \
		__uint(type, BPF_MAP_TYPE_HASH); \
		__uint(map_flags, flags);        \
		__uint(max_entries, entries);    \
		__type(key, key_);               \
		__type(value, value_);           \
	} map SEC(".maps")

ARRAY(table_v1, 1, struct table);
ARRAY(config_v1, 1, struct config);
ARRAY(refills_v1, 1, struct refills);

ARRAY(vnets_v1, MAX_VNETS, struct name);
ARRAY(services_v1, MAX_SERVICES, struct name);
ARRAY(pools_v1, MAX_POOLS, struct name);
ARRAY(ifaces_v1, IFACE_SLOTS, struct iface);
ARRAY(outs_v1, MAX_OUTS, struct out);
ARRAY(links_v1, MAX_LINKS, struct link);
ARRAY(usage_v1, MAX_LINKS, struct usage);
ARRAY(rules_v1, MAX_RULES, struct rule);
ARRAY(natsets_v1, MAX_NATSETS, struct natset);
ARRAY(backends_v1, MAX_BACKENDS, struct backend);
ARRAY(buckets_v1, MAX_OUTS, struct bucket);

PERCPU(link_stats_v1, MAX_LINKS, struct link_stats);
PERCPU(reasons_v2, REASON_COUNT, struct reason_stats);

HASH(addresses_v1, MAX_ADDRESSES, struct address_key, struct address, BPF_F_NO_PREALLOC);
HASH(ruleidx_v1, MAX_RULES, struct rule_key, struct rule_ref, BPF_F_NO_PREALLOC);
HASH(dials_v1, MAX_DIALS, struct dial_key, struct dial, 0);
HASH(domains_v1, MAX_DOMAINS, struct domain_key, struct domain, BPF_F_NO_PREALLOC);

/* A rule's Maglev table: element 0 is the number of places, 0 if there is none; then one
 * backend slot each. The tables differ in size, so the size travels with the table.
 */
struct maglev_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_RULES);
	__type(key, __u32);
	__array(values, struct maglev_table);
} maglev_v1 SEC(".maps");

/* Outputs that take XDP frames, by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, MAX_OUTS);
	__type(key, __u32);
	__type(value, __u32);
} xdp_outs_v1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16); /* bytes */
} events_v1 SEC(".maps");

#endif
