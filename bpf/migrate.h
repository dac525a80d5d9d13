/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flows of an earlier table: one with another layout or another size, which programs of before wrote
 * and nobody writes any more.
 *
 * Where `migrating` is set, a packet that finds no flow looks into the old table as well, and what
 * is there is copied before the packet goes on: the whole pair, the half that may not be missing
 * first (flowtable.h, rule 7). (ICMP errors do not look there: the stack is too small. What they
 * are about is copied with the next packet of its flow.) The daemon copies the rest (migrate_slice). Ports, quotas and counts
 * stand in maps that both tables share, so a pair that moves changes none of them. When all is
 * copied, programs without `migrating` take over and the old table is given up.
 *
 * The old entry is read field by field, at the offsets the loader takes from the BTF of the old map;
 * home word, state word and hash are those of flowtable.h. A layout that changes what a field means
 * gives the field another name, and is refused by the loader until it is converted here.
 */
#ifndef PRIVLINK_MIGRATE_H
#define PRIVLINK_MIGRATE_H

#include "tables.h"
#include "flowtable.h"

/* The fields that are copied, and their names in struct flow_offsets. */
#define FLOW_FIELDS(FIELD)              \
	FIELD(state, state)             \
	FIELD(home, home)               \
	FIELD(stamp, stamp)             \
	FIELD(twin, twin)               \
	FIELD(key_saddr, key.saddr)     \
	FIELD(key_daddr, key.daddr)     \
	FIELD(key_sport, key.sport)     \
	FIELD(key_dport, key.dport)     \
	FIELD(key_vnet, key.vnet)       \
	FIELD(key_proto, key.proto)     \
	FIELD(key_kind, key.kind)       \
	FIELD(rw_saddr, rw.saddr)       \
	FIELD(rw_daddr, rw.daddr)       \
	FIELD(rw_sport, rw.sport)       \
	FIELD(rw_dport, rw.dport)       \
	FIELD(rw_l3_delta, rw.l3_delta) \
	FIELD(rw_l4_delta, rw.l4_delta) \
	FIELD(rw_via, rw.via.word)      \
	FIELD(rw_tag, rw.tag.word)

#define FLOW_OFFSET_FIELD(name, path) __u16 name;
#define FLOW_OFFSET_OWN(name, path)   .name = __builtin_offsetof(struct flow, path),

struct flow_offsets {
	FLOW_FIELDS(FLOW_OFFSET_FIELD)
};

/* Set by the loader. */
volatile const __u8 migrating = 0;
volatile const __u32 old_homes = 1;
volatile const struct flow_offsets old_offsets = {FLOW_FIELDS(FLOW_OFFSET_OWN)};

/* Replaced by the old table; its values may have any size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} flows_old SEC(".maps");

/* What a copy needs; too large for a stack. */
struct migration {
	struct flow first;  /* the half that leads to the other: forward, or KIND_FRAGMENT */
	struct flow second; /* reverse, or KIND_IPID */
	struct flow_insert insert;
	__u32 slot; /* in: of `first` or `second`, in the old table */
	__u32 now;  /* in */
};

PERCPU(migration_v1, 1, struct migration);

enum migrated {
	MIGRATED,      /* live in the new table, now or before */
	MIGRATED_NOT,  /* no whole pair, or ended since it was copied */
	MIGRATED_HALF, /* the new table has no room for the first half; the second will be swept */
	MIGRATED_LOST, /* the new table has no room for it */
};

/* The daemon's copy: one slice of the old table. */
struct carry {
	__u32 first; /* slot */
	__u32 count;
	__u32 ids;     /* 0 = flows and fragments; 1 = the IP ids that are left after these */
	__u32 pairs;   /* out: live in the new table */
	__u32 resting; /* out: ports that rest */
	__u32 lost;    /* out: pairs and ports for which there was no room */
};

#define OLD_FIELD(f, type, name) (*(volatile type *)((f) + old_offsets.name))
#define OLD_COPY(name, path)     copy->path = OLD_FIELD(f, typeof(copy->path), name);

/* The state word, ordered before and after what is read around it: see FLOW_STATE. */
static __always_inline __u32 old_state(void *f)
{
	flow_barrier();
#ifdef __TARGET_ARCH_arm64
	return __sync_fetch_and_add((__u32 *)(f + old_offsets.state), 0);
#else
	return OLD_FIELD(f, __u32, state);
#endif
}

/* Copies an entry in any state; false when it changed meanwhile. */
static __always_inline bool old_read(__u32 slot, struct flow *copy)
{
	void *f = slot == NO_SLOT ? NULL : bpf_map_lookup_elem(&flows_old, &slot);
	__u32 seen;

	if (!f)
		return false;
	seen = old_state(f);
	FLOW_FIELDS(OLD_COPY)
	copy->state = seen;
	return old_state(f) == seen;
}

/* Slot of a key's live entry, NO_SLOT if there is none; *copy is used for reading. */
static __always_inline __u32 old_find(const struct flow_key *key, struct flow *copy)
{
	__u32 home = (__u64)flow_hash(key) * old_homes >> 32, bits;
	void *f = bpf_map_lookup_elem(&flows_old, &home);

	if (!f)
		return NO_SLOT;
	bits = OLD_FIELD(f, __u32, home) & FLOW_HOME_BITS;
	for (int i = 0; i < FLOW_WINDOW && bits; i++, bits &= bits - 1) {
		__u32 slot = home + flow_lowest(bits);

		if (old_read(slot, copy) && (copy->state & FLOW_STATE_MASK) == SLOT_LIVE &&
		    flow_has_key(copy, key))
			return slot;
	}
	return NO_SLOT;
}

/* Fragments are counted until their id is given up, so nobody may copy them twice. */
static __always_inline bool old_claim(__u32 slot, __u32 state)
{
	void *f = bpf_map_lookup_elem(&flows_old, &slot);

	return f && __sync_val_compare_and_swap((__u32 *)(f + old_offsets.state), state,
	                                        state ^ SLOT_LIVE ^ SLOT_DEAD) == state;
}

/* Reads the pair of which one entry stands in m->slot. */
static __always_inline bool old_pair(struct migration *m)
{
	__u32 slot = m->slot;

	if (!old_read(slot, &m->first) || (m->first.state & FLOW_STATE_MASK) != SLOT_LIVE)
		return false;
	if (m->first.key.kind == KIND_FLOW && m->first.rw.tag.of.flags & FLOW_REVERSE) {
		slot = m->first.twin;
		if (!old_read(slot, &m->first) || (m->first.state & FLOW_STATE_MASK) != SLOT_LIVE ||
		    m->first.twin != m->slot || m->first.rw.tag.of.flags & FLOW_REVERSE)
			return false;
	}
	if (m->first.key.kind == KIND_IPID)
		return false;
	if (!old_read(m->first.twin, &m->second) ||
	    (m->second.state & FLOW_STATE_MASK) != SLOT_LIVE)
		return false;
	if (m->first.key.kind == KIND_FLOW)
		return m->second.twin == slot;
	return m->second.key.kind == KIND_IPID && old_claim(slot, m->first.state) &&
	       old_claim(m->first.twin, m->second.state);
}

/* The scratch space, with a key in it; NULL where nothing is to be copied. */
static __always_inline struct migration *migration_own(const struct flow_key *key)
{
	struct migration *m;
	__u32 zero = 0;

	if (!migrating || !key)
		return NULL;
	m = bpf_map_lookup_elem(&migration_v1, &zero);
	if (m)
		m->insert.key = *key;
	return m;
}

/* Is an IP id given by the programs of before? */
SLOW int old_holds(const struct flow_key *key)
{
	struct migration *m = migration_own(key);

	return m && old_find(&m->insert.key, &m->first) != NO_SLOT;
}

/* Inserts one half. A reverse one that is DEAD in the new table ended since it was copied. */
static __always_inline int migrate_half(struct migration *m, const struct flow *half, __u32 twin,
                                        bool first)
{
	struct flow_insert *in = &m->insert;

	in->key = half->key;
	in->rw = half->rw;
	in->twin = twin;
	in->now = m->now;
	in->rest = first ? 0 : PORT_REST;
	in->wait = !first;
	in->revived = 0;
	return flow_insert(in);
}

/*
 * A packet that met the programs of before when the switch was made may have changed its pair after
 * that was copied. What must not be missed is that the connection came about.
 */
static __always_inline void migrate_phase(struct flow *f, __u16 was)
{
	union tag old = {.word = FLOW_READ(f->rw.tag.word)}, new = old;

	if ((old.of.flags & PHASE_MASK) != PHASE_SYN)
		return;
	new.of.flags |= was &(PHASE_MASK | FLOW_ANSWERED | FLOW_FIN_CLIENT | FLOW_FIN_BACKEND);
	if (new.word != old.word)
		__sync_val_compare_and_swap(&f->rw.tag.word, old.word, new.word);
}

/*
 * Copies the pair of which one entry stands in m->slot of the old table; an enum migrated. Any
 * number of CPUs may do so at the same time, a packet in the middle of the daemon's copy included:
 * who comes second finds the reverse half and goes on where the first one was. Until both halves
 * are linked they have the stamp of now, or a packet would take the pair for idle.
 */
static __always_inline int migrate_pair(struct migration *m)
{
	__u32 reverse, reverse_state;
	struct flow *first, *second;
	int r;

	if (!migrating || !m || !old_pair(m))
		return MIGRATED_NOT;
	r = migrate_half(m, &m->second, NO_SLOT, false);
	if (r == FLOW_RESTING)
		return MIGRATED_NOT;
	if (r != FLOW_NEW && r != FLOW_EXISTS)
		return MIGRATED_LOST;
	reverse = m->insert.slot;
	reverse_state = m->insert.state;
	second = flow_at(reverse);
	r = migrate_half(m, &m->first, reverse, true);
	first = flow_at(m->insert.slot);
	if (!second || !first || (r != FLOW_NEW && r != FLOW_EXISTS))
		return MIGRATED_HALF;
	if (m->first.key.kind != KIND_FLOW)
		return MIGRATED;
	if (r == FLOW_EXISTS) {
		if (FLOW_READ(first->twin) == reverse) {
			migrate_phase(second, m->first.rw.tag.of.flags);
			migrate_phase(first, m->first.rw.tag.of.flags);
		}
		return MIGRATED;
	}
	if (!flow_link(second, reverse_state, m->insert.slot)) {
		flow_end(first, m->insert.state, m->now);
		return MIGRATED_NOT;
	}
	if (FLOW_READ(first->stamp) == m->now)
		FLOW_READ(first->stamp) = m->first.stamp;
	if (FLOW_READ(second->stamp) == m->now)
		FLOW_READ(second->stamp) = m->second.stamp;
	return MIGRATED;
}

/* Copies what the old table has for a key that the new one has not. */
SLOW int migrate_key(const struct flow_key *key, __u32 now)
{
	struct migration *m = migration_own(key);

	if (!m)
		return false;
	m->now = now;
	m->slot = old_find(&m->insert.key, &m->first);
	return m->slot != NO_SLOT && migrate_pair(m) == MIGRATED;
}

#endif
