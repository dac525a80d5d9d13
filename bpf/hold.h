/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * For one test: holds a packet at the worst place while another CPU ends its flow and opens another
 * tenant's in the same slot. The verifier removes it: `hold_at` is 0 and constant in every program
 * that is not loaded by that test.
 */
#ifndef PRIVLINK_HOLD_H
#define PRIVLINK_HOLD_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include "faults.h"

enum hold_place {
	HOLD_NOWHERE = 0,
	HOLD_READING = 1, /* in the lookup: the key was compared, the rewrite not yet read */
	HOLD_FOUND = 2,   /* between the lookup and what is done with it */
};

/* Who armed it lets one packet be held, and releases it. */
enum hold_step {
	HOLD_IDLE = 0,
	HOLD_ARMED = 1,
	HOLD_HELD = 2,
	HOLD_RELEASED = 3,
	HOLD_EXPIRED = 4, /* nobody released it in time */
};

/* Turns of the loop that waits: some 10 ms. */
#define HOLD_TURNS (1 << 21)

volatile const __u32 hold_at = HOLD_NOWHERE;
volatile const __u32 hold_fault = FAULT_NONE;
volatile __u32 hold_step = HOLD_IDLE;

static long hold_turn(__u32 turn, void *unused)
{
	return hold_step != HOLD_HELD;
}

static __always_inline void hold_packet(void)
{
	if (hold_step != HOLD_ARMED)
		return;
	hold_step = HOLD_HELD;
	bpf_loop(HOLD_TURNS, hold_turn, NULL, 0);
	if (hold_step == HOLD_HELD)
		hold_step = HOLD_EXPIRED;
}

#define HOLD(place)                     \
	do {                            \
		if (hold_at == (place)) \
			hold_packet();  \
	} while (0)

/* What flowtable.h calls. */
#define FLOW_FAULT(fault) (hold_fault == (fault))
#define FLOW_PAUSE_READ() HOLD(HOLD_READING)

#endif
