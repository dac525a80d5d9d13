// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The flow table beside a preallocated HASH with the same keys and values: what finding and making
 * an entry costs. Each run of a program does BENCH_TURNS of the same; pkg/dataplane/flowtable times it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "../flowtable.h"

#define BENCH_TURNS 1000

volatile const __u32 bench_turns = BENCH_TURNS;
volatile const __u32 bench_keys = 1000;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct flow_key);
	__type(value, struct rewrite);
} hash SEC(".maps");

/* One more than the turn that ran last; what the turns of a run found or made. */
__u32 bench_next;
__u32 bench_done;

static __always_inline struct flow_key bench_key(__u32 n)
{
	return (struct flow_key){
		.saddr = n * 2654435761u, .daddr = 7, .sport = n, .vnet = 1, .proto = 6};
}

static __always_inline struct flow_key random_key(void)
{
	return bench_key((__u64)bpf_get_prandom_u32() * bench_keys >> 32);
}

static long fill_turn(__u32 turn, void *unused)
{
	struct flow_insert a = {.key = bench_key(bench_next), .twin = NO_SLOT};

	a.rw.tag.word = bench_next;
	if (flow_insert(&a) == FLOW_NEW && !bpf_map_update_elem(&hash, &a.key, &a.rw, BPF_NOEXIST))
		bench_done++;
	bench_next++;
	return 0;
}

static long find_table_turn(__u32 turn, void *unused)
{
	struct flow_key key = random_key();
	__u32 slot, state, stamp;
	struct rewrite rw;

	if (flow_find(&key, &rw, &slot, &state, &stamp))
		bench_done += rw.tag.word < bench_keys;
	return 0;
}

static long find_hash_turn(__u32 turn, void *unused)
{
	struct flow_key key = random_key();
	struct rewrite rw, *found = bpf_map_lookup_elem(&hash, &key);

	if (found) {
		rw = *found;
		flow_barrier();
		bench_done += rw.tag.word < bench_keys;
	}
	return 0;
}

/* Makes an entry and takes it away: insert, end, free. */
static long open_table_turn(__u32 turn, void *unused)
{
	struct flow_insert a = {.key = bench_key(bench_keys + turn), .twin = NO_SLOT};
	struct flow *f;

	if (flow_insert(&a) != FLOW_NEW)
		return 0;
	f = flow_at(a.slot);
	if (f && flow_end(f, a.state, 0))
		bench_done += flow_free(f, a.slot, a.state ^ SLOT_LIVE ^ SLOT_DEAD);
	return 0;
}

static long open_hash_turn(__u32 turn, void *unused)
{
	struct flow_key key = bench_key(bench_keys + turn);
	struct rewrite rw = {};

	if (!bpf_map_update_elem(&hash, &key, &rw, BPF_NOEXIST))
		bench_done += !bpf_map_delete_elem(&hash, &key);
	return 0;
}

#define BENCH(name)                                          \
	SEC("xdp")                                           \
	int name(struct xdp_md *ctx)                         \
	{                                                    \
		bench_done = 0;                              \
		bpf_loop(bench_turns, name##_turn, NULL, 0); \
		return XDP_PASS;                             \
	}

BENCH(fill)
BENCH(find_table)
BENCH(find_hash)
BENCH(open_table)
BENCH(open_hash)

char _license[] SEC("license") = "Dual BSD/GPL";
