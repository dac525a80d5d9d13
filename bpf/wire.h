/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Formats on the wire whose kernel headers (linux/icmp.h, linux/if_arp.h) drag in the C library of
 * the machine that compiles.
 */
#ifndef PRIVLINK_WIRE_H
#define PRIVLINK_WIRE_H

#include <linux/types.h>

/* ICMP (RFC 792). */
enum icmp_type {
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
};

enum icmp_code {
	ICMP_FRAG_NEEDED = 4, /* of ICMP_DEST_UNREACH */
	ICMP_EXC_TTL = 0,     /* of ICMP_TIME_EXCEEDED */
};

struct icmphdr {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id;       /* echo; unused in errors */
	__be16 sequence; /* echo; of ICMP_FRAG_NEEDED the next hop's MTU (RFC 1191) */
};

/* ARP (RFC 826), the fixed part. */
struct arphdr {
	__be16 ar_hrd;
	__be16 ar_pro;
	__u8 ar_hln;
	__u8 ar_pln;
	__be16 ar_op;
};

#define ARPHRD_ETHER  1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY   2

#endif
