/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * A flow as another version might have it: the same fields at other places, with more between them
 * (types.h). What the test of migrate.h begins with.
 */
#ifndef PRIVLINK_OTHER_FLOW_H
#define PRIVLINK_OTHER_FLOW_H

struct rewrite {
	union tag tag;
	__u16 l4_delta;
	__u16 l3_delta;
	__be16 dport;
	__be16 sport;
	__be32 daddr;
	__be32 saddr;
	union via via;
};

struct flow {
	struct rewrite rw;
	__u64 more[5];
	__u32 twin;
	__u32 stamp;
	struct flow_key key;
	__u32 home;
	__u32 state;
};

#endif
