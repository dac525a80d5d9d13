/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What both stresses of the flow table share: faults and delays that are compiled into the table,
 * the workers with their counters, clock and randomness, and rewrites whose every field follows from
 * the others, so that a torn or foreign one shows.
 *
 * The clock ticks in 1.05 ms (nanoseconds >> 20) where the table says seconds: a run of a second then
 * sees some lives of every entry.
 */
#ifndef PRIVLINK_FLOW_STRESS_H
#define PRIVLINK_FLOW_STRESS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "../faults.h"

volatile const enum fault stress_fault = FAULT_NONE;
volatile const __u32 stress_pause =
	0; /* longest delay inside a critical section, in loop turns; 0 = none */

static long pause_turn(__u32 turn, void *unused)
{
	return 0;
}

/*
 * Every fourth time, up to stress_pause turns of a loop. Global functions: the verifier walks them
 * once and not wherever the table may pause.
 */
__noinline int stress_wait(void)
{
	__u32 random;

	if (!stress_pause)
		return 0;
	random = bpf_get_prandom_u32();
	if (!(random & 3))
		bpf_loop((random >> 2) % stress_pause, pause_turn, NULL, 0);
	return 0;
}

/* Where a fault opens a gap: time for another CPU to find an entry, end it and sweep its slot. */
#define STRESS_GAP 20000

__noinline int stress_gap(void)
{
	bpf_loop(STRESS_GAP, pause_turn, NULL, 0);
	return 0;
}

#define FLOW_FAULT(fault) (stress_fault == (fault))
#define FLOW_PAUSE()                   \
	do {                           \
		if (stress_pause)      \
			stress_wait(); \
	} while (0)
#define FLOW_FAULT_PAUSE() stress_gap()
#include "../flowtable.h"

/* What Go has to know too; a test compares. */
volatile const enum slot_state stress_first_state = SLOT_FREE;
volatile const __u32 stress_window = FLOW_WINDOW;
volatile const __u32 stress_home_bits = FLOW_HOME_BITS;

/* What a worker counted. Everything from `foreign` to `lone_halves` must be 0. */
struct counts {
	__u64 operations;
	__u64 hits;
	__u64 inserted;    /* FLOW_NEW */
	__u64 existing;    /* FLOW_EXISTS */
	__u64 resting;     /* FLOW_RESTING */
	__u64 locked;      /* FLOW_LOCKED */
	__u64 full;        /* FLOW_FULL */
	__u64 revived;     /* of the inserted */
	__u64 ended;       /* entries, by workers and sweep */
	__u64 freed;       /* entries */
	__u64 overtaken;   /* pairs whose forward half another worker opened first */
	__u64 foreign;     /* rewrites of another key, or of two */
	__u64 missing;     /* entries that had to be found and were not */
	__u64 ghosts;      /* entries that were found and had been ended */
	__u64 duplicates;  /* second live entries of a key */
	__u64 same_states; /* claims of a slot that gave it the state word it had before */
	__u64 stale_bits;  /* bits of a home for a slot that was freed */
	__u64 lone_halves; /* live forward halves without a live reverse half of the same owner */
	__u64 early;       /* ticks, longest: how much too early a port was used again */
	__u64 held_up; /* ticks, longest: one operation; no more than that is `early` an error */
};

struct worker {
	__u64 random;
	__u32 cursor; /* of the sweep */
	__u32 pad;
	struct counts counts;
};

/* A worker is a CPU; more than eight share. */
#define STRESS_WORKERS 8

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STRESS_WORKERS);
	__type(key, __u32);
	__type(value, struct worker);
} workers SEC(".maps");

volatile const __u32 stress_batch = 1000; /* operations of one program run */
volatile const __u32 stress_idle = 100;   /* ticks after which the sweep ends an entry */
volatile const __u32 stress_grace = 0;    /* ticks a DEAD entry keeps its slot */
volatile const __u32 stress_rest = 0;     /* ticks before a key's DEAD slot is taken again */

static __always_inline __u32 stress_clock(void)
{
	return bpf_ktime_get_ns() >> 20;
}

static __always_inline __u64 stress_random(struct worker *w)
{
	__u64 x = w->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	w->random = x;
	return x * 0x2545f4914f6cdd1dull;
}

/* A number below `below` out of 32 random bits. */
static __always_inline __u32 stress_scale(__u64 random, __u32 below)
{
	return (random & 0xffffffff) * below >> 32;
}

/* The rewrite of an owner: nonce stands in saddr, everything else follows from owner and nonce. */
static __always_inline void stress_fill(struct rewrite *rw, __u32 owner, __u32 nonce, __u32 daddr,
                                        __u16 flags)
{
	__u64 mix = ((__u64)owner << 32 | nonce) * 0x9fb21c651e98df25ull + daddr;

	mix ^= mix >> 29;
	rw->saddr = nonce;
	rw->daddr = daddr;
	rw->sport = mix;
	rw->dport = mix >> 16;
	rw->l3_delta = mix >> 32;
	rw->l4_delta = mix >> 48;
	rw->via.word = mix * 0xd6e8feb86659fd93ull;
	rw->tag.of.link = owner;
	rw->tag.of.link_gen = nonce;
	rw->tag.of.flags = flags;
}

static __always_inline bool stress_whole(const struct rewrite *rw, __u32 owner)
{
	struct rewrite want;

	stress_fill(&want, owner, rw->saddr, rw->daddr, rw->tag.of.flags);
	return rw->sport == want.sport && rw->dport == want.dport &&
	       rw->l3_delta == want.l3_delta && rw->l4_delta == want.l4_delta &&
	       rw->via.word == want.via.word && rw->tag.word == want.tag.word;
}

static __always_inline void stress_count_insert(struct counts *c, int result,
                                                const struct flow_insert *a)
{
	if (result == FLOW_NEW) {
		c->inserted++;
		c->revived += a->revived;
	} else if (result == FLOW_EXISTS) {
		c->existing++;
	} else if (result == FLOW_RESTING) {
		c->resting++;
	} else if (result == FLOW_LOCKED) {
		c->locked++;
	} else {
		c->full++;
	}
}

static __always_inline void stress_held_up(struct counts *c, __u32 since)
{
	__u32 ticks = stress_clock() - since;

	if (ticks > c->held_up)
		c->held_up = ticks;
}

/* The slot that the sweep of this worker looks at next. */
static __always_inline __u32 stress_next_slot(struct worker *w)
{
	__u32 slot = w->cursor;

	w->cursor = slot + 1 < flow_homes + FLOW_WINDOW ? slot + 1 : 0;
	return slot;
}

/* A run of a program: `step` as often as stress_batch says, as the worker of this CPU. */
struct run {
	__u32 worker;
};

char _license[] SEC("license") = "Dual BSD/GPL";

#endif
