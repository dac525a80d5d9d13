/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a CPU remembers of the flows it opened last, to open the next one faster. What it says is
 * asked again before it is used.
 *
 * Which NAT IP: those before it were half full when it was found, and nothing has drained since
 * (struct refills), so that a set of eight is not asked eight times for every flow.
 *
 * Which line of the flow table: the reverse half of the next flow to a backend will stand at the home
 * of the next port. That line is in no cache, like the home of the forward half, which the packet is
 * looked for at; asked for together, one wait serves both: before the look-up for a SYN, which is likely
 * to find nothing, after it for a datagram. BPF has no prefetch, but a load whose value nobody uses is
 * one, until the next atomic operation waits for it.
 */
#ifndef PRIVLINK_RECENT_H
#define PRIVLINK_RECENT_H

#include "ports.h"

#define RECENT_SETS  16 /* powers of two */
#define RECENT_HOMES 8

/* A place in a NAT set, for one backend port. */
struct recent_nat {
	struct domain_key domain; /* of that place */
	__u32 set;                /* slot */
	__u32 ident;              /* of the set, low half: slots are used again */
	__u32 refills;            /* then */
	__u32 used;               /* ports in use from which it is no longer the one */
};

struct recent {
	struct recent_nat nat[RECENT_SETS];
	__u32 home[RECENT_HOMES]; /* slots */
};

PERCPU(recent_v1, 1, struct recent);

static __always_inline struct recent *recent_own(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&recent_v1, &zero);
}

static __always_inline __u32 refills_count(void)
{
	__u32 zero = 0;
	struct refills *refills = bpf_map_lookup_elem(&refills_v1, &zero);

	return refills ? FLOW_READ(refills->count) : 0;
}

static __always_inline struct recent_nat *recent_nat(const struct domain_key *key)
{
	struct recent *r = recent_own();

	return r ? &r->nat[(key->backend >> 24 ^ key->port >> 8) & (RECENT_SETS - 1)] : NULL;
}

/* After the reverse half of a flow to a backend the next one will have the domain's next port. */
static __always_inline void recent_expect(__u32 backend, const struct flow_key *reverse,
                                          struct domain *d)
{
	struct flow_key next = *reverse;
	struct recent *r = recent_own();
	__s32 bit = port_next(d);

	if (!r || bit < 0)
		return;
	next.dport = bpf_htons(port_of_bit(bit));
	r->home[backend & (RECENT_HOMES - 1)] = flow_home(&next);
}

/* Asks for the lines that a flow opened now is likely to need. */
SLOW int recent_homes_touch(void)
{
	struct recent *r = recent_own();

	if (!r)
		return 0;
	for (int i = 0; i < RECENT_HOMES; i++) {
		struct flow *f = flow_at(r->home[i]);

		if (f)
			(void)FLOW_READ(f->state);
	}
	return 0;
}

#endif
