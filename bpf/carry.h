/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The daemon's part of a migration (migrate.h): it visits every slot of the old table once, after
 * nobody uses that any more, and copies what no packet has asked for.
 *
 *	live pair		copied, unless a packet was first
 *	reverse half, DEAD	copied as such: its port goes on resting
 *	reverse half alone	the same: what an opening left
 *	IP id			with its fragments, or alone after them
 */
#ifndef PRIVLINK_CARRY_H
#define PRIVLINK_CARRY_H

#include "sweep.h"

/* No room for a reverse half: its port and its quota are given back. */
static __always_inline void carry_lost(const struct flow *reverse, bool resting)
{
	struct domain *d = domain_of(&reverse->key, reverse->rw.tag.of.flags);

	usage_return(&reverse->rw.tag);
	if (!d)
		return;
	if (resting)
		__sync_fetch_and_sub(&d->resting, 1);
	port_release(d, bit_of_port(bpf_ntohs(reverse->key.dport)));
}

/* A reverse half without its forward half, m->first, becomes a DEAD one. */
static __always_inline void carry_resting(struct carry *s, struct migration *m)
{
	bool resting = (m->first.state & FLOW_STATE_MASK) == SLOT_DEAD;
	int r = migrate_half(m, &m->first, NO_SLOT, false);
	struct flow *f = flow_at(m->insert.slot);

	if (r == FLOW_EXISTS || r == FLOW_RESTING)
		return;
	if (r != FLOW_NEW || !f) {
		carry_lost(&m->first, resting);
		s->lost++;
		return;
	}
	s->resting++;
	if (resting)
		flow_end(f, m->insert.state, m->first.stamp);
	else
		half_end(f, m->insert.state, m->now);
}

static __always_inline void carry_live(struct carry *s, struct migration *m)
{
	int r;

	if (m->first.key.kind == KIND_IPID) {
		if (s->ids && old_claim(m->slot, m->first.state))
			migrate_half(m, &m->first, NO_SLOT, false);
		return;
	}
	if (s->ids)
		return;
	if (m->first.key.kind == KIND_FLOW && m->first.rw.tag.of.flags & FLOW_REVERSE) {
		if (!old_read(m->first.twin, &m->second) || m->second.twin != m->slot ||
		    (m->second.state & FLOW_STATE_MASK) != SLOT_LIVE)
			carry_resting(s, m);
		return; /* else its forward half takes it along */
	}
	r = migrate_pair(m);
	if (r == MIGRATED)
		s->pairs++;
	if (r == MIGRATED_LOST || r == MIGRATED_HALF)
		s->lost++;
	if (r == MIGRATED_LOST && m->second.key.kind == KIND_FLOW)
		carry_lost(&m->second, false);
}

static long migrate_slot(__u32 n, struct carry *s)
{
	struct migration *m;
	__u32 zero = 0;

	m = bpf_map_lookup_elem(&migration_v1, &zero);
	if (!migrating || !m)
		return 1;
	m->slot = s->first + n;
	m->now = clock_now();
	if (!old_read(m->slot, &m->first))
		return 0;
	switch (m->first.state & FLOW_STATE_MASK) {
	case SLOT_LIVE:
		carry_live(s, m);
		break;
	case SLOT_DEAD:
		if (!s->ids && m->first.key.kind == KIND_FLOW &&
		    m->first.rw.tag.of.flags & FLOW_REVERSE)
			carry_resting(s, m);
		break;
	}
	return 0;
}

#endif
