/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The frame that the benchmark's programs agree on, and how a flow's number becomes its addresses. */
#ifndef PRIVLINK_BENCH_H
#define PRIVLINK_BENCH_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define BENCH_MAGIC            0x706c626eu /* marks our frames, so that a stray one is not counted */
#define FLOWS_PER_CLIENT_SHIFT 8           /* 256 flows per client address */
#define FIRST_CLIENT_PORT      20000
#define FRAME_LEN              60
#define IP_DF                  0x4000
#define TTL                    64

/* Behind the UDP header; fills the shortest Ethernet frame without its check sequence, 60 bytes. */
struct payload {
	__u32 magic;
	__u32 flow; /* host byte order */
	__u32 seq;  /* packet number within the run, host byte order */
	__u16 pad[3];
};

/* The frame, part by part: a packed struct of all of it would be read and written byte by byte. */
struct frame {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct udphdr *udp;
	struct payload *load;
};

#define IP_LEN  (FRAME_LEN - ETH_HLEN)
#define UDP_LEN (IP_LEN - sizeof(struct iphdr))

_Static_assert(UDP_LEN == sizeof(struct udphdr) + 18, "one minimal frame");

/* 0 if the packet is shorter. */
static __always_inline int frame_at(struct xdp_md *ctx, struct frame *f)
{
	void *data = (void *)(long)ctx->data;

	if (data + FRAME_LEN > (void *)(long)ctx->data_end)
		return 0;
	f->eth = data;
	f->ip = data + ETH_HLEN;
	f->udp = data + ETH_HLEN + sizeof(struct iphdr);
	f->load = data + ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr);
	return 1;
}

/* What the server side saw of a flow: all in network byte order. Written by the verifying sink, read by
 * the generator of the reverse direction, which has to answer to the NAT's choice. */
struct seen {
	__u32 saddr, daddr;
	__u16 sport, dport;
	__u32 packets; /* verified ones of this flow, host byte order */
};

static __always_inline __u32 client_of(__u32 first, __u32 flow)
{
	return bpf_htonl(first + (flow >> FLOWS_PER_CLIENT_SHIFT));
}

static __always_inline __u16 port_of(__u32 flow)
{
	return bpf_htons(FIRST_CLIENT_PORT + (flow & ((1 << FLOWS_PER_CLIENT_SHIFT) - 1)));
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

#endif
