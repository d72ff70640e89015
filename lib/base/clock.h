/* SPDX-License-Identifier: BSD-3-Clause */
/* clock.h - monotonic time in nanoseconds, deadlines in milliseconds. */
#ifndef GW_BASE_CLOCK_H
#define GW_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define GW_NS_PER_MS 1000000LL
#define GW_NS_PER_S  1000000000LL

static inline int64_t gw_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * GW_NS_PER_S + t.tv_nsec;
}

/*
 * A deadline is a point of gw_now_ns(); 0 means none. @ms < 0 means no limit.
 */
static inline int64_t gw_deadline_ms(int64_t ms)
{
	return ms < 0 ? 0 : gw_now_ns() + ms * GW_NS_PER_MS;
}

/* Milliseconds left, as poll(2) wants them: -1 for no limit, 0 when over. */
static inline int gw_deadline_left_ms(int64_t deadline)
{
	int64_t left;

	if (!deadline)
		return -1;
	left = deadline - gw_now_ns();
	if (left <= 0)
		return 0;
	left = (left + GW_NS_PER_MS - 1) / GW_NS_PER_MS;
	return left > 0x7fffffff ? 0x7fffffff : (int)left;
}

#endif
