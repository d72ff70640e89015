/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * limit.h - a token bucket: at most so many bytes per second, in steps of
 * 10 ms. Waiting is the caller's, so that it can be cancelled.
 */
#ifndef GW_SOURCE_LIMIT_H
#define GW_SOURCE_LIMIT_H

#include <stdint.h>

#include "base/clock.h"

struct gw_limit {
	uint64_t bps;	  /* 0: no limit */
	int64_t ready_ns; /* when the bytes so far are paid for */
};

static inline void gw_limit_init(struct gw_limit *l, uint64_t bps)
{
	l->bps = bps;
	l->ready_ns = gw_now_ns();
}

/* Account @nbytes just sent. Return: ns to wait before the next, 0: none. */
static inline int64_t gw_limit_spend(struct gw_limit *l, uint64_t nbytes)
{
	int64_t now = gw_now_ns(), burst = 10 * GW_NS_PER_MS;

	if (!l->bps)
		return 0;
	if (l->ready_ns < now - burst) /* idle time is not saved up */
		l->ready_ns = now - burst;
	l->ready_ns += (int64_t)((double)nbytes / (double)l->bps * 1e9);
	return l->ready_ns > now ? l->ready_ns - now : 0;
}

#endif
