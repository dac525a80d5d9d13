/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The flow table: open addressing in an ARRAY that user space maps, one cache line an entry.
 *
 * Everything a packet or a sweep does to the table stands in this file: find, insert, end, free,
 * and the small steps a sweep over slots is made of. Nothing else knows what the table is.
 *
 * The map has flow_homes + FLOW_WINDOW slots. A key hashes to its home, a slot below flow_homes,
 * and lives somewhere in the window of FLOW_WINDOW slots that begins there. There is no wrap, so
 * any number of homes will do, and no probe chain: the home word of the home slot has a bit for
 * every slot of the window that holds a key of this home. A miss without bits reads one line.
 *
 * The state word publishes, ends and protects an entry:
 *
 *	FREE -> BUSY	insert claims the slot, by compare-and-swap
 *	BUSY -> LIVE	insert publishes what it wrote
 *	LIVE -> DEAD	flow_end: nothing finds it, but slot, port and quota are still held
 *	DEAD -> BUSY	flow_free, or an insert of the same key that revives its old slot
 *	BUSY -> FREE	flow_free, after the bit of the home is cleared
 *
 * The rules, on which every line below rests:
 *
 *  1. Only the CPU whose compare-and-swap made a slot BUSY writes its key, its rewrite and its bit.
 *     The two words rw.via and rw.tag of a live entry may be changed by 64-bit compare-and-swap.
 *  2. Every claim raises the sequence in the state word. A reader copies what it needs and reads
 *     the state again: any change is a miss. So an element that was reused while somebody was held
 *     up in the middle of reading it never shows one tenant the rewrite of another.
 *  3. Two inserts of one key meet at the lock bit of their home; one of them gets FLOW_EXISTS.
 *     Inserts of different keys meet at the slot; the loser takes the next.
 *  4. The bit is set before the entry is LIVE. The other way round somebody could end and free it
 *     first, and the late bit would point to nothing.
 *  5. An end writes the stamp first: a DEAD entry with the stamp of its last packet would be freed
 *     at once, its NAT port without rest.
 *  6. Ages are signed differences of seconds: a stamp may be newer than the reader's clock.
 *  7. A pair is made reverse half first and ended forward half first, so that a LIVE forward half
 *     implies a LIVE reverse half of the same owner.
 *
 * What it needs: mmapable ARRAY (5.5), 32-bit atomics with fetch (5.12, -mcpu=v3). x86 keeps loads
 * and stores in order. arm64 does not; see FLOW_STATE and flow_after.
 */
#ifndef PRIVLINK_FLOWTABLE_H
#define PRIVLINK_FLOWTABLE_H

#include <stdbool.h>
#include "types.h"

/* The window: slots a key may stand in. At most 30, the bits that the home word has for them. */
#define FLOW_WINDOW 30
#define FLOW_HOME_BITS \
	0x3fffffffu /* home word, bits 0-29: slot home + i holds a key of this home */
#define FLOW_HOME_LOCK 0x40000000u /* home word, bit 30: somebody inserts a key of this home */

/* The state word: bits 0-1 an enum slot_state, 2-6 the distance from the home, 7-31 the sequence. */
enum slot_state {
	SLOT_FREE = 0,
	SLOT_BUSY = 1,
	SLOT_LIVE = 2,
	SLOT_DEAD = 3,
};

#define FLOW_STATE_MASK      3u
#define FLOW_DISTANCE(state) ((state) >> 2 & 31)
#define FLOW_SEQUENCE(state) ((state) & ~127u)
#define FLOW_SEQUENCE_STEP   128u

/* Tries of an insert at the lock of its home: some microseconds, longer than any holder needs. */
#define FLOW_LOCK_TRIES 128

/*
 * Tests compile faults and delays into the places where they would hurt (faults.h, hold.h and
 * test/flow_stress.h). Everybody else gets neither.
 */
#ifndef FLOW_FAULT
#define FLOW_FAULT(fault) 0
#endif
#ifndef FLOW_PAUSE
#define FLOW_PAUSE() \
	do {         \
	} while (0)
#endif
#ifndef FLOW_PAUSE_READ
#define FLOW_PAUSE_READ() FLOW_PAUSE()
#endif
#ifndef FLOW_FAULT_PAUSE
#define FLOW_FAULT_PAUSE() FLOW_PAUSE()
#endif

_Static_assert(sizeof(struct rewrite) == 32, "the rewrite is half a cache line");
_Static_assert(sizeof(struct flow_key) == 16, "a key is two words");
_Static_assert(_Alignof(struct flow_key) == 8, "keys are compared as words, on the stack too");
#ifndef OTHER_LAYOUT
_Static_assert(sizeof(struct flow) == 64, "an entry is one cache line");
_Static_assert(__builtin_offsetof(struct flow, key) == 16, "layout");
_Static_assert(__builtin_offsetof(struct flow, rw) == 32, "layout");
#endif

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 64); /* the loader sets flow_homes + FLOW_WINDOW */
	__type(key, __u32);
	__type(value, struct flow);
} flows_v1 SEC(".maps");

/* Set by the loader: how many slots are homes, and random numbers, the first four odd. */
volatile const __u32 flow_homes = 64 - FLOW_WINDOW;
volatile const __u64 flow_seed[5] = {};

/*
 * Number of the only bit set in x is flow_bit[x * 0x077cb531 >> 27]. Volatile, or clang recognizes
 * the idiom and asks for an instruction that BPF has not.
 */
static volatile const __u8 flow_bit[32] = {0,  1,  28, 2,  29, 14, 24, 3,  30, 22, 20,
                                           15, 25, 17, 4,  8,  31, 27, 13, 23, 21, 19,
                                           16, 7,  26, 12, 18, 6,  11, 5,  10, 9};

/* A word of a key or an entry: may alias the named fields, which is how everybody else writes them. */
typedef __u64 __attribute__((may_alias)) flow_word;

#define FLOW_READ(x)   (*(volatile typeof(x) *)&(x))
#define flow_barrier() asm volatile("" ::: "memory")

/*
 * The state word where an entry is going to be changed. On arm64, where loads overtake each other,
 * a full barrier: an atomic addition of nothing. It writes the line, which is too dear for lookups;
 * they order their loads by address dependency, with flow_after.
 */
#ifdef __TARGET_ARCH_arm64
#define FLOW_STATE(f) __sync_fetch_and_add(&(f)->state, 0)
#else
#define FLOW_STATE(f) FLOW_READ((f)->state)
#endif

/*
 * Makes a claimed entry LIVE or FREE: everybody who sees this state sees what was written before. x86
 * keeps stores in order, so a plain one does, without the wait of an exchange; arm64 does not.
 */
static __always_inline void flow_publish(struct flow *f, __u32 state)
{
	flow_barrier();
#ifdef __TARGET_ARCH_arm64
	__sync_lock_test_and_set(&f->state, state);
#else
	FLOW_READ(f->state) = state;
#endif
	flow_barrier();
}

/* f again, in such a way that loads through it come after the load that gave `seen`. */
static __always_inline struct flow *flow_after(struct flow *f, __u64 seen)
{
	flow_barrier();
#ifdef __TARGET_ARCH_arm64
	asm volatile("%0 &= 0" : "+r"(seen));
	return (void *)f + seen;
#else
	(void)seen;
	return f;
#endif
}

/* Entry of a slot, NULL beyond the table. Inlined by the verifier, no call. */
static __always_inline struct flow *flow_at(__u32 slot)
{
	return bpf_map_lookup_elem(&flows_v1, &slot);
}

/* Seconds since stamp; negative when the stamp is newer than this clock. */
static __always_inline __s32 flow_age(__u32 now, __u32 stamp)
{
	return (__s32)(now - stamp);
}

/* Distance of the lowest slot in a home word that is not 0. */
static __always_inline __u32 flow_lowest(__u32 home)
{
	return flow_bit[((home & -home) * 0x077cb531u) >> 27];
}

/*
 * Hash of a key: multilinear, strongly universal in its upper half, then a mix that breaks its
 * linearity (ports in sequence must not become slots in an arithmetic progression). 6 ns less than
 * jhash.
 */
static __always_inline __u32 flow_hash(const struct flow_key *key)
{
	const flow_word *k = (const flow_word *)key;
	__u64 h = flow_seed[4];

	h += (__u32)k[0] * flow_seed[0] + (k[0] >> 32) * flow_seed[1];
	h += (__u32)k[1] * flow_seed[2] + (k[1] >> 32) * flow_seed[3];
	h ^= h >> 32;
	h *= 0x9fb21c651e98df25ull;
	h ^= h >> 29;
	h *= 0xd6e8feb86659fd93ull;
	return h >> 32;
}

/* Home slot of a key: the range by multiplication. */
static __always_inline __u32 flow_home(const struct flow_key *key)
{
	return (__u64)flow_hash(key) * flow_homes >> 32;
}

static __always_inline bool flow_has_key(struct flow *f, const struct flow_key *key)
{
	flow_word *have = (flow_word *)&f->key;
	const flow_word *want = (const flow_word *)key;

	return FLOW_READ(have[0]) == want[0] && FLOW_READ(have[1]) == want[1];
}

/* Is f this key's live entry? Copies it first and asks whether it was the same one all the time.
 * `lookup` only says where a test may make a pause.
 */
static __always_inline bool flow_match_at(struct flow *f, const struct flow_key *key,
                                          struct rewrite *out, __u32 *state, __u32 *stamp,
                                          bool lookup)
{
	__u32 seen = FLOW_STATE(f);

	if ((seen & FLOW_STATE_MASK) != SLOT_LIVE || !flow_has_key(f, key))
		return false;
	if (lookup)
		FLOW_PAUSE_READ();
	else
		FLOW_PAUSE();
	flow_barrier();
	*out = f->rw;
	*stamp = FLOW_READ(f->stamp);
	flow_barrier();
	*state = seen;
	return FLOW_FAULT(FAULT_NO_RECHECK) || FLOW_STATE(f) == seen;
}

static __always_inline bool flow_match(struct flow *f, const struct flow_key *key,
                                       struct rewrite *out, __u32 *state, __u32 *stamp)
{
	return flow_match_at(f, key, out, state, stamp, false);
}

/* The same for lookups, which must not write the line: see FLOW_STATE. */
#ifdef __TARGET_ARCH_arm64
static __always_inline bool flow_match_lookup(struct flow *f, const struct flow_key *key,
                                              struct rewrite *out, __u32 *state, __u32 *stamp)
{
	const flow_word *want = (const flow_word *)key, *copy = (const flow_word *)out;
	__u32 seen = FLOW_READ(f->state), then;
	struct flow *d;
	flow_word *have;
	__u64 k0, k1;

	if ((seen & FLOW_STATE_MASK) != SLOT_LIVE)
		return false;
	d = flow_after(f, seen);
	have = (flow_word *)&d->key;
	k0 = FLOW_READ(have[0]);
	if (k0 != want[0])
		return false;
	k1 = FLOW_READ(have[1]);
	if (k1 != want[1])
		return false;
	FLOW_PAUSE_READ();
	flow_barrier();
	*out = d->rw;
	then = FLOW_READ(d->stamp);
	*stamp = then;
	*state = seen;
	d = flow_after(f, k0 ^ k1 ^ then ^ copy[0] ^ copy[1] ^ copy[2] ^ copy[3]);
	return FLOW_FAULT(FAULT_NO_RECHECK) || FLOW_READ(d->state) == seen;
}
#else
#define flow_match_lookup(f, key, out, state, stamp) flow_match_at(f, key, out, state, stamp, true)
#endif

/*
 * The live entry of a key, or NULL. A hit fills the copy of its rewrite, its slot, its state word
 * (what flow_end and flow_same take) and its stamp, all of one and the same entry; on a miss they
 * hold nothing that may be used. Whoever reads more of the entry asks flow_same afterwards.
 */
static __always_inline struct flow *flow_find(const struct flow_key *key, struct rewrite *out,
                                              __u32 *slot, __u32 *state, __u32 *stamp)
{
	__u32 home = flow_home(key), bits;
	struct flow *f = flow_at(home);

	if (!f)
		return NULL;
	*slot = home;
	if (flow_match_lookup(f, key, out, state, stamp))
		return f;
	bits = FLOW_READ(f->home) & FLOW_HOME_BITS & ~1u;
	for (int i = 1; i < FLOW_WINDOW && bits; i++, bits &= bits - 1) {
		*slot = home + flow_lowest(bits);
		f = flow_at(*slot);
		if (f && flow_match_lookup(f, key, out, state, stamp))
			return f;
	}
	return NULL;
}

/* Is f still the entry whose state word was `state`, neither ended nor reused? */
static __always_inline bool flow_same(struct flow *f, __u32 state)
{
	flow_barrier();
	return FLOW_STATE(f) == state;
}

/*
 * Copies an entry in any state. False when it changed meanwhile, and the copy may be of two. Does
 * not write the line, so iterators, which get their entry read-only, may use it as well.
 */
static __always_inline bool flow_snapshot(struct flow *f, struct flow *copy)
{
	const flow_word *w = (const flow_word *)copy;
	__u32 seen = FLOW_READ(f->state);

	*copy = *flow_after(f, seen);
	copy->state = seen;
	f = flow_after(f, w[0] ^ w[1] ^ w[2] ^ w[3] ^ w[4] ^ w[5] ^ w[6] ^ w[7]);
	return FLOW_READ(f->state) == seen;
}

/* What flow_insert says. */
enum flow_inserted {
	FLOW_NEW,     /* inserted and live */
	FLOW_EXISTS,  /* the key has a live entry already */
	FLOW_RESTING, /* the key's old entry rests (only with `wait`): take another NAT port */
	FLOW_LOCKED,  /* the home stayed locked: drop the packet, the next one finds the entry */
	FLOW_FULL,    /* no slot left in the window: drop the packet, count it */
};

/* Argument of flow_insert. Clear it whole first: a global function takes initialized memory only. */
struct flow_insert {
	struct flow_key key; /* in */
	struct rewrite rw;   /* in: of the new entry; EXISTS out: of the one that is there */
	__u32 twin;          /* in: slot of the other half, NO_SLOT while there is none */
	__u32 now;           /* in, seconds: the stamp */
	/*
	 * in, seconds: the age from which the key's own DEAD slot is taken again, 0 = at once. Before
	 * that, a key with `wait` is refused as RESTING (reverse halves: the NAT port rests) and
	 * another one takes a free slot, so that it may have several DEAD ones. Not more than the
	 * age from which the sweep frees, or that ends the rest.
	 */
	__u32 rest;
	__u32 wait;  /* in, 0 or 1 */
	__u32 slot;  /* out, NEW and EXISTS */
	__u32 state; /* out, NEW and EXISTS: the state word */
	__u32 stamp; /* out, EXISTS, seconds */
	__u32 revived; /* out, NEW: 1 if the slot was the key's own DEAD one, so that no sweep frees that */
	__u64 revived_tag; /* out, with revived: rw.tag of that old entry */
};

/*
 * Inserts a key that has no live entry; returns an enum flow_inserted. A global function, because
 * the verifier then walks it once and not in every place it is called from: a third of the work on
 * 6.1, for 10 ns an insert. Loops begin at their heads: 6.1 refuses one that clang lays out with
 * its entry in the middle ("back-edge").
 */
__attribute__((noinline)) int flow_insert(struct flow_insert *a)
{
	__u32 home, now, bits = 0, own = FLOW_WINDOW, own_state = 0;
	struct flow *h, *f;
	int result = FLOW_FULL;

	if (!a)
		return FLOW_FULL;
	home = flow_home(&a->key);
	now = a->now;
	h = flow_at(home);
	if (!h)
		return FLOW_FULL;
	for (int i = 0; i < FLOW_LOCK_TRIES; i++) {
		bits = FLOW_READ(h->home);
		if (FLOW_FAULT(FAULT_NO_LOCK))
			goto locked;
		if (!(bits & FLOW_HOME_LOCK) &&
		    __sync_val_compare_and_swap(&h->home, bits, bits | FLOW_HOME_LOCK) == bits)
			goto locked;
	}
	return FLOW_LOCKED;

locked:
	/* Under the lock no other key of this home appears: look through all that are there. */
	for (int i = 0; i < FLOW_WINDOW && (bits & FLOW_HOME_BITS); i++, bits &= bits - 1) {
		__u32 distance = flow_lowest(bits & FLOW_HOME_BITS);
		struct rewrite there;
		__u32 state, stamp;

		f = flow_at(home + distance);
		if (!f)
			break;
		if (flow_match(f, &a->key, &there, &state, &stamp)) {
			a->rw = there;
			a->slot = home + distance;
			a->state = state;
			a->stamp = stamp;
			result = FLOW_EXISTS;
			goto unlock;
		}
		state = FLOW_STATE(f);
		if ((state & FLOW_STATE_MASK) != SLOT_DEAD || !flow_has_key(f, &a->key))
			continue;
		if (FLOW_FAULT(FAULT_NO_REST) ||
		    flow_age(now, FLOW_READ(f->stamp)) >= (__s32)a->rest) {
			own = distance;
			own_state = state;
		} else if (a->wait) {
			result = FLOW_RESTING;
			goto unlock;
		}
	}
	/* First the own DEAD slot, then any free one. */
	for (int n = -1; n < FLOW_WINDOW; n++) {
		__u32 distance = n < 0 ? own : n, old, mine;

		if (distance >= FLOW_WINDOW)
			continue;
		f = flow_at(home + distance);
		if (!f)
			break;
		old = n < 0 ? own_state : FLOW_READ(f->state);
		if (n >= 0 && (old & FLOW_STATE_MASK) != SLOT_FREE)
			continue;
		mine = (FLOW_SEQUENCE(old) + FLOW_SEQUENCE_STEP) | distance << 2;
		if (FLOW_FAULT(FAULT_SAME_SEQUENCE))
			mine = FLOW_SEQUENCE(old) | distance << 2;
		if (__sync_val_compare_and_swap(&f->state, old, mine | SLOT_BUSY) != old)
			continue;
		if (n < 0) {
			a->revived = 1;
			a->revived_tag = FLOW_READ(f->rw.tag.word);
		}
		if (FLOW_FAULT(FAULT_EARLY_LIVE)) {
			flow_publish(f, mine | SLOT_LIVE);
			FLOW_FAULT_PAUSE();
		}
		f->key = a->key;
		FLOW_PAUSE();
		f->rw = a->rw;
		f->stamp = now;
		f->twin = a->twin;
		/* The bit before LIVE: whoever frees the slot must find it, to clear it. */
		if (!FLOW_FAULT(FAULT_BIT_LATE))
			__sync_fetch_and_or(&h->home, 1u << distance);
		FLOW_PAUSE();
		flow_publish(f, mine | SLOT_LIVE);
		if (FLOW_FAULT(FAULT_BIT_LATE)) {
			FLOW_FAULT_PAUSE();
			__sync_fetch_and_or(&h->home, 1u << distance);
		}
		a->slot = home + distance;
		a->state = mine | SLOT_LIVE;
		result = FLOW_NEW;
		break;
	}
unlock:
	__sync_fetch_and_and(&h->home, ~FLOW_HOME_LOCK);
	return result;
}

/*
 * Names the other half in f, the reverse one, after both are inserted; `state` is what the insert of
 * f gave. False when f was ended meanwhile. The exchange orders the link before whatever its maker
 * reads next: if it then finds the forward half ended (flow_same), it ends f as well, because who
 * ended that may have come too early to see the link (flow_end_pair, which reads in turn).
 */
static __always_inline bool flow_link(struct flow *f, __u32 state, __u32 twin)
{
	if (!flow_same(f, state))
		return false;
	__sync_lock_test_and_set(&f->twin, twin);
	return flow_same(f, state);
}

/*
 * LIVE to DEAD; false when the entry is no longer the one of `state`. Slot, key and bit stay until
 * flow_free. A half that never carried a packet needs no rest: give it now - rest. (If the slot
 * changed hands, the stamp of the other entry gets this clock: one packet's worth of life.)
 */
static __always_inline bool flow_end(struct flow *f, __u32 state, __u32 now)
{
	if (!FLOW_FAULT(FAULT_LATE_STAMP))
		FLOW_READ(f->stamp) = now;
	flow_barrier();
	FLOW_PAUSE();
	if (FLOW_FAULT(FAULT_BLIND_END)) {
		f->state = state ^ SLOT_LIVE ^ SLOT_DEAD;
		return true;
	}
	return __sync_val_compare_and_swap(&f->state, state, state ^ SLOT_LIVE ^ SLOT_DEAD) ==
	       state;
}

/*
 * DEAD to FREE; false when the entry is no longer the one of `state`. Who calls this has waited out
 * the age that protects holders of the slot's number and the rest of the port, and has read what it
 * needs: true says that all of that was this entry's. With the return the slot is anybody's.
 */
static __always_inline bool flow_free(struct flow *f, __u32 slot, __u32 state)
{
	struct flow *h;

	if (__sync_val_compare_and_swap(&f->state, state, state ^ SLOT_DEAD ^ SLOT_BUSY) != state)
		return false;
	FLOW_PAUSE();
	h = flow_at(slot - FLOW_DISTANCE(state));
	if (h && !FLOW_FAULT(FAULT_BIT_STAYS))
		__sync_fetch_and_and(&h->home, ~(1u << FLOW_DISTANCE(state)));
	flow_publish(f, FLOW_SEQUENCE(state) | SLOT_FREE);
	return true;
}

/*
 * The other half of the entry in `slot`, if it is live and points back; else NULL, which counts as
 * idle. With it come its state word (for flow_end: does nothing if the slot changed hands) and its
 * stamp.
 */
static __always_inline struct flow *flow_twin(__u32 slot, __u32 twin, __u32 *state, __u32 *stamp)
{
	struct flow *t = twin == NO_SLOT ? NULL : flow_at(twin);

	if (!t)
		return NULL;
	*state = FLOW_STATE(t);
	if ((*state & FLOW_STATE_MASK) != SLOT_LIVE || FLOW_READ(t->twin) != slot)
		return NULL;
	*stamp = FLOW_READ(t->stamp);
	return t;
}

/*
 * Ends a pair, given its forward half: first that, then the reverse half if it points back. False
 * when the forward half was no longer the one of `state`; then nothing was ended.
 */
static __always_inline bool flow_end_pair(struct flow *f, __u32 slot, __u32 state, __u32 now)
{
	__u32 twin = FLOW_READ(f->twin), twin_state, stamp;
	struct flow *t;

	if (FLOW_FAULT(FAULT_REVERSE_FIRST)) {
		t = flow_twin(slot, twin, &twin_state, &stamp);
		if (t && flow_same(f, state))
			flow_end(t, twin_state, now);
		FLOW_FAULT_PAUSE();
	}
	if (!flow_end(f, state, now))
		return false;
	t = flow_twin(slot, twin, &twin_state, &stamp);
	if (t)
		flow_end(t, twin_state, now);
	return true;
}

#endif
