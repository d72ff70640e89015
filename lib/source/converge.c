/* SPDX-License-Identifier: BSD-3-Clause */
/* converge.c - see converge.h. */
#include "source/converge.h"

#include <stdbool.h>

#define MAX_POLISH   8		/* passes spent below the limit */
#define SMALL_ENOUGH (64u << 10) /* bytes: not worth another pass */

int64_t gw_converge_estimate(uint64_t nbytes, uint64_t bandwidth)
{
	if (!nbytes)
		return 0;
	if (!bandwidth)
		return -1;
	return (int64_t)((double)nbytes / (double)bandwidth * 1e9);
}

enum gw_verdict gw_converge_decide(struct gw_converge *c,
				   const struct godwit_params *params,
				   unsigned int pass, uint64_t remaining,
				   uint64_t bandwidth)
{
	int64_t estimate = gw_converge_estimate(remaining, bandwidth);
	bool lowered = pass == 1 || remaining < c->last - c->last / 4;

	c->last = remaining;
	if (pass == 1 || remaining < c->best - c->best / 20) {
		c->best = remaining;
		c->stalled = 0;
	} else {
		c->stalled++;
	}
	if (estimate >= 0 && estimate <= params->downtime_limit_ns) {
		if (remaining <= SMALL_ENOUGH || !lowered ||
		    ++c->polished > MAX_POLISH)
			return GW_SWITCH_OVER;
		return GW_GO_ON;
	}
	if (params->max_passes && pass >= params->max_passes)
		return GW_GIVE_UP;
	if (params->stall_passes && c->stalled >= params->stall_passes)
		return GW_GIVE_UP;
	return GW_GO_ON;
}
