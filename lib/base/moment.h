/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * moment.h - steps of a hand-over that are worth a time of their own: a log
 * line of level trace and a probe. The clock is the host's, so that moments
 * of two processes compare (bench/handover.py). Include after base/log.h.
 */
#ifndef GW_BASE_MOMENT_H
#define GW_BASE_MOMENT_H

#include "base/clock.h"
#include "base/log.h"
#include "base/trace.h"

/* At @ns of gw_now_ns(): it was noticed later than it happened. */
#define gw_moment_was(what, ns)                                             \
	do {                                                                \
		GW_TRACE2(moment, what, ns);                                \
		gw_log_at(GW_LOG_TRACE, "at %lld us: %s",                   \
			  (long long)(ns) / 1000, what);                    \
	} while (0)
#define gw_moment(what) gw_moment_was(what, gw_now_ns())

#endif
