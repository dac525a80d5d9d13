/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Everything that C and Go share: the values of the maps, the words in them, and
 * the limits. Go gets these by bpf2go; pkg/dataplane tests sizes and fields.
 *
 * Byte order stands behind each field: "net" = network order, else the host's.
 * Slots are indices of ARRAY maps; slot 0 is never used (a zeroed entry points nowhere).
 */
#ifndef PRIVLINK_TYPES_H
#define PRIVLINK_TYPES_H

#include <linux/types.h>

/* Limits, each reported in the error that enforces it. */
enum limits {
	MAX_VNETS = 65536,
	MAX_SERVICES = 65536,
	MAX_POOLS = 65536,
	MAX_LINKS = 65536,
	MAX_RULES = 65536,
	MAX_BACKENDS = 262144,
	MAX_NATSETS = 65536,
	MAX_OUTS = 4096,
	MAX_ADDRESSES = 262144,
	MAX_DIALS = 65536,
	MAX_DOMAINS = 131072,
	MAX_NAT_IPS = 8,
	IFACE_SLOTS = 8192, /* a power of two */
	IFACE_PROBES = 8,
	FIRST_PORT = 1024,
	PORT_COUNT = 64512, /* 1024..65535 */
	PORT_WORDS = 1008,
	MAX_FRAGMENTS = 4096,  /* incomplete datagrams a link may hold */
	RST_PER_SECOND = 1000, /* per output, for segments without a flow */
	ICMP_PER_SECOND = 100,
	ARP_PER_SECOND = 200,   /* events */
	SWEEP_BUDGET = 1000000, /* ns that a slice may take */
	SWEEP_STRIDE = 64,      /* slots visited between two looks at the clock */
};

/* Seconds. MIN_IDLE is the shortest of all: a stamp younger than it needs no further question. */
enum timeouts {
	IDLE_MIN = 10,
	IDLE_DEFAULT = 300,
	IDLE_SYN = 20,
	IDLE_CLOSING = 15,
	IDLE_RESET = 10,
	IDLE_FRAGMENT = 30,
	PORT_REST = 15,
	ORPHAN_AGE = 5, /* a reverse half that never got its forward half */
};

/*
 * Flow table (flowtable.h). One entry is one cache line and one direction of a flow.
 */
enum flow_kind {
	KIND_FLOW = 0,
	KIND_FRAGMENT = 1, /* saddr, daddr, sport = IP id of a datagram as it arrives */
	KIND_IPID = 2,     /* saddr, daddr, sport = IP id given on the outgoing side */
};

struct flow_key {
	__be32 saddr;          /* net */
	__be32 daddr;          /* net */
	__be16 sport;          /* net */
	__be16 dport;          /* net */
	__u16 vnet;            /* the VNet the packet arrives from */
	__u8 proto;            /* IPPROTO_TCP or IPPROTO_UDP; of fragments any */
	__u8 kind;             /* enum flow_kind */
} __attribute__((aligned(8))); /* compared as two words, on the stack too */

/* Where a forward packet goes: a backend, at the generation the flow was opened with. */
struct via_forward {
	__u32 backend; /* slot */
	__u16 backend_gen;
	__u16 client; /* hash of the client's MAC and interface: another one is a client that moved */
};

/* The next station of a packet: a MAC, and the slot of the output that leads to it. One word, read
 * and written at once. What the output itself says (its own MAC, MTU, ifindex) is read at each packet.
 */
struct hop {
	__u8 mac[6];
	__u16 out; /* slot; 0 = unresolved */
} __attribute__((aligned(8)));

/* The owner and the state of a flow. Changed in a live entry by a 64-bit compare-and-swap:
 * as the owner is part of it, a packet that was held up changes nothing of a later owner.
 */
struct flow_tag {
	__u32 link; /* slot */
	__u16 link_gen;
	__u16 flags; /* enum flow_phase in the low bits, then FLOW_* */
};

enum flow_phase {
	PHASE_SYN = 0,     /* half-open */
	PHASE_OPEN = 1,    /* established TCP, and UDP */
	PHASE_CLOSING = 2, /* FIN seen both ways */
	PHASE_RESET = 3,   /* RST seen; any other segment takes it back */
	PHASE_ENDED = 4,   /* revoked: every segment gets a RST until both ends are over */
	PHASE_MASK = 7,
};

enum flow_flags {
	FLOW_REVERSE = 1 << 3, /* the half that replies match */
	FLOW_FIN_CLIENT = 1 << 4,
	FLOW_FIN_BACKEND = 1 << 5,
	FLOW_ANSWERED = 1 << 6,   /* the backend sent SYN */
	FLOW_RST_CLIENT = 1 << 7, /* ended: the client got a RST, or sent one */
	FLOW_RST_BACKEND = 1 << 8,
	FLOW_RST_BOTH = FLOW_RST_CLIENT | FLOW_RST_BACKEND,
	FLOW_INNER =
		1 << 9,    /* second leg of a proxied connection, or a probe: no quota, no bytes */
	FLOW_HA = 1 << 10, /* its port domain has backend port 0 */
	FLOW_TCP = 1 << 11,
	FLOW_OVER_CLIENT = 1 << 12, /* ended: the client sent a RST, its socket is gone */
	FLOW_OVER_BACKEND = 1 << 13,
	FLOW_OVER_BOTH = FLOW_OVER_CLIENT | FLOW_OVER_BACKEND,
};

union via {
	struct via_forward forward;
	struct hop reverse; /* where the client was last heard from */
	__u64 word;
};

union tag {
	struct flow_tag of;
	__u64 word;
};

#ifdef OTHER_LAYOUT
#include "test/other_flow.h"
#else
/* What becomes of a packet that matches. 32 bytes. */
struct rewrite {
	__be32 saddr;   /* net */
	__be32 daddr;   /* net */
	__be16 sport;   /* net; of a KIND_FRAGMENT the new IP id */
	__be16 dport;   /* net */
	__u16 l3_delta; /* one's complement sum to add to ~check: addresses, TTL not included */
	__u16 l4_delta; /* the same for the ports alone */
	union via via;
	union tag tag;
};

struct flow {
	__u32 state; /* bits 0-1 enum slot_state, 2-6 distance from home, 7-31 sequence */
	__u32 home;  /* of this slot as a home: bits of its window, and the insert lock */
	__u32 stamp; /* seconds of the flow clock */
	__u32 twin;  /* slot of the other half, NO_SLOT = none */
	struct flow_key key;
	struct rewrite rw;
};
#endif

#define NO_SLOT (~0u)

/*
 * Configuration, written by pkg/dataplane through mmap and read by the programs.
 */

/* An attached interface as packets arrive: found by (ifindex, vlan), IFACE_PROBES places at most. */
struct iface {
	__u32 ifindex; /* 0 = free */
	__u16 vlan;    /* 0 = untagged */
	__u16 vnet;
	__u16 out;  /* its own slot in the table of outputs */
	__u8 flags; /* enum iface_flags */
	__u8 mac[6];
	__u8 pad[15];
};

enum iface_flags {
	IFACE_PASS_OTHER = 1 << 0, /* what is not ours goes on to the host */
	IFACE_INNER = 1 << 1, /* the gateway's end of the inner VNet: dial entries open flows */
};

/* An attached interface as packets leave. */
#ifndef OTHER_CONFIG
struct out {
	__u32 ifindex; /* 0 = gone */
	__u16 mtu;     /* bytes of an IP packet */
	__u16 vlan;    /* 0 = untagged */
	__u8 mac[6];
	__u16 vnet;
	__u8 flags; /* enum out_flags */
	__u8 pad[7];
	__u64 ident; /* hash of the attachment it was made for: found again under another ifindex */
};
#endif

enum out_flags {
	OUT_XDP = 1 << 0, /* known to take XDP frames: its slot is in the devmap */
	OUT_OWN_QDISC =
		1 << 1,    /* privlink made the clsact qdisc of the interface; for the daemon */
	OUT_PEER = 1 << 2, /* a veth whose other end, in another namespace, TC hands packets to */
};

enum link_state {
	LINK_NONE = 0,
	LINK_PENDING = 1,
	LINK_APPROVED = 2,
	LINK_REJECTED = 3,
	LINK_DISCONNECTED = 4,
};

/* A connection; also a frontend as its own VNet reaches it (link_id 0). */
#ifndef OTHER_CONFIG
struct link {
	__u64 ident;   /* hash of the name it was made for */
	__u32 link_id; /* the LinkID */
	__u16 gen;     /* gen, state: one 32-bit word, written at once */
	__u8 state;    /* enum link_state */
	__u8 pad;
	__u32 service; /* number of the rule set */
	__u32 max_flows;
	__be32 addr; /* net: endpoint or frontend IP */
	__u16 vnet;
	__u16 epoch; /* of the State, low bits: tells a restarted daemon that gen was raised for it */
};
#endif

/* Whose a number is (VNet, rule set, pool); read by user space only, which finds it again so. */
struct name {
	__u64 ident;
};

/* What a link uses; changed atomically by the programs. */
struct usage {
	__u32 pairs;     /* until swept */
	__u32 fragments; /* incomplete datagrams */
};

#ifndef OTHER_CONFIG
struct link_stats {
	__u64 packets_in;  /* from the client */
	__u64 bytes_in;    /* of IP packets */
	__u64 packets_out; /* to the client */
	__u64 bytes_out;
	__u64 opened;  /* flows */
	__u64 refused; /* flows */
	__u64 dropped; /* packets */
	__u64 pad;
};
#endif

struct reason_stats {
	__u64 packets;
	__u64 bytes; /* of frames */
};

enum address_kind {
	ADDR_NONE = 0,
	ADDR_ENDPOINT = 1, /* of this VNet: link */
	ADDR_PEERED = 2,   /* an endpoint of a peered VNet: link, no ARP */
	ADDR_FRONTEND = 3, /* link (with link_id 0) */
	ADDR_NAT = 4,
	ADDR_GATEWAY = 5, /* ARP only */
};

struct address_key {
	__be32 addr; /* net */
	__u16 vnet;
	__u16 pad;
};

/* Tests of migrations begin with other layouts of all that stands under #ifndef OTHER_CONFIG. */
#ifdef OTHER_CONFIG
#include "test/other_config.h"
#endif

/* HASH elements are reused while others read them: take link and kind first (one 8-byte
 * load), compare key after.
 */
#ifndef OTHER_CONFIG
struct address {
	struct address_key key;
	__u32 link; /* slot */
	__u8 kind;  /* enum address_kind */
	__u8 arp;   /* 1 = answer ARP for it */
	__u16 pad;
};
#endif

struct rule_key {
	__u32 service;
	__be16 port; /* net; 0 = every port */
	__u8 proto;  /* 0 = TCP and UDP (only with port 0, after those of one protocol) */
	__u8 pad;
};

/* As with struct address: rule first, then compare key. */
struct rule_ref {
	struct rule_key key;
	__u32 rule; /* slot */
	__u32 pad;
};

enum distribution {
	DIST_5_TUPLE = 0,
	DIST_SOURCE_IP = 1,
	DIST_SOURCE_IP_PROTOCOL = 2,
};

enum rule_flags {
	RULE_HA = 1 << 0, /* one port domain per backend, whatever the port */
};

/* A load balancing rule of one rule set. Its Maglev table is maglev[slot of the rule]. */
struct rule {
	__u64 ident;
	__u32 service;
	__u32 nat;           /* slot of the NAT set */
	__be16 backend_port; /* net; 0 = the port asked for */
	__u8 distribution;   /* enum distribution */
	__u8 flags;          /* enum rule_flags */
	__u32 pad;
	__u64 balance; /* hash of what its Maglev table was built from; read by user space only */
};

/* Source addresses, in the order in which they fill. Never changed in place. */
#ifndef OTHER_CONFIG
struct natset {
	__u64 ident;
	__u16 vnet; /* where they live, and the backends */
	__u8 count; /* 1..8 */
	__u8 pad[5];
	__be32 addr[MAX_NAT_IPS]; /* net */
};
#endif

enum backend_state {
	BACKEND_NONE = 0,
	BACKEND_UP = 1,
	BACKEND_DOWN = 2,       /* TCP stays, UDP is chosen anew */
	BACKEND_UNRESOLVED = 3, /* nobody answered for its address */
};

enum backend_flags {
	BACKEND_TCP_RESET = 1 << 0, /* RST to both ends at idle expiry */
	BACKEND_HA =
		1
		<< 1, /* its address has a rule for every port: all its rules share port domain 0 */
};

/* One backend of one rule. */
#ifndef OTHER_CONFIG
struct backend {
	__u64 ident;
	struct hop hop;
	__be32 addr; /* net */
	__be16 port; /* net; 0 = the port asked for */
	__u16 vnet;
	__u16 gen;      /* gen, state, flags: one 32-bit word */
	__u8 state;     /* enum backend_state */
	__u8 flags;     /* enum backend_flags */
	__u32 idle_tcp; /* seconds */
	__u32 idle_udp; /* seconds */
	__u32 rule;     /* slot */
	__u32 pool;     /* number of the backend pool */
	__u32 pad[5];
};
#endif

/* Who may leave the inner VNet, from which socket, and where to. */
struct dial_key {
	__be32 addr; /* net: inner source address */
	__be16 port; /* net */
	__u8 proto;
	__u8 pad;
};

/* As with struct address: compare key after everything else was read. */
struct dial {
	struct dial_key key;
	__u32 link; /* slot */
	__u16 link_gen;
	__u16 backend_gen;
	__u32 backend; /* slot */
	__u32 nat;     /* slot of the NAT set */
	__be16 dport;  /* net: at the backend */
	__u16 pad;
	__u32 pad2;
};

/* A port domain: what is unique per (VNet, protocol, NAT IP, backend, backend port). */
struct domain_key {
	__be32 nat;     /* net */
	__be32 backend; /* net */
	__be16 port;    /* net; 0 = every port (HA rules) */
	__u16 vnet;
	__u8 proto;
	__u8 pad[3];
};

struct domain {
	__u32 used;    /* resting ports included */
	__u32 cursor;  /* word to look at next */
	__u32 resting; /* their reverse entry is DEAD, not yet freed */
	__u32 pad;
	__u64 word[PORT_WORDS];
};

/* Tokens for packets privlink builds, per output, so that no neighbour uses up another's. */
struct bucket {
	__u32 stamp; /* seconds */
	__u32 rst;   /* in that second */
	__u32 icmp;
	__u32 arp; /* events */
};

/* The whole table. */
struct table {
	__u32 pairs;        /* until swept */
	__u32 fragments;    /* incomplete datagrams, at most a quarter of max_pairs */
	__u32 wanted_sweep; /* a domain is nearly full: set by packets, cleared by the daemon */
};

/* How often a port domain fell below half full, or below full: while the number stays, those that
 * were so full still are.
 */
struct refills {
	__u32 count;
	__u32 pad;
};

/* Written once when the maps are made: who adopts them needs the same numbers. */
struct config {
	__u64 seed[5];        /* of the flow hash */
	__u64 maglev_seed[2]; /* of the choice of a backend; equal on every node */
	__u32 homes;          /* of the flow table */
	__u32 max_pairs;      /* five for 24 homes: two entries each in 5 of 12 slots */
	__u32 port_step;      /* coprime with 2, 3 and 7 */
	__u32 port_offset;
	__u32 port_inverse; /* of port_step, modulo PORT_COUNT */
	__u32 pad;
};

/* What the programs tell the daemon (ring buffer). */
enum event_type {
	EVENT_ARP = 1,   /* somebody said sender_ip is at mac */
	EVENT_SWEEP = 2, /* a port domain is 90 % full */
};

struct event {
	__u32 type;       /* enum event_type */
	__u16 out;        /* slot of the interface it came in on */
	__u16 arp_op;     /* host order */
	__be32 sender_ip; /* net */
	__be32 target_ip; /* net */
	__u8 mac[6];
	__u16 vnet;
};

/* Sweep: one slice of the table, as much of it as fits into SWEEP_BUDGET. */
struct sweep {
	__u32 first; /* slot */
	__u32 count; /* in: slots to visit; out: how many were */
	__u32 now;   /* seconds of the flow clock; set by the program */
	__u32 live;  /* entries, counted */
	__u32 dead;
	__u32 killed; /* pairs found idle */
	__u32 ended;  /* pairs whose link or backend is gone */
	__u32 freed;  /* entries */
	__u32 orphans;
	__u32 unanswered; /* ended pairs: an end of each was not heard to be over */
	__u64 until;      /* ns, CLOCK_MONOTONIC: no slot is visited later; set by the program */
};

/* End one pair from user space: if its state word is still this one. */
struct ending {
	__u32 slot;
	__u32 state;
	__u32 mark; /* 1 = owe both ends a RST, 0 = make it DEAD */
	__u32 done; /* out: 1 = it was this one */
};

/* For tests: what the program decided, and time and randomness as inputs. */
struct verdict {
	__u32 action; /* enum action */
	__u32 reason; /* enum reason */
	__u32 out;    /* slot */
	__u32 count;  /* decisions since it was cleared */
	__u32 vlan;   /* tag beside the packet then, 0 = none: a test does not see it otherwise */
};

enum action {
	ACTION_NONE = 0,
	ACTION_PASS = 1, /* to the host, untouched */
	ACTION_UP = 2,   /* XDP only: TC on this device finishes it */
	ACTION_DROP = 3,
	ACTION_REDIRECT = 4,
	ACTION_ANSWER = 5, /* redirect of a packet privlink built */
	ACTION_PEER =
		6, /* as ACTION_REDIRECT, which it is recorded as; to the device's other end */
};

struct test_input {
	__u32 now;    /* seconds */
	__u32 random; /* state of a xorshift generator, never 0 */
	__u32 vlan; /* tag pushed before the packet is looked at: a test cannot feed one in metadata */
	__u32 blind; /* 1 = as if the kernel did not say what it knows of checksums (before 6.2) */
};

#endif
