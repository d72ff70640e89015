/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * limit.h - a token bucket: at most so many bytes per second, in steps of
 * 10 ms. Waiting is the caller's, so that it can be cancelled. What is owed is
 * kept in bytes, not in time: a rate that changes counts at once, also for
 * what was sent before.
 */
#ifndef GW_SOURCE_LIMIT_H
#define GW_SOURCE_LIMIT_H

#include <stdint.h>

#include "base/clock.h"

struct gw_limit {
	uint64_t bps; /* 0: no limit */
	double owed;  /* bytes sent and not yet paid for by time */
	int64_t at_ns; /* paid up to here */
};

static inline void gw_limit_init(struct gw_limit *l, uint64_t bps)
{
	l->bps = bps;
	l->owed = 0;
	l->at_ns = gw_now_ns();
}

static inline void gw_limit_pay(struct gw_limit *l)
{
	int64_t now = gw_now_ns();
	double rate = (double)l->bps / 1e9, burst = 10e6 * rate;

	l->owed -= (double)(now - l->at_ns) * rate;
	if (l->owed < -burst) /* idle time is not saved up */
		l->owed = -burst;
	l->at_ns = now;
}

/* Another rate from now on. */
static inline void gw_limit_set(struct gw_limit *l, uint64_t bps)
{
	if (bps == l->bps)
		return;
	gw_limit_pay(l);
	l->bps = bps;
	if (!bps)
		l->owed = 0;
}

/* Account @nbytes just sent. Return: ns to wait before the next, 0: none. */
static inline int64_t gw_limit_spend(struct gw_limit *l, uint64_t nbytes)
{
	if (!l->bps)
		return 0;
	gw_limit_pay(l);
	l->owed += (double)nbytes;
	return l->owed > 0 ? (int64_t)(l->owed * 1e9 / (double)l->bps) : 0;
}

#endif
