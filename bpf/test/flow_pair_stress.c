// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Stress of pairs: clients open flows through a NAT of few ports, reverse half first, use them in
 * either direction, and end them, on all CPUs at once and under the sweep of pairs. A live forward
 * half must have a live reverse half of the same owner, and a port its rest.
 */
#include "flow_stress.h"

volatile const __u32 clients = 16;
volatile const __u32 ports = 32;
volatile const __u32 orphan_age =
	2000; /* ticks, more than a worker is held up between two inserts */

/* When a pair on this port was last ended, in ticks. */
struct port {
	__u32 ended;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* ports */
	__type(key, __u32);
	__type(value, struct port);
} ended_ports SEC(".maps");

static __always_inline struct flow_key forward_key(__u32 client)
{
	return (struct flow_key){.saddr = client, .sport = client, .vnet = 1, .proto = 6};
}

static __always_inline struct flow_key reverse_key(__u32 port)
{
	return (struct flow_key){
		.daddr = 7, .sport = port >> 16, .dport = port, .vnet = 2, .proto = 6};
}

static __always_inline void note_end(__u32 port, __u32 now)
{
	struct port *p = bpf_map_lookup_elem(&ended_ports, &port);

	if (p)
		p->ended = now;
}

static __always_inline void end_pair(struct counts *c, struct flow *f, __u32 slot, __u32 state,
                                     __u32 port, __u32 now)
{
	if (!flow_end_pair(f, slot, state, now))
		return;
	c->ended++;
	note_end(port, now);
}

/* The reverse half of a live forward one, as long as that lives: live, of the same owner. */
static __always_inline bool has_other_half(struct flow *f, __u32 state, __u32 client, __u32 port)
{
	__u32 twin = FLOW_READ(f->twin), slot, twin_state, stamp;
	struct flow_key key = reverse_key(port);
	struct rewrite rw;
	struct flow *t;

	t = flow_find(&key, &rw, &slot, &twin_state, &stamp);
	if (t && slot == twin && rw.tag.of.link == client)
		return true;
	return !flow_same(f, state);
}

static __noinline int open_pair(struct worker *w, __u32 client, __u32 now)
{
	struct flow_insert a = {};
	struct flow *f, *r;
	struct counts *c;
	struct port *p;
	__u32 port = 0, reverse, reverse_state;
	int result = FLOW_RESTING;

	if (!w)
		return 0;
	c = &w->counts;
	for (int i = 0; i < 4; i++) {
		port = stress_scale(stress_random(w), ports);
		a = (struct flow_insert){
			.key = reverse_key(port),
			.twin = NO_SLOT,
			.now = now,
			.rest = stress_rest,
			.wait = 1,
		};
		stress_fill(&a.rw, client, stress_random(w), port, FLOW_REVERSE);
		result = flow_insert(&a);
		stress_count_insert(c, result, &a);
		if (result != FLOW_EXISTS && result != FLOW_RESTING)
			break;
	}
	if (result != FLOW_NEW)
		return 0;
	p = bpf_map_lookup_elem(&ended_ports, &port);
	if (p) {
		__s32 early = (__s32)stress_rest - flow_age(now, FLOW_READ(p->ended));

		if (early > 0 && early > (__s64)c->early)
			c->early = early;
	}
	reverse = a.slot;
	reverse_state = a.state;
	r = flow_at(reverse);
	if (!r)
		return 0;
	FLOW_PAUSE();
	a = (struct flow_insert){.key = forward_key(client), .twin = reverse, .now = now};
	stress_fill(&a.rw, client, stress_random(w), port, 0);
	result = flow_insert(&a);
	stress_count_insert(c, result, &a);
	if (result != FLOW_NEW) {
		c->overtaken += result == FLOW_EXISTS;
		c->foreign += result == FLOW_EXISTS && !stress_whole(&a.rw, client);
		/* It carried no packet: no rest. */
		c->ended += flow_end(r, reverse_state, now - stress_rest);
		return 0;
	}
	FLOW_PAUSE();
	f = flow_at(a.slot);
	if (!f)
		return 0;
	if (!flow_link(r, reverse_state, a.slot) || !flow_same(f, a.state))
		flow_end(r, reverse_state, now);
	return 0;
}

/* A packet of a client; the number of that client if it needs a new pair, else -1. */
static __noinline int packet(struct worker *w, __u64 random, __u32 now)
{
	__u32 client, slot, state, stamp, port, twin, twin_state, twin_stamp;
	struct flow_key key;
	struct rewrite rw;
	struct counts *c;
	struct flow *f, *t;

	if (!w)
		return -1;
	c = &w->counts;
	client = stress_scale(random, clients);
	key = forward_key(client);
	f = flow_find(&key, &rw, &slot, &state, &stamp);
	if (f) {
		c->hits++;
		if (!stress_whole(&rw, client)) {
			c->foreign++;
			return -1;
		}
		port = rw.daddr;
		c->lone_halves += !has_other_half(f, state, client, port);
		twin = FLOW_READ(f->twin);
		t = flow_twin(slot, twin, &twin_state, &twin_stamp);
		if (flow_age(now, stamp) <= (__s32)stress_idle ||
		    (t && flow_age(now, twin_stamp) <= (__s32)stress_idle)) {
			if (random >> 60 == 0)
				end_pair(c, f, slot, state, port, now);
			else if (random >> 59 & 1)
				FLOW_READ(f->stamp) = now;
			else if (t)
				FLOW_READ(t->stamp) = now;
			return -1;
		}
		end_pair(c, f, slot, state, port, now);
	}
	return random >> 58 & 1 ? (int)client : -1;
}

static __noinline int sweep_step(struct worker *w, __u32 now)
{
	__u32 slot, twin_state, twin_stamp;
	struct counts *c;
	struct flow *f, *t, e;

	if (!w)
		return 0;
	c = &w->counts;
	slot = stress_next_slot(w);
	f = flow_at(slot);
	if (!f || !flow_snapshot(f, &e))
		return 0;
	if ((e.state & FLOW_STATE_MASK) == SLOT_DEAD) {
		if (flow_age(now, e.stamp) >= (__s32)stress_grace)
			c->freed += flow_free(f, slot, e.state);
		return 0;
	}
	if ((e.state & FLOW_STATE_MASK) != SLOT_LIVE ||
	    flow_age(now, e.stamp) <= (__s32)stress_idle)
		return 0;
	t = flow_twin(slot, e.twin, &twin_state, &twin_stamp);
	if (!(e.rw.tag.of.flags & FLOW_REVERSE)) {
		if (!t || flow_age(now, twin_stamp) > (__s32)stress_idle)
			end_pair(c, f, slot, e.state, e.rw.daddr, now);
	} else if (!t && flow_age(now, e.stamp) > (__s32)orphan_age) {
		c->ended += flow_end(f, e.state, now);
	}
	return 0;
}

static long step(__u32 turn, struct run *run)
{
	struct worker *w = bpf_map_lookup_elem(&workers, &run->worker);
	__u32 now = stress_clock();
	int client;

	if (!w)
		return 1;
	client = packet(w, stress_random(w), now);
	if (client >= 0)
		open_pair(w, client, now);
	sweep_step(w, now);
	sweep_step(w, now);
	w->counts.operations++;
	stress_held_up(&w->counts, now);
	return 0;
}

static __always_inline void stress(void)
{
	struct run run = {.worker = bpf_get_smp_processor_id() % STRESS_WORKERS};

	bpf_loop(stress_batch, step, &run, 0);
}

SEC("xdp")
int stress_xdp(struct xdp_md *ctx)
{
	stress();
	return XDP_PASS;
}

SEC("tc")
int stress_tc(struct __sk_buff *skb)
{
	stress();
	return TC_ACT_OK;
}
