// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Packets at the speed of one core: run by BPF_PROG_TEST_RUN with live frames, this program turns each
 * frame into the next packet and redirects it out of a veth. The kernel recycles frames as the receiver
 * left them, so every byte is written anew. */
#include "bench.h"

struct plan {
	__u64 sent; /* packets sent, the run stops at limit */
	__u64 limit;
	__u64 skip;              /* packets before the clock starts: they warm the caches */
	__u64 first_ns, last_ns; /* clock at packet `skip` and at packet `last` */
	__u64 last;
	__u64 window_ns; /* clock at the beginning of the window under way */
	__u64 best_ns;   /* the shortest window so far, 0 = none */
	__u32 flows;     /* flows in use: base .. base + flows - 1 */
	__u32 base;
	__u32 scatter;            /* 1: flows in hash order, 0: in sequence */
	__u32 out;                /* ifindex */
	__u32 client;             /* first client address, host byte order */
	__u32 endpoint;           /* network byte order */
	__u16 endpoint_port;      /* network byte order */
	__u16 spoil_ip, spoil_l4; /* added to the checksums: for the test of the verifying sink */
	__u8 dmac[6], smac[6];
};

struct plan gen;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} seen SEC(".maps");

/* The reverse direction reads a table; it asks for the line this many packets ahead, so that the generator's
 * own misses neither dominate what is subtracted nor its noise. */
#define PREFETCH 8

/* Packets of a window: few milliseconds, which a busy host leaves alone now and then. */
#define WINDOW 4096

/* One clock read in 64 packets, which is also what the kernel runs as one batch. */
static __always_inline void clock(__u64 n)
{
	__u64 now, took;

	if (n & 63)
		return;
	now = bpf_ktime_get_ns();
	gen.last_ns = now;
	gen.last = n;
	if (n <= gen.skip) {
		gen.first_ns = now;
		gen.window_ns = now;
	} else if (!((n - gen.skip) & (WINDOW - 1))) {
		took = now - gen.window_ns;
		if (!gen.best_ns || took < gen.best_ns)
			gen.best_ns = took;
		gen.window_ns = now;
	}
}

static __always_inline __u32 next_flow(__u64 n)
{
	if (!gen.scatter)
		return gen.base + (n >= gen.flows ? n % gen.flows : n);
	__u64 h = (n + 1) * 0x9e3779b97f4a7c15ull;
	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9ull;
	return gen.base + (((h >> 32) * gen.flows) >> 32);
}

static __always_inline int send(struct xdp_md *ctx, __u32 flow, __u64 n, __u32 saddr, __u16 sport,
                                __u32 daddr, __u16 dport)
{
	struct frame f;

	if (!frame_at(ctx, &f))
		return XDP_ABORTED;

	__u32 seq = n;
	__u64 sum = (__u64)saddr + daddr;

	__builtin_memcpy(f.eth->h_dest, gen.dmac, 6);
	__builtin_memcpy(f.eth->h_source, gen.smac, 6);
	f.eth->h_proto = bpf_htons(ETH_P_IP);
	*(__u16 *)f.ip = 0x45; /* version 4, IHL 5, TOS 0 */
	f.ip->tot_len = bpf_htons(IP_LEN);
	f.ip->id = 0;
	f.ip->frag_off = bpf_htons(IP_DF);
	f.ip->ttl = TTL;
	f.ip->protocol = IPPROTO_UDP;
	f.ip->saddr = saddr;
	f.ip->daddr = daddr;
	f.ip->check = ~fold(sum + 0x45 + bpf_htons(IP_LEN) + bpf_htons(IP_DF) +
	                    (TTL | IPPROTO_UDP << 8)) +
	              gen.spoil_ip;
	f.udp->source = sport;
	f.udp->dest = dport;
	f.udp->len = bpf_htons(UDP_LEN);
	f.load->magic = BENCH_MAGIC;
	f.load->flow = flow;
	f.load->seq = seq;
	f.load->pad[0] = f.load->pad[1] = f.load->pad[2] = 0;
	sum += (__u64)sport + dport + 2 * bpf_htons(UDP_LEN) + bpf_htons(IPPROTO_UDP);
	sum += (__u64)BENCH_MAGIC + flow + seq;
	__u16 check = ~fold(sum);

	f.udp->check = (check ? check : 0xffff) + gen.spoil_l4;
	return bpf_redirect(gen.out, 0);
}

/* Client to server: the addresses follow from the flow's number. */
SEC("xdp")
int forward(struct xdp_md *ctx)
{
	__u64 n = gen.sent;

	if (n >= gen.limit)
		return XDP_DROP;
	clock(n);
	__u32 flow = next_flow(n);

	gen.sent = n + 1;
	return send(ctx, flow, n, client_of(gen.client, flow), port_of(flow), gen.endpoint,
	            gen.endpoint_port);
}

/* Server to client: answers what the verifying sink saw of the flow. */
SEC("xdp")
int reverse(struct xdp_md *ctx)
{
	__u64 n = gen.sent;

	if (n >= gen.limit)
		return XDP_DROP;
	clock(n);
	__u32 flow = next_flow(n);
	__u32 soon = next_flow(n + PREFETCH);
	struct seen *s = bpf_map_lookup_elem(&seen, &flow);
	struct seen *p = bpf_map_lookup_elem(&seen, &soon);

	if (!s || !p)
		return XDP_ABORTED;
	*(volatile __u32 *)&p->packets; /* nobody waits for this load: it only fetches the line */
	gen.sent = n + 1;
	return send(ctx, flow, n, s->daddr, s->dport, s->saddr, s->sport);
}

char LICENSE[] SEC("license") = "GPL";
