/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The context layer: what differs between the two hooks and nothing else. A program
 * defines HOOK_TC or HOOK_XDP before it includes core.h.
 *
 * TC can do everything. XDP runs in front of it on some interfaces and finishes what is
 * plain; whatever needs more it passes up (ACTION_UP) before it has changed or counted
 * anything, and TC on the same device does the same lookup and finishes.
 */
#ifndef PRIVLINK_HOOK_H
#define PRIVLINK_HOOK_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "wire.h"
#include "types.h"
#include "reasons.h"
#include "maps.h"
#include "mutants.h"
#include "hold.h"
#include "clock.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* What a step decides: 0 = go on, else an action and its reason, made into a verdict by the entry. */
#define GO_ON                  0
#define DECIDE(action, reason) ((action) << 16 | (reason))
#define DROP(name)             DECIDE(ACTION_DROP, REASON_##name)
/* Not for privlink: the entry drops it or leaves it to the host. */
#define OTHER(name)    DECIDE(ACTION_PASS, REASON_##name)
#define REDIRECTED     DECIDE(ACTION_REDIRECT, REASON_NONE)
#define ANSWERED(name) DECIDE(ACTION_ANSWER, REASON_##name)
#define UP             DECIDE(ACTION_UP, REASON_NONE)

/* Decisions that still have to be carried out. The entry in TC does, and makes them one of the
 * others; XDP leaves them to TC.
 */
enum wanted {
	WANT_RST = 16, /* to the sender */
	WANT_RST_UNLIMITED,
	WANT_TTL,      /* ICMP time exceeded */
	WANT_TOO_BIG,  /* ICMP fragmentation needed, with packet.mtu */
	WANT_FLOW,     /* no live flow: may it open one? */
	WANT_NEW_FLOW, /* the same, and the entry that is there counts as absent */
};

#ifdef HOOK_XDP
typedef struct xdp_md hook;
#define IS_XDP            1
#define hook_length(ctx)  ((__u32)(hook_end(ctx) - hook_data(ctx)))
#define hook_ifindex(ctx) ((ctx)->ingress_ifindex)
#else
typedef struct __sk_buff hook;
#define IS_XDP            0
#define hook_length(ctx)  ((ctx)->len)
#define hook_ifindex(ctx) ((ctx)->ifindex)
#endif

/* Packet pointers, loaded by one instruction that clang cannot take apart: it would keep the halves
 * of a difference in 32-bit registers and spill them, which the verifier refuses.
 */
#define hook_pointer(ctx, field)                                      \
	({                                                            \
		void *pointer_;                                       \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                 \
		             : "=r"(pointer_)                         \
		             : "r"(ctx), "i"(offsetof(hook, field))); \
		pointer_;                                             \
	})
#define hook_data(ctx) hook_pointer(ctx, data)
#define hook_end(ctx)  hook_pointer(ctx, data_end)

/* Words at any address: neither x86-64 nor arm64 minds, but clang takes a load apart where it sees the
 * address of a field that is aligned to less. Behind a parameter it does not see it.
 */
typedef __u16 __attribute__((may_alias)) any_u16;
typedef __u32 __attribute__((may_alias)) any_u32;
typedef __u64 __attribute__((may_alias)) any_u64;

static __always_inline __u16 load16(const void *at)
{
	return *(const any_u16 *)at;
}

static __always_inline __u32 load32(const void *at)
{
	return *(const any_u32 *)at;
}

static __always_inline __u64 load64(const void *at)
{
	return *(const any_u64 *)at;
}

/* One packet, parsed once. Offsets are from the start of the frame. Holds no pointers: it is handed
 * to global functions.
 */
struct packet {
	__u32 now;  /* seconds of the flow clock */
	__u32 link; /* slot of the link it belongs to, 0 = not known */
	struct flow_key key;
	__u16 length;   /* of the IP packet; of a GSO packet the largest segment's */
	__u16 l4;       /* offset */
	__u16 fragment; /* fragment field, host order */
	__u16 out;      /* slot it leaves by */
	__u8 tcp;       /* flags, byte 13 of the header */
	__u8 ttl;
	__u8 header;   /* bytes of IP header */
	__u8 bad;      /* enum reason: the L4 header is malformed */
	__u32 bytes;   /* of IP packets, all segments of a GSO packet together */
	__u32 packets; /* segments */
	__u16 payload; /* bytes of L4 payload as the segment's numbers count them */
	__u16 in;      /* slot of the output that the interface it came in by is */
	__u32 ifindex; /* of the interface it leaves by (TC) */
	__u16 mtu;     /* of the output it is too big for */
	__u8 flags;    /* of the attachment: enum iface_flags */
	__u8 pad;
};

/* A step away from the fast path: a global function, verified once and on its own, with a stack
 * frame that the fast path does not pay for. 6.1 takes its pointers for possibly NULL.
 */
#define SLOW __attribute__((noinline))

#define L3      ETH_HLEN
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define FRAGMENT_MORE    0x2000
#define FRAGMENT_OFFSET  0x1fff
#define MAY_NOT_FRAGMENT 0x4000

#endif
