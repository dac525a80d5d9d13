/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Why a packet did not simply go through: one name, one line of text, one counter each.
 * The names become metric labels and CLI text; Go reads the texts from the object file.
 * Columns: enum name, label, text.
 */
#ifndef PRIVLINK_REASONS_H
#define PRIVLINK_REASONS_H

#define REASONS(X)                                                                                \
	X(NONE, "none", "forwarded")                                                              \
	/* not ours: dropped, or passed to the host with --pass-other */                          \
	X(NO_ATTACHMENT, "no_attachment", "frame of a VLAN that is not attached")                 \
	X(OTHER_MAC, "other_mac", "frame for another unicast MAC address")                        \
	X(OTHER_IPV6, "other_ipv6", "IPv6")                                                       \
	X(OTHER_ARP, "other_arp", "ARP for an address that is not privlink's")                    \
	X(OTHER_ETHERTYPE, "other_ethertype", "neither IPv4, IPv6 nor ARP")                       \
	X(OTHER_IPV4, "other_ipv4", "IPv4 packet for an address that is not privlink's")          \
	X(MULTICAST, "multicast", "IPv4 multicast or broadcast")                                  \
	/* malformed */                                                                           \
	X(SHORT, "short", "frame too short for its headers")                                      \
	X(BAD_HEADER, "bad_header", "IPv4 header with a wrong version, length or total length")   \
	X(BAD_L4, "bad_l4", "TCP or UDP header with a wrong length or port 0")                    \
	X(MARTIAN, "martian", "source address that no host may send from")                        \
	/* never crosses a link */                                                                \
	X(SCTP, "sctp", "SCTP to an address of privlink")                                         \
	X(GRE, "gre", "GRE to an address of privlink")                                            \
	X(ESP, "esp", "ESP to an address of privlink")                                            \
	X(AH, "ah", "AH to an address of privlink")                                               \
	X(IGMP, "igmp", "IGMP to an address of privlink")                                         \
	X(PROTOCOL, "protocol", "yet another protocol over IPv4, to an address of privlink")      \
	X(ICMP_OTHER, "icmp_other", "ICMP other than echo to an endpoint and errors of flows")    \
	X(ICMP_NO_FLOW, "icmp_no_flow", "ICMP error that quotes no flow")                         \
	X(ICMP_SHORT, "icmp_short", "ICMP error that quotes too little")                          \
	/* the link */                                                                            \
	X(NOT_APPROVED, "not_approved", "the connection is not approved")                         \
	X(ENDED, "ended", "flow of before the connection or backend was removed")                 \
	X(NO_RULE, "no_rule", "no rule for this protocol and port")                               \
	X(NO_BACKEND, "no_backend", "no backend can take a new flow")                             \
	X(QUOTA, "quota", "the connection has as many flows as it may")                           \
	X(PORTS, "ports", "every NAT port to this backend is in use")                             \
	X(PORTS_RESTING, "ports_resting", "NAT ports to this backend are only resting")           \
	X(DOMAINS, "domains", "no room for another port bitmap")                                  \
	X(TABLE_FULL, "table_full", "the flow table is at its limit")                             \
	X(WINDOW_FULL, "window_full", "no slot near the flow's place in the table")               \
	X(TABLE_BUSY, "table_busy", "another CPU opens a flow at the same place")                 \
	X(NO_FLOW, "no_flow", "TCP segment without SYN and without flow")                         \
	X(NAT_NO_FLOW, "nat_no_flow", "packet to a NAT IP without a flow")                        \
	X(NO_DIAL, "no_dial", "packet of the inner VNet without a dial entry")                    \
	/* forwarding */                                                                          \
	X(TTL, "ttl", "TTL reached 0")                                                            \
	X(TOO_BIG, "too_big", "larger than the output's MTU")                                     \
	X(TOO_BIG_MAY_FRAGMENT, "too_big_may_fragment",                                           \
	  "larger than the output's MTU, DF not set: privlink cannot fragment")                   \
	X(NO_OUTPUT, "no_output", "the interface it would leave by is gone")                      \
	X(FRAGMENT_ORPHAN, "fragment_orphan", "later fragment before its first")                  \
	X(FRAGMENT_BAD, "fragment_bad", "fragment too small, overlapping its header or too long") \
	X(FRAGMENT_IDS, "fragment_ids", "too many incomplete datagrams")                          \
	X(HELPER, "helper", "a kernel helper refused")                                            \
	/* answered by privlink */                                                                \
	X(ARP_REPLY, "arp_reply", "ARP request answered")                                         \
	X(ECHO_REPLY, "echo_reply", "echo to an endpoint answered")                               \
	X(RST_LIMITED, "rst_limited", "a RST that was due exceeded the rate limit")               \
	X(ICMP_LIMITED, "icmp_limited", "an ICMP error that was due exceeded the rate limit")     \
	X(RST_SENT, "rst_sent", "RST built by privlink")                                          \
	X(ICMP_SENT, "icmp_sent", "ICMP error built by privlink")

#define REASON_ENUM(name, label, text) REASON_##name,
enum reason {
	REASONS(REASON_ENUM) REASON_COUNT
};
#undef REASON_ENUM

/* Read by Go from the object file; never loaded into the kernel. */
struct reason_text {
	char label[24];
	char text[72];
};

#endif
