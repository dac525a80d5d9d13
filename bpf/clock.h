/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Time and randomness, both inputs when a test says so.
 *
 * The flow clock counts whole seconds since boot (plus the kernel's first jiffies), derived
 * from jiffies: bpf_jiffies64 is inlined to one load, every other clock is a call.
 */
#ifndef PRIVLINK_CLOCK_H
#define PRIVLINK_CLOCK_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

/* 2^32 / CONFIG_HZ, measured by the loader. */
volatile const __u64 jiffy_scale = 17179869;

/* Set by tests before load: time and randomness come from test_input, decisions go to test_verdict. */
volatile const __u8 test_mode = 0;
struct test_input test_input = {};
struct verdict test_verdict = {};

static __always_inline __u32 clock_now(void)
{
	if (test_mode)
		return test_input.now;
	return (bpf_jiffies64() * jiffy_scale) >> 32;
}

/* xorshift32 (Marsaglia 2003) in tests, so that the model draws the same numbers. */
static __always_inline __u32 clock_random(void)
{
	__u32 x;

	if (!test_mode)
		return bpf_get_prandom_u32();
	x = test_input.random;
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	test_input.random = x;
	return x;
}

static __always_inline void record(__u32 action, __u32 reason, __u32 out)
{
	if (!test_mode)
		return;
	test_verdict.action = action;
	test_verdict.reason = reason;
	test_verdict.out = out;
	test_verdict.count++;
}

#endif
