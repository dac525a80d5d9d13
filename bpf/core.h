/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What becomes of a packet: the one decision both hooks are compiled from.
 *
 *	packet -> attachment -> MAC -> ARP / IPv4 -> flow -> checks, rewrite, redirect
 *	                                          -> no flow: address, link, rule, backend, open
 *
 * A packet that does not go on changes nothing: TTL, output and MTU are asked before a phase, a
 * stamp or an entry is written. XDP leaves to TC whatever needs an answer, a helper or a second
 * thought.
 */
#ifndef PRIVLINK_CORE_H
#define PRIVLINK_CORE_H

#include "admit.h"
#ifdef HOOK_TC
#include "arp.h"
#include "icmp.h"
#endif

/* The client's packets come from another MAC or interface: replies follow it. */
SLOW int client_moved(struct half *h, __u64 via)
{
	struct flow *f = h ? flow_at(h->slot) : NULL, *twin;
	union via now = {.word = via}, mine, old;
	__u32 state, stamp;

	if (!f)
		return 0;
	mine = h->rw.via;
	twin = half_twin(f, h, &state, &stamp);
	if (!twin)
		return 0;
	old.word = FLOW_READ(twin->rw.via.word);
	if (old.word != now.word && flow_same(twin, state) && !MUTANT(30))
		__sync_val_compare_and_swap(&twin->rw.via.word, old.word, now.word);
	mine.forward.client = client_hash(now);
	if (mine.word != h->rw.via.word)
		__sync_val_compare_and_swap(&f->rw.via.word, h->rw.via.word, mine.word);
	return 0;
}

/* A TCP segment of a flow that was ended. It gets a RST, and so does the next: a RST has the numbers of the
 * segment it answers, and where data was on its way to that end meanwhile, the end expects others and ignores
 * it (RFC 5961 3.2). What it says last has the right ones. An end that sends a RST itself, as a closed socket
 * does, is over; both over, the pair is dead. Ends that say nothing more are the sweep's.
 */
SLOW int ended(struct packet *p, struct half *h)
{
	__u16 told, over, set = 0;
	int r;

	if (IS_XDP || !p || !h)
		return UP;
	told = half_reverse(h) ? FLOW_RST_BACKEND : FLOW_RST_CLIENT;
	over = half_reverse(h) ? FLOW_OVER_BACKEND : FLOW_OVER_CLIENT;
	if (half_phase(h) != PHASE_ENDED)
		pair_mark_ended(h, p->now);
	if (half_flags(h) & told && MUTANT(36))
		return DROP(ENDED);
	r = refuse(p, REASON_ENDED, WANT_RST_UNLIMITED);
	if (p->tcp & TCP_RST)
		set = told | over;
	else if (r >> 16 == WANT_RST_UNLIMITED)
		set = told;
	if (!(set & ~half_flags(h)))
		return r;
	if (!(half_flags(h) & told))
		half_touch(h, p->now);
	pair_change(h, 0, set);
	if ((half_flags(h) & FLOW_OVER_BOTH) == FLOW_OVER_BOTH)
		pair_end(h, p->now);
	return r;
}

/* A packet with a live entry: does it go on, and where? */
static __always_inline int established(hook *ctx, struct packet *p, struct flow *f, struct half *h,
                                       struct path *path)
{
	bool tcp = p->key.proto == IPPROTO_TCP, reverse = half_reverse(h), opens;
	struct link *link = link_at(h->rw.tag.of.link);
	__s32 age = flow_age(p->now, h->stamp);
	struct backend *b;
	int r;

	p->link = h->rw.tag.of.link;
	/* any datagram of a client may open a flow, of TCP only one segment */
	opens = !reverse && (!tcp || is_opener(p));
	if (unlikely(age > IDLE_MIN) && half_phase(h) != PHASE_ENDED && pair_idle(h, p->now))
		return DECIDE(opens ? WANT_NEW_FLOW : WANT_FLOW, 0);
	if (!link || unlikely(!link_carries(link, h->rw.tag.of.link_gen)) ||
	    unlikely(half_phase(h) == PHASE_ENDED))
		goto over;
	if (reverse) {
		path_take(path, &h->rw.via.reverse);
	} else {
		b = backend_at(h->rw.via.forward.backend);
		if (!b || (unlikely(b->gen != h->rw.via.forward.backend_gen) && !MUTANT(21)))
			goto over;
		if (unlikely(!tcp && b->state != BACKEND_UP) && !MUTANT(31))
			return DECIDE(WANT_NEW_FLOW, 0);
		path_take(path, &b->hop);
		if (tcp && unlikely(opens_anew(p, h)))
			return DECIDE(WANT_NEW_FLOW, 0);
	}
	r = path_check(p, path);
	if (unlikely(r))
		return r;
	if (tcp && (unlikely(p->tcp & (TCP_SYN | TCP_FIN | TCP_RST)) ||
	            unlikely(half_phase(h) != PHASE_OPEN)))
		track_tcp(p, h);
	if (!reverse) {
		union via client = client_via(ctx, p);

		/* the hash has 16 bits: what it misses is found a minute later */
		if (unlikely(client_hash(client) != h->rw.via.forward.client) ||
		    unlikely(age && (p->now ^ h->stamp) >> 6))
			client_moved(h, client.word);
	}
	if (age && !MUTANT(22) && (flow_same(f, h->state) || FLOW_FAULT(FAULT_BLIND_STAMP)))
		FLOW_READ(f->stamp) = p->now;
	return GO_ON;

over:
	if (opens)
		return DECIDE(WANT_NEW_FLOW, 0);
	return tcp ? ended(p, h) : DROP(ENDED);
}

/* Opens a flow for a packet that may, and makes `h` its half. */
SLOW int open(hook *ctx, struct packet *p, struct half *h, bool stale, struct path *path)
{
	struct scratch *scratch;
	struct link_stats *stats;
	struct opening *o;
	int r;

	if (!p || !h || !path)
		return DROP(HELPER);

	if (!is_opener(p))
		recent_homes_touch();
	r = admit(ctx, p);
	if (r)
		return r;
	scratch = scratch_own();
	if (!scratch)
		return DROP(HELPER);
	o = &scratch->opening;
	if (stale)
		pair_end(h, p->now);
	r = flow_open(o);
	if (r) {
		/* TC is refused alike, and can count and answer */
		if (IS_XDP)
			return UP;
		return admit_refuse(p, r);
	}
	stats = stats_at(o->link);
	if (stats && !(o->flags & FLOW_INNER))
		stats->opened++;
	h->slot = o->slot;
	h->state = o->state;
	h->stamp = o->stamp;
	h->rw = o->rw;
	*path = o->path;
	return GO_ON;
}

/* Sends a packet the way its half says, after everything was asked. */
static __always_inline int forward(hook *ctx, struct packet *p, struct half *h, struct path *path)
{
	bool first = false;
	__be16 id = 0;
	int r;

#ifdef HOOK_TC
	if (p->fragment & FRAGMENT_MORE) {
		first = true;
		r = fragment_first(ctx, p, h, path->vnet, &id);
		if (r)
			return DECIDE(ACTION_DROP, r);
	}
#endif
	r = rewrite(ctx, p, &h->rw, path, true, first, id);
	if (r)
		return r;
	count_flow(p, &h->rw);
	return leave(ctx, p, path);
}

#ifdef HOOK_TC
/* A fragment after the first: it has no ports, only its datagram. */
SLOW int later_fragment(hook *ctx, struct packet *p)
{
	struct path path = {};
	struct half h = {};
	struct meaning m;
	__u32 offset, bytes;
	struct backend *b;
	struct link *link;
	struct flow *f;
	int r;

	if (!p)
		return DROP(HELPER);
	offset = (p->fragment & FRAGMENT_OFFSET) * 8;
	bytes = fragment_bytes(p);
	m = address_find(p->key.vnet, p->key.daddr);
	p->link = m.link;
	if ((!m.kind || m.kind == ADDR_GATEWAY) && !(p->flags & IFACE_INNER))
		return OTHER(OTHER_IPV4);
	if (!bytes)
		return DROP(FRAGMENT_BAD);
	r = fragment_later(ctx, p, &h, &f);
	if (r)
		return r;
	p->link = h.rw.tag.of.link;
	link = link_at(p->link);
	if (!link || !link_carries(link, h.rw.tag.of.link_gen))
		return DROP(ENDED);
	if (half_reverse(&h)) {
		path_take(&path, &h.rw.via.reverse);
	} else {
		b = backend_at(h.rw.via.forward.backend);
		if (!b || b->gen != h.rw.via.forward.backend_gen)
			return DROP(ENDED);
		path_take(&path, &b->hop);
	}
	r = path_check(p, &path);
	if (r) /* no error about a later fragment (RFC 1122 3.2.2) */
		return DECIDE(ACTION_DROP, r & 0xffff);
	if (fragment_progress(FLOW_READ(f->twin), &h.rw, offset, bytes,
	                      !(p->fragment & FRAGMENT_MORE), p->now))
		flow_end(f, h.state, p->now - PORT_REST);
	r = rewrite(ctx, p, &h.rw, &path, false, !MUTANT(29), h.rw.sport);
	if (r)
		return r;
	count_flow(p, &h.rw);
	return leave(ctx, p, &path);
}
#endif

#ifdef HOOK_XDP
/* Is the L4 checksum only the pseudo-header's sum, to be completed by somebody further down? XDP
 * cannot tell; one packet in 65,536 is taken for such a one, and only goes the longer way.
 */
static __always_inline bool checksum_may_be_partial(hook *ctx, struct packet *p)
{
	void *data = hook_data(ctx), *end = hook_end(ctx);
	__u32 at = L3 + 20 +
	           (p->key.proto == IPPROTO_TCP ? offsetof(struct tcphdr, check)
	                                        : offsetof(struct udphdr, check));
	__u16 *check = data + at;

	if ((void *)(check + 1) > end)
		return true;
	return *check == sum_pseudo(p->key.saddr, p->key.daddr, p->key.proto, p->length - 20);
}
#endif

#ifdef HOOK_TC
/* What never crosses a link. Protocols by their names that somebody may miss, and have a counter each. */
SLOW int other_protocol(struct packet *p)
{
	struct meaning m;

	if (!p)
		return DROP(HELPER);
	m = address_find(p->key.vnet, p->key.daddr);
	p->link = m.link;
	if (!m.kind || m.kind == ADDR_GATEWAY)
		return OTHER(OTHER_IPV4);
	switch (p->key.proto) {
	case IPPROTO_SCTP:
		return DROP(SCTP);
	case IPPROTO_GRE:
		return DROP(GRE);
	case IPPROTO_ESP:
		return DROP(ESP);
	case IPPROTO_AH:
		return DROP(AH);
	case IPPROTO_IGMP:
		return DROP(IGMP);
	default:
		return DROP(PROTOCOL);
	}
}
#endif

static __always_inline int ipv4(hook *ctx, struct packet *p)
{
	struct path path = {};
	struct half h = {};
	struct flow *f = NULL;
	int r = parse_ipv4(ctx, p);

	if (r)
		return IS_XDP ? UP : r;
	if (bpf_ntohl(p->key.daddr) >> 29 == 7) /* class D and E, 255.255.255.255 */
		return IS_XDP ? UP : OTHER(MULTICAST);
#ifdef HOOK_XDP
	if (p->header != 20 || p->fragment & (FRAGMENT_MORE | FRAGMENT_OFFSET) ||
	    (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP))
		return UP;
	parse_l4(ctx, p);
	if (p->bad || checksum_may_be_partial(ctx, p))
		return UP;
#else
	if (p->key.proto == IPPROTO_ICMP)
		return icmp(ctx, p);
	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP)
		return other_protocol(p);
	if (migrating && p->fragment & (FRAGMENT_MORE | FRAGMENT_OFFSET))
		fragment_migrate(ctx, p);
	if (p->fragment & FRAGMENT_OFFSET)
		return later_fragment(ctx, p);
	parse_l4(ctx, p);
	if (p->fragment & FRAGMENT_MORE && (p->bad || !fragment_bytes(p)))
		p->bad = REASON_FRAGMENT_BAD;
	parse_gso(ctx, p, p->length - p->payload);
#endif
	if (unlikely(is_opener(p)))
		recent_homes_touch(); /* while it is looked for */
	if (!p->bad)
		f = half_find_anywhere(&p->key, &h, p->now);
	HOLD(HOLD_FOUND);
	r = likely(f) ? established(ctx, p, f, &h, &path) : DECIDE(WANT_FLOW, 0);
	if (unlikely(r)) {
		if (r >> 16 != WANT_FLOW && r >> 16 != WANT_NEW_FLOW)
			return r;
		r = open(ctx, p, &h, r >> 16 == WANT_NEW_FLOW, &path);
		if (r)
			return r;
	}
	return forward(ctx, p, &h, &path);
}

static __always_inline int receive(hook *ctx, struct packet *p)
{
	void *data, *end;
	struct ethhdr *eth;
	struct iface *in;
	__u16 vlan = 0;

	p->now = clock_now();
#ifdef HOOK_TC
	__u32 want = L3 + sizeof(struct iphdr) + sizeof(struct tcphdr);
	__be16 protocol;

	/* Headers may lie in a page (non-linear skb): once, and only if they do. Whether all of them
	 * are there is asked where they are read.
	 */
	if (hook_data(ctx) + want > hook_end(ctx))
		bpf_skb_pull_data(ctx, ctx->len < L3 + 120 ? ctx->len : L3 + 120);
	if (ctx->vlan_present)
		vlan = ctx->vlan_tci & 0xfff;
#endif
	data = hook_data(ctx);
	end = hook_end(ctx);
	eth = data;
	in = iface_find(hook_ifindex(ctx), vlan);
#ifdef HOOK_TC
	if (unlikely(!in && vlan)) {
		in = iface_find(hook_ifindex(ctx), 0);
		if (in)
			p->flags = in->flags;
		return OTHER(NO_ATTACHMENT);
	}
#endif
	if (!in)
		return IS_XDP ? UP : OTHER(NO_ATTACHMENT);
	p->flags = in->flags;
	p->in = in->out;
	p->key.vnet = in->vnet;
	if (!in->vnet)
		return IS_XDP ? UP : OTHER(NO_ATTACHMENT);
	if ((void *)(eth + 1) > end)
		return IS_XDP ? UP : OTHER(SHORT);
#ifdef HOOK_XDP
	if (load32(eth->h_dest) != load32(in->mac) ||
	    load16(eth->h_dest + 4) != load16(in->mac + 4) ||
	    load16(&eth->h_proto) != bpf_htons(ETH_P_IP))
		return UP;
#else
	protocol = load16(&eth->h_proto);
	if (ctx->pkt_type == PACKET_OTHERHOST)
		return OTHER(OTHER_MAC);
	if (protocol == bpf_htons(ETH_P_ARP))
		return arp(ctx, p);
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		return OTHER(NO_ATTACHMENT); /* a second tag */
	if (protocol == bpf_htons(ETH_P_IPV6))
		return OTHER(OTHER_IPV6);
	if (protocol != bpf_htons(ETH_P_IP))
		return OTHER(OTHER_ETHERTYPE);
	if (ctx->pkt_type != PACKET_HOST)
		return OTHER(MULTICAST);
#endif
	return ipv4(ctx, p);
}

#ifdef HOOK_TC
/* Carries out what was only wanted so far. */
SLOW int answer(hook *ctx, struct packet *p, int decision)
{
	__u32 reason = decision & 0xffff;

	if (!p)
		return DROP(HELPER);
	switch (decision >> 16) {
	case WANT_RST:
		return answer_rst(ctx, p, reason, true);
	case WANT_RST_UNLIMITED:
		return answer_rst(ctx, p, reason, false);
	case WANT_TTL:
		return answer_icmp(ctx, p, ICMP_ERROR(ICMP_TIME_EXCEEDED, ICMP_EXC_TTL), 0, reason);
	case WANT_TOO_BIG:
		return answer_icmp(ctx, p, ICMP_ERROR(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED), p->mtu,
		                   reason);
	default:
		return decision;
	}
}
#endif

/* Counts a decision that is not plain forwarding. An enum action. */
SLOW __u32 decide_other(struct packet *p, int decision, __u32 length)
{
	__u32 action = decision >> 16, reason = decision & 0xffff;

	if (!p)
		return ACTION_DROP;
	if (action == ACTION_PASS && !(p->flags & IFACE_PASS_OTHER))
		action = ACTION_DROP;
#ifdef HOOK_XDP
	if (action >= WANT_RST || action == ACTION_PASS) /* TC counts what the host gets */
		action = ACTION_UP;
#endif
	record(action == ACTION_PEER ? ACTION_REDIRECT : action, reason, p->out);
	if (action == ACTION_REDIRECT || action == ACTION_PEER || action == ACTION_UP)
		return action;
	count_reason(reason, length);
	if (p->link && reason != REASON_ECHO_REPLY) {
		struct link_stats *stats = stats_at(p->link);

		if (stats)
			stats->dropped++;
	}
	return action;
}

/* The entry's: an enum action, counted, and said to a test. */
static __always_inline __u32 decide(struct packet *p, int decision, __u32 length)
{
	if (likely(decision == REDIRECTED)) {
		record(ACTION_REDIRECT, REASON_NONE, p->out);
		return ACTION_REDIRECT;
	}
	return decide_other(p, decision, length);
}

#endif
