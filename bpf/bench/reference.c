// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The least that a stateful NAT on the kernel's own hash can do: one lookup, one array lookup, stored
 * checksum deltas, one per-CPU counter, a coarse timestamp. No check of any kind; a miss makes the entry.
 * Clients get their address moved into another prefix, so that both directions' entries follow from a packet
 * alone: C.x.y:p -> endpoint becomes N.x.y:p -> backend, and back. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>

struct key { /* as in the packet, 16 bytes */
	__u32 saddr, daddr;
	__u16 sport, dport;
	__u32 ifindex;
};

struct rewrite {
	__u32 saddr, daddr;
	__u16 sport, dport;
	__u16 l3_delta, l4_delta; /* to add to the complemented checksum */
	__u64 stamp;
	__u32 via; /* index into neighbours */
	__u32 pad;
};

struct neighbour {
	__u32 macs[3]; /* destination, source: as in the frame */
	__u32 ifindex;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* set at load: as many as privlink's table takes */
	__type(key, struct key);
	__type(value, struct rewrite);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct neighbour);
} neighbours SEC(".maps"); /* 0: the server's side, 1: the client's */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64[2]); /* packets, bytes */
} counters SEC(".maps");

volatile const __u32 client_ifindex;
volatile const __u32 endpoint, backend; /* network byte order, like the next */
volatile const __u16 endpoint_port, backend_port;
volatile const __u32 move; /* xor of the client's prefix and the NAT's */

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 sum32(__u32 x)
{
	return (x & 0xffff) + (x >> 16);
}

static __always_inline struct rewrite *open_flow(struct key *k)
{
	struct rewrite r = {.sport = k->sport, .dport = k->dport};

	if (k->ifindex == client_ifindex) {
		r.saddr = k->saddr ^ move;
		r.daddr = backend;
		r.dport = backend_port;
	} else {
		r.saddr = endpoint;
		r.sport = endpoint_port;
		r.daddr = k->daddr ^ move;
		r.via = 1;
	}
	/* RFC 1624: HC' = ~(~HC + ~m + m') */
	r.l3_delta = fold(sum32(~k->saddr) + sum32(~k->daddr) + sum32(r.saddr) + sum32(r.daddr));
	r.l4_delta =
		fold((__u64)r.l3_delta + (__u16)~k->sport + (__u16)~k->dport + r.sport + r.dport);
	bpf_map_update_elem(&flows, k, &r, BPF_ANY);
	return bpf_map_lookup_elem(&flows, k);
}

/* Rewrites the packet; answers where it goes, 0 for nowhere. */
static __always_inline __u32 nat(void *data, void *data_end, __u32 ifindex)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);
	__u32 *macs = data;
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(udp + 1) > data_end)
		return 0;
	struct key k = {ip->saddr, ip->daddr, udp->source, udp->dest, ifindex};
	struct rewrite *r = bpf_map_lookup_elem(&flows, &k);

	if (!r && !(r = open_flow(&k)))
		return 0;
	__u32 via = r->via;
	struct neighbour *n = bpf_map_lookup_elem(&neighbours, &via);
	__u64 *c = bpf_map_lookup_elem(&counters, &via);

	if (!n || !c)
		return 0;
	c[0]++;
	c[1] += data_end - data;
	r->stamp = bpf_ktime_get_coarse_ns();
	ip->saddr = r->saddr;
	ip->daddr = r->daddr;
	udp->source = r->sport;
	udp->dest = r->dport;
	ip->check = ~fold((__u16)~ip->check + (__u64)r->l3_delta);
	udp->check = ~fold((__u16)~udp->check + (__u64)r->l4_delta);
	macs[0] = n->macs[0]; /* words: clang copies bytes one by one */
	macs[1] = n->macs[1];
	macs[2] = n->macs[2];
	return n->ifindex;
}

SEC("xdp")
int reference_xdp(struct xdp_md *ctx)
{
	__u32 out = nat((void *)(long)ctx->data, (void *)(long)ctx->data_end, ctx->ingress_ifindex);

	return out ? bpf_redirect(out, 0) : XDP_DROP;
}

SEC("tc")
int reference_tc(struct __sk_buff *skb)
{
	__u32 out = nat((void *)(long)skb->data, (void *)(long)skb->data_end, skb->ifindex);

	return out ? bpf_redirect(out, 0) : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
