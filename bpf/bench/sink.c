// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Where the packets end. `count` only counts and drops: it is there while the clock runs. `verify` checks
 * every byte that a forwarder may have changed, before the clock runs. */
#include "bench.h"

enum fault {
	FAULT_NONE,
	FAULT_LENGTH, /* longer or shorter than it was sent */
	FAULT_HEADER, /* version, IHL, length, id, fragment bits or protocol changed */
	FAULT_IP_CHECKSUM,
	FAULT_L4_CHECKSUM,
	FAULT_SOURCE,
	FAULT_DESTINATION,
	FAULT_TTL,
	FAULT_FLOW, /* not a flow of this run */
	FAULTS,
};

/* Addresses and ports: first and last, host byte order, both included. */
struct expected {
	__u32 saddr_first, saddr_last, daddr_first, daddr_last;
	__u16 sport_first, sport_last, dport_first, dport_last;
	__u32 client; /* first client address, host byte order */
	__u32 flows;
	__u32 source_is_client; /* 1: source is exactly the flow's client and port */
	__u32 destination_is_client;
	__u32 record;             /* 1: keep what was seen for the reverse direction */
	__u8 ttl_first, ttl_last; /* smallest and largest accepted */
	__u8 pad[2];
};

struct faults {
	__u64 count[FAULTS];
	enum fault sample_fault; /* of the first wrong frame */
	__u32 sample_len;
	__u8 sample[64];
};

struct expected want;
struct faults wrong;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} received SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} seen SEC(".maps");

/* One of our frames? Others (ARP) are for the kernel, and nobody counts them. */
static __always_inline int ours(struct xdp_md *ctx, struct frame *f)
{
	return frame_at(ctx, f) && f->load->magic == BENCH_MAGIC;
}

static __always_inline void count_one(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&received, &zero);

	if (n)
		(*n)++;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	struct frame f;

	if (!ours(ctx, &f))
		return XDP_PASS;
	count_one();
	return XDP_DROP;
}

static __always_inline __u64 sum16(const __u16 *p, int words)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < words; i++)
		sum += p[i];
	return sum;
}

static __always_inline int between(__u32 first, __u32 x, __u32 last)
{
	return x >= first && x <= last;
}

static __always_inline int is_client(__u32 addr, __u16 port, __u32 flow)
{
	return addr == client_of(want.client, flow) && port == port_of(flow);
}

static __always_inline enum fault judge(struct xdp_md *ctx, struct frame *f)
{
	if (ctx->data_end - ctx->data != FRAME_LEN)
		return FAULT_LENGTH;
	if (f->eth->h_proto != bpf_htons(ETH_P_IP) || *(__u16 *)f->ip != 0x45 ||
	    f->ip->protocol != IPPROTO_UDP || f->ip->tot_len != bpf_htons(IP_LEN) ||
	    f->ip->frag_off != bpf_htons(IP_DF) || f->udp->len != bpf_htons(UDP_LEN))
		return FAULT_HEADER;
	if (fold(sum16((void *)f->ip, sizeof(*f->ip) / 2)) != 0xffff)
		return FAULT_IP_CHECKSUM;
	/* Pseudo-header: the addresses stand right before the L4 bytes; protocol and length are added. */
	__u64 sum = sum16((void *)&f->ip->saddr, (2 * sizeof(__u32) + UDP_LEN) / 2);

	if (!f->udp->check || fold(sum + bpf_htons(IPPROTO_UDP) + bpf_htons(UDP_LEN)) != 0xffff)
		return FAULT_L4_CHECKSUM;
	if (f->load->flow >= want.flows)
		return FAULT_FLOW;
	if (want.source_is_client
	            ? !is_client(f->ip->saddr, f->udp->source, f->load->flow)
	            : !between(want.saddr_first, bpf_ntohl(f->ip->saddr), want.saddr_last) ||
	                      !between(want.sport_first, bpf_ntohs(f->udp->source),
	                               want.sport_last))
		return FAULT_SOURCE;
	if (want.destination_is_client
	            ? !is_client(f->ip->daddr, f->udp->dest, f->load->flow)
	            : !between(want.daddr_first, bpf_ntohl(f->ip->daddr), want.daddr_last) ||
	                      !between(want.dport_first, bpf_ntohs(f->udp->dest), want.dport_last))
		return FAULT_DESTINATION;
	if (!between(want.ttl_first, f->ip->ttl, want.ttl_last))
		return FAULT_TTL;
	return FAULT_NONE;
}

SEC("xdp")
int verify(struct xdp_md *ctx)
{
	struct frame f;

	if (!ours(ctx, &f))
		return XDP_PASS;
	count_one();
	enum fault fault = judge(ctx, &f);

	if (fault != FAULT_NONE) {
		if (!wrong.sample_fault) {
			wrong.sample_fault = fault;
			wrong.sample_len = ctx->data_end - ctx->data;
			__builtin_memcpy(wrong.sample, f.eth, FRAME_LEN);
		}
		if (fault < FAULTS)
			wrong.count[fault]++;
		return XDP_DROP;
	}
	wrong.count[FAULT_NONE]++;
	if (!want.record)
		return XDP_DROP;
	__u32 flow = f.load->flow;
	struct seen *s = bpf_map_lookup_elem(&seen, &flow);

	if (s) {
		s->saddr = f.ip->saddr;
		s->daddr = f.ip->daddr;
		s->sport = f.udp->source;
		s->dport = f.udp->dest;
		s->packets++;
	}
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
