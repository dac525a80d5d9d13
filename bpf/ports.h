/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * NAT ports. A port is unique per domain: (VNet, protocol, NAT IP, backend, backend port), so
 * each NAT IP serves PORT_COUNT flows to every backend. A domain is one flat bitmap, made by the
 * first packet that needs it. An atomic fetch-or reserves a bit; the insert of the reverse entry
 * remains the check. The bit goes last, when the reverse entry is freed.
 *
 * A next-fit cursor lets a port rest as long as there are others; order is hidden from peers by a
 * permutation with a multiplier coprime to PORT_COUNT (RFC 6056, 3.3).
 */
#ifndef PRIVLINK_PORTS_H
#define PRIVLINK_PORTS_H

#include "tables.h"
#include "flowtable.h"

volatile const __u32 port_step = 1;
volatile const __u32 port_offset = 0;
volatile const __u32 port_inverse = 1;

/* Never written: the value of a new domain, which is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct domain);
} new_domain_v1 SEC(".maps");

/* x % PORT_COUNT, for all 32 bits, without a division: PORT_COUNT is 63 * 1024, and 68174085 / 2^32
 * is so little more than 1 / 63 that the quotient of every number of 22 bits comes out right.
 */
static __always_inline __u32 port_modulo(__u32 x)
{
	__u32 high = x >> 10, sixty_thirds = (__u64)high * 68174085 >> 32;

	return (high - sixty_thirds * 63) << 10 | (x & 1023);
}

_Static_assert(PORT_COUNT == 63 * 1024, "port_modulo");

static __always_inline __u16 port_of_bit(__u32 bit)
{
	return FIRST_PORT + !!MUTANT(7) + port_modulo(bit * port_step + port_offset);
}

static __always_inline __u32 bit_of_port(__u16 port)
{
	__u32 place = port - FIRST_PORT + PORT_COUNT - port_offset;

	return port_modulo(port_modulo(place) * port_inverse);
}

static __always_inline struct domain *domain_find(const struct domain_key *key)
{
	/* 6.1 takes a map's key from the stack, not from the argument of a global function. */
	struct domain_key copy = *key;

	return bpf_map_lookup_elem(&domains_v1, &copy);
}

/* Makes the domain of a key; false when there is no room. Another CPU may be first. */
SLOW int domain_make(struct domain_key *key)
{
	struct domain_key copy;
	struct domain *d;
	__u32 zero = 0, first;
	void *empty;

	if (!key)
		return false;
	empty = bpf_map_lookup_elem(&new_domain_v1, &zero);
	if (!empty)
		return false;
	first = clock_random() % PORT_WORDS;
	copy = *key;
	if (bpf_map_update_elem(&domains_v1, &copy, empty, BPF_NOEXIST))
		return domain_find(key) != NULL;
	d = domain_find(key);
	if (d)
		d->cursor = first;
	return true;
}

/* The domain a reverse half's port belongs to. */
static __always_inline struct domain_key domain_name(const struct flow_key *reverse, __u16 flags)
{
	struct domain_key key = {
		.nat = reverse->daddr,
		.backend = reverse->saddr,
		.port = flags & FLOW_HA ? 0 : reverse->sport,
		.vnet = reverse->vnet,
		.proto = reverse->proto,
	};

	return key;
}

static __always_inline struct domain *domain_of(const struct flow_key *reverse, __u16 flags)
{
	struct domain_key key = domain_name(reverse, flags);

	return domain_find(&key);
}

/* Ends one half; the port of a reverse half begins to rest. */
static __always_inline bool half_end(struct flow *f, __u32 state, __u32 now)
{
	struct flow_key key = f->key;
	union tag tag = {.word = FLOW_READ(f->rw.tag.word)};
	struct domain *d;

	if (!flow_end(f, state, now))
		return false;
	if (!(tag.of.flags & FLOW_REVERSE) || key.kind != KIND_FLOW)
		return true;
	d = domain_of(&key, tag.of.flags);
	if (d)
		__sync_fetch_and_add(&d->resting, 1);
	return true;
}

/* The lowest clear bit of a word that has one, as a mask. */
static __always_inline __u64 lowest_clear(__u64 word)
{
	return ~word & -~word;
}

/* Number of the only bit set: BPF has no count of trailing zeros; clang makes a popcount. */
static __always_inline __u32 bit_number(__u64 mask)
{
	return __builtin_popcountll(mask - 1);
}

struct port_search {
	struct domain *domain;
	__u32 word;
	__s32 bit; /* -1 = none found */
};

/* One word of the bitmap. The callback of bpf_loop: a plain loop over 1,008 words does not pass
 * the verifier.
 */
static long port_search_word(__u32 n, struct port_search *s)
{
	__u32 at = s->word;
	__u64 word;

	if (at >= PORT_WORDS)
		at = 0;
	word = s->domain->word[at];
	for (int i = 0; i < 4; i++) {
		__u64 mask, old;

		if (!~word)
			break;
		mask = lowest_clear(word);
		old = __sync_fetch_and_or(&s->domain->word[at], mask);
		if (!(old & mask)) {
			s->bit = at * 64 + bit_number(mask);
			s->word = at + 1;
			return 1;
		}
		word = old;
	}
	s->word = at + 1;
	return 0;
}

/* Reserves a bit; -1 when every one is set. */
static __always_inline __s32 port_take(struct domain *d)
{
	struct port_search s = {.domain = d, .word = d->cursor, .bit = -1};

	if (d->used >= PORT_COUNT)
		return -1;
	bpf_loop(PORT_WORDS + 1, port_search_word, &s, 0);
	if (s.bit < 0)
		return -1;
	__sync_fetch_and_add(&d->used, 1);
	d->cursor = s.word;
	return s.bit;
}

/* The port that the next flow of a domain will take, if nobody else comes: its bit, -1 = not known. */
static __always_inline __s32 port_next(struct domain *d)
{
	__u32 at = d->cursor;
	__u64 word;

	if (at >= PORT_WORDS)
		at = 0;
	word = d->word[at];
	return ~word ? (__s32)(at * 64 + bit_number(lowest_clear(word))) : -1;
}

/* Clears the bit of a port; how many bits that were set. Not counted yet: port_uncount. */
static __always_inline __u32 port_clear(struct domain *d, __u32 bit)
{
	__u64 mask = 1ull << (bit & 63), old;
	__u32 word = bit / 64;

	/* clang knows that it is in range, the verifier wants to see it asked */
	asm volatile("" : "+r"(word));
	if (word >= PORT_WORDS || MUTANT(8))
		return 0;
	old = __sync_fetch_and_and(&d->word[word], ~mask);
	return !!(old & mask);
}

/* Does it fall below `mark`? */
static __always_inline bool port_drains(__u32 used, __u32 count, __u32 mark)
{
	return used >= mark && used - count < mark;
}

/* So many bits were cleared. */
static __always_inline void port_uncount(struct domain *d, __u32 count)
{
	struct refills *refills;
	__u32 used, zero = 0;

	if (!count)
		return;
	used = __sync_fetch_and_sub(&d->used, count);
	if (!port_drains(used, count, PORT_COUNT) && !port_drains(used, count, PORT_COUNT / 2))
		return;
	refills = bpf_map_lookup_elem(&refills_v1, &zero);
	if (refills)
		__sync_fetch_and_add(&refills->count, 1);
}

static __always_inline void port_release(struct domain *d, __u32 bit)
{
	port_uncount(d, port_clear(d, bit));
}

/* The reverse half of a port was freed, or its slot taken again: the port is anybody's. */
static __always_inline void port_rested(const struct flow_key *reverse, __u16 flags)
{
	struct domain *d = domain_of(reverse, flags);

	if (!d)
		return;
	__sync_fetch_and_sub(&d->resting, 1);
	port_release(d, bit_of_port(bpf_ntohs(reverse->dport)));
}

#endif
