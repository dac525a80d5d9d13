// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Stress of single entries. Every worker (CPU) has keys that only it inserts and ends, of which it
 * knows at any time whether they must be found; and all of them fight for the shared ones. The sweep
 * runs in between on all of them. pkg/dataplane/flowtable runs it and reads along.
 */
#include "flow_stress.h"

volatile const __u32 private_keys = 16; /* of each worker */
volatile const __u32 shared_keys = 16;

/* What a worker knows of a key of its own. */
struct expectation {
	__u32 live;
	__u32 stamp;
	__u32 nonce;
	__u32 slot;  /* where it was inserted last */
	__u32 state; /* what that gave */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* STRESS_WORKERS * private_keys */
	__type(key, __u32);
	__type(value, struct expectation);
} expectations SEC(".maps");

/* Shared keys have worker STRESS_WORKERS. The owner in the rewrite is the key's number. */
static __always_inline __u32 make_key(struct flow_key *key, __u32 worker, __u32 n)
{
	__u32 owner = worker << 24 | n;

	*key = (struct flow_key){
		.saddr = n * 2654435761u,
		.daddr = worker,
		.sport = n,
		.dport = n >> 16,
		.vnet = worker,
		.proto = 6,
	};
	return owner;
}

/* Is there, while the own entry lives, another one of the same key? */
static __noinline bool is_duplicate(struct flow_insert *a)
{
	__u32 home = flow_home(&a->key), bits, state, stamp;
	struct flow *h = flow_at(home), *mine = flow_at(a->slot), *f;
	struct rewrite rw;

	if (!h || !mine)
		return false;
	bits = FLOW_READ(h->home) & FLOW_HOME_BITS;
	for (int i = 0; i < FLOW_WINDOW && bits; i++, bits &= bits - 1) {
		__u32 slot = home + flow_lowest(bits);

		f = flow_at(slot);
		if (f && slot != a->slot && flow_match(f, &a->key, &rw, &state, &stamp) &&
		    flow_same(mine, a->state))
			return true;
	}
	return false;
}

/* Was the slot of an insert freed already, and does its home still have the bit? */
static __noinline bool is_stale(struct flow_insert *a)
{
	struct flow *h = flow_at(flow_home(&a->key)), *f = flow_at(a->slot);
	__u32 freed = FLOW_SEQUENCE(a->state) | SLOT_FREE, bits;

	if (!h || !f || FLOW_STATE(f) != freed)
		return false;
	bits = FLOW_READ(h->home);
	return bits >> FLOW_DISTANCE(a->state) & 1 && FLOW_STATE(f) == freed;
}

static __always_inline int insert(struct counts *c, const struct flow_key *key, __u32 owner,
                                  __u32 nonce, __u32 now, struct flow_insert *a)
{
	int result;

	*a = (struct flow_insert){
		.key = *key,
		.twin = NO_SLOT,
		.now = now,
		.rest = owner & 1 ? stress_rest : 0,
		.wait = owner & 1,
	};
	stress_fill(&a->rw, owner, nonce, 0, 0);
	result = flow_insert(a);
	stress_count_insert(c, result, a);
	if (result == FLOW_NEW) {
		c->duplicates += is_duplicate(a);
		c->stale_bits += is_stale(a);
	} else if (result == FLOW_EXISTS) {
		c->foreign += !stress_whole(&a->rw, owner);
	}
	return result;
}

static __noinline int private_step(struct worker *w, __u32 worker, __u64 random, __u32 now)
{
	__u32 n, index, owner, slot, state, stamp;
	struct counts *c;
	struct flow_insert a;
	struct expectation *e;
	struct rewrite rw;
	struct flow_key key;
	struct flow *f;
	bool fresh;
	int result;

	if (!w)
		return 0;
	c = &w->counts;
	n = stress_scale(random, private_keys);
	index = worker * private_keys + n;
	e = bpf_map_lookup_elem(&expectations, &index);
	if (!e)
		return 0;
	random >>= 32;
	owner = make_key(&key, worker, n);
	/* Not older than half of idle: a sweep whose clock is a little ahead must not end it. */
	fresh = e->live && flow_age(now, e->stamp) < (__s32)(stress_idle / 2);
	f = flow_find(&key, &rw, &slot, &state, &stamp);
	if (f) {
		c->hits++;
		c->foreign += !stress_whole(&rw, owner);
		c->ghosts += !e->live || e->nonce != rw.saddr;
		if (!fresh || (random & 7) == 0) {
			bool ended = flow_end(f, state, now);

			c->ended += ended;
			c->missing += fresh && !ended;
			e->live = 0;
		} else if ((random & 7) == 1) {
			result = insert(c, &key, owner, random, now, &a);
			c->duplicates += result == FLOW_NEW;
			c->ghosts += result == FLOW_EXISTS && a.rw.saddr != e->nonce;
		} else if ((random & 7) < 5) {
			FLOW_READ(f->stamp) = now;
			e->stamp = now;
		}
		return 0;
	}
	c->missing += fresh;
	e->live = 0;
	if (random & 1)
		return 0;
	result = insert(c, &key, owner, random, now, &a);
	c->ghosts += result == FLOW_EXISTS;
	if (result != FLOW_NEW)
		return 0;
	c->same_states += a.slot == e->slot && a.state == e->state;
	e->live = 1;
	e->stamp = now;
	e->nonce = random;
	e->slot = a.slot;
	e->state = a.state;
	return 0;
}

static __noinline int shared_step(struct worker *w, __u64 random, __u32 now)
{
	__u32 n, owner, slot, state, stamp, what;
	struct flow_insert a;
	struct flow_key key;
	struct rewrite rw;
	struct counts *c;
	struct flow *f;

	if (!w)
		return 0;
	c = &w->counts;
	/* Half of all go to the four hottest. */
	n = stress_scale(random, random >> 63 ? shared_keys : 4);
	what = random >> 32 & 7;
	owner = make_key(&key, STRESS_WORKERS, n);
	f = flow_find(&key, &rw, &slot, &state, &stamp);
	if (f) {
		c->hits++;
		c->foreign += !stress_whole(&rw, owner);
		if (what == 0)
			FLOW_READ(f->stamp) = now;
		else if (what < 4)
			c->ended += flow_end(f, state, now);
	}
	if (what > 4)
		insert(c, &key, owner, random >> 8, now, &a);
	return 0;
}

static __noinline int sweep_step(struct worker *w, __u32 now)
{
	__u32 slot, state, stamp;
	struct flow *f;

	if (!w)
		return 0;
	slot = stress_next_slot(w);
	f = flow_at(slot);
	if (!f)
		return 0;
	state = FLOW_STATE(f);
	stamp = FLOW_READ(f->stamp);
	if ((state & FLOW_STATE_MASK) == SLOT_LIVE && flow_age(now, stamp) > (__s32)stress_idle &&
	    FLOW_READ(f->stamp) == stamp)
		w->counts.ended += flow_end(f, state, now);
	else if ((state & FLOW_STATE_MASK) == SLOT_DEAD &&
	         flow_age(now, stamp) >= (__s32)stress_grace)
		w->counts.freed += flow_free(f, slot, state);
	return 0;
}

static long step(__u32 turn, struct run *run)
{
	struct worker *w = bpf_map_lookup_elem(&workers, &run->worker);
	__u32 now = stress_clock();
	__u64 random;

	if (!w)
		return 1;
	random = stress_random(w);
	if (random >> 62 & 1)
		private_step(w, run->worker, random, now);
	else
		shared_step(w, random, now);
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
