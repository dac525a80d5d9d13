// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Programs the daemon runs: the sweep, the end of single pairs, the clock, and the flows as text.
 */
#define HOOK_TC /* for the types; no packet comes here */
#include "sweep.h"
#include "carry.h"
#include "exports.h"

/* One slice of the table; the argument comes back with what was found, and how far it came. -EBUSY while
 * another runs.
 */
SEC("syscall")
int sweep_slice(struct sweep *s)
{
	struct slice slice = {
		.sweep.first = s->first,
		.sweep.now = clock_now(),
		.sweep.until = bpf_ktime_get_ns() + sweep_budget,
		.end = s->first + s->count,
	};

	if (slice.end > flow_homes + FLOW_WINDOW)
		slice.end = flow_homes + FLOW_WINDOW;

	if (__sync_val_compare_and_swap(&sweeping, 0, 1))
		return -16; /* EBUSY */
	bpf_loop((s->count + SWEEP_TOGETHER - 1) / SWEEP_TOGETHER, sweep_slots, &slice, 0);
	slice_settle(&slice);
	__sync_lock_test_and_set(&sweeping, 0);
	*s = slice.sweep;
	return 0;
}

/* Ends one pair if its forward or reverse half is still the one that user space saw. */
SEC("syscall")
int end_pair(struct ending *e)
{
	struct half h = {.slot = e->slot, .state = e->state};
	struct flow *f = flow_at(h.slot), copy;

	e->done = 0;
	if (!f || !flow_snapshot(f, &copy) || copy.state != h.state ||
	    (copy.state & FLOW_STATE_MASK) != SLOT_LIVE || copy.key.kind != KIND_FLOW)
		return 0;
	h.rw = copy.rw;
	if (e->mark && copy.rw.tag.of.flags & FLOW_TCP)
		pair_mark_ended(&h, clock_now());
	else
		pair_end(&h, clock_now());
	e->done = 1;
	return 0;
}

/* One slice of the table of before; the argument comes back with what was copied. */
SEC("syscall")
int migrate_slice(struct carry *s)
{
	struct carry slice = {.first = s->first, .ids = s->ids};

	bpf_loop(s->count, migrate_slot, &slice, 0);
	slice.count = s->count;
	*s = slice;
	return 0;
}

struct clock_reading {
	__u64 jiffies;
	__u64 monotonic; /* ns, CLOCK_MONOTONIC */
	__u32 now;       /* seconds of the flow clock */
	__u32 pad;
};

/* The flow clock beside one that user space has: how old a stamp is, and how long a jiffy. */
SEC("syscall")
int read_clock(struct clock_reading *c)
{
	c->jiffies = bpf_jiffies64();
	c->monotonic = bpf_ktime_get_ns();
	c->now = clock_now();
	return 0;
}

/* What an iterator gets; the kernel's own names, relocated by BTF. */
struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} __attribute__((preserve_access_index));

struct kallsym_iter;

struct bpf_iter__ksym {
	struct bpf_iter_meta *meta;
	struct kallsym_iter *ksym; /* NULL in the call after the last symbol */
} __attribute__((preserve_access_index));

#define SEQ(seq, format, ...)                                                        \
	({                                                                           \
		static const char format_[] = format;                                \
		__u64 args_[] = {__VA_ARGS__};                                       \
		bpf_seq_printf(seq, format_, sizeof(format_), args_, sizeof(args_)); \
	})

/* A walk through some slots. */
struct lines {
	struct seq_file *seq;
	__u32 first;
};

/* One line a live forward half, the callback of bpf_loop. */
static long flow_line(__u32 n, struct lines *lines)
{
	struct seq_file *seq = lines->seq;
	__u32 slot = lines->first + n;
	struct flow *f = flow_at(slot), copy;
	struct link *link;

	if (!f)
		return 1;
	if (!flow_snapshot(f, &copy) || (copy.state & FLOW_STATE_MASK) != SLOT_LIVE ||
	    copy.key.kind != KIND_FLOW || copy.rw.tag.of.flags & FLOW_REVERSE)
		return 0;
	link = link_at(copy.rw.tag.of.link);
	SEQ(seq, "slot=%u twin=%u vnet=%u proto=%u client=%pI4:%u endpoint=%pI4:%u ", slot,
	    copy.twin, copy.key.vnet, copy.key.proto, (__u64)&copy.key.saddr,
	    bpf_ntohs(copy.key.sport), (__u64)&copy.key.daddr, bpf_ntohs(copy.key.dport));
	SEQ(seq, "nat=%pI4:%u backend=%pI4:%u link=%u linkid=%u phase=%u ", (__u64)&copy.rw.saddr,
	    bpf_ntohs(copy.rw.sport), (__u64)&copy.rw.daddr, bpf_ntohs(copy.rw.dport),
	    copy.rw.tag.of.link, link ? link->link_id : 0, copy.rw.tag.of.flags & PHASE_MASK);
	SEQ(seq, "flags=%x age=%d\n", copy.rw.tag.of.flags, flow_age(clock_now(), copy.stamp));
	return 0;
}

/* Lines of at most 255 bytes that an object of an iteration may print: its buffer has 32 KiB. */
#define LINES_AT_ONCE 128

/*
 * The live flows as text, pinned as `flows`. The walk over the table is the program's own; what the
 * kernel iterates over only calls it often enough. Its symbols do, some 100,000, for tables of 12
 * million slots. An iterator over map elements would be the obvious one, and hardened kernels refuse
 * it (EPERM at load, seen on 6.18).
 */
SEC("iter/ksym")
int flows_text(struct bpf_iter__ksym *ctx)
{
	struct lines lines = {.seq = ctx->meta->seq, .first = ctx->meta->seq_num * LINES_AT_ONCE};
	__u32 slots = flow_homes + FLOW_WINDOW;

	if (lines.first >= slots)
		return 0;
	if (!ctx->ksym)
		SEQ(lines.seq, "# %u slots more: privlink flow list\n", slots - lines.first);
	else
		bpf_loop(LINES_AT_ONCE, flow_line, &lines, 0);
	return 0;
}

/* The texts of the reasons, for Go; the section is dropped before the object is loaded. */
#define REASON_TEXT(name, label, text) {label, text},
const struct reason_text reason_texts[] SEC(".rodata.reasons") = {REASONS(REASON_TEXT)};

char _license[] SEC("license") = "Dual BSD/GPL";
