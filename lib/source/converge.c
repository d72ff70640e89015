/* SPDX-License-Identifier: BSD-3-Clause */
/* converge.c - see converge.h. */
#include "source/converge.h"

#include "base/live.h"

#define MAX_POLISH   8		/* passes spent below the limit */
#define SMALL_ENOUGH (64u << 10) /* bytes: not worth another pass */
#define PATIENCE     10		/* where stall_passes says "never" */
#define BAD_PASSES   2		/* for a step of the throttle */
#define LONG_PASS_NS 1000000000 /* as bad as so many of those */
#define LONGEST	     4		/* of those: see first what a step does */

int64_t gw_converge_estimate(uint64_t nbytes, uint64_t bandwidth)
{
	double ns;

	if (!nbytes)
		return 0;
	if (!bandwidth)
		return -1;
	ns = (double)nbytes / (double)bandwidth * 1e9;
	return ns < 9e18 ? (int64_t)ns : INT64_MAX;
}

static bool fits(uint64_t nbytes, uint64_t bandwidth, int64_t limit_ns)
{
	int64_t estimate = gw_converge_estimate(nbytes, bandwidth);

	return estimate >= 0 && estimate <= limit_ns;
}

uint64_t gw_converge_least(const struct gw_converge *c)
{
	unsigned int n = c->nrecent < GW_CONVERGE_RECENT ? c->nrecent :
							   GW_CONVERGE_RECENT;
	uint64_t least = UINT64_MAX;

	for (unsigned int i = 0; i < n; i++)
		if (c->recent[i] < least)
			least = c->recent[i];
	return least;
}

/* Slower than this is not asked for, by the parameters as they are now. */
static uint32_t max_throttle(const struct godwit_params *params)
{
	uint32_t max = GW_LIVE(params->max_cpu_throttle);

	return max < 99 ? max : 99; /* a guest that stands answers nobody */
}

/* --- the throttle -------------------------------------------------------- */

static bool can_throttle(const struct gw_converge *c,
			 const struct godwit_params *params)
{
	return params->auto_converge && !c->cannot_throttle &&
	       c->throttle < max_throttle(params);
}

/* At another speed of the guest the passes so far say nothing. */
static void step(struct gw_converge *c, const struct godwit_params *params,
		 uint64_t remaining)
{
	uint32_t max = max_throttle(params);
	uint32_t by = c->throttle ? GW_LIVE(params->cpu_throttle_increment) :
				    GW_LIVE(params->cpu_throttle_initial);

	if (c->throttle < max)
		c->throttle = by < max - c->throttle ? c->throttle + by : max;
	c->stalled = 0;
	c->best = remaining;
}

static bool is_bad(const struct godwit_params *params,
		   const struct gw_converge_pass *p)
{
	uint32_t percent = GW_LIVE(params->throttle_trigger_threshold);

	return (double)p->remaining * 100 > (double)p->sent * percent;
}

static unsigned int weight(const struct gw_converge_pass *p)
{
	int64_t n = p->ns / LONG_PASS_NS;

	return n < 1 ? 1 : n > LONGEST ? LONGEST : (unsigned int)n;
}

static void throttle(struct gw_converge *c, const struct godwit_params *params,
		     const struct gw_converge_pass *p)
{
	uint32_t max = max_throttle(params);

	if (c->throttle > max) /* it was lowered meanwhile */
		c->throttle = max;
	if (!is_bad(params, p) || !can_throttle(c, params))
		return;
	c->bad += weight(p);
	for (; c->bad >= BAD_PASSES; c->bad -= BAD_PASSES)
		step(c, params, p->remaining);
}

/* --- the verdict --------------------------------------------------------- */

static void note(struct gw_converge *c, const struct gw_converge_pass *p)
{
	c->recent[c->nrecent++ % GW_CONVERGE_RECENT] = p->remaining;
	if (p->pass == 1 || p->remaining < c->best - c->best / 20) {
		c->best = p->remaining;
		c->stalled = 0;
	} else {
		c->stalled++;
	}
}

/*
 * What is left will not be lowered: take a moment in which it is about as low
 * as it gets. One comes within GW_CONVERGE_RECENT passes, unless it rises all
 * the time; then what fits is taken.
 */
static bool at_a_minimum(const struct gw_converge *c,
			 const struct gw_converge_pass *p,
			 unsigned int patience)
{
	uint64_t least = gw_converge_least(c);

	return p->remaining <= least + least / 20 ||
	       c->stalled >= patience + 2 * GW_CONVERGE_RECENT;
}

/* It does not get smaller. Is a dip that fits still to be hoped for? */
static enum gw_verdict stalled(struct gw_converge *c,
			       const struct godwit_params *params,
			       const struct gw_converge_pass *p, bool last,
			       unsigned int patience)
{
	int64_t max_ns = GW_LIVE(params->max_downtime_ns);
	bool hope = fits(gw_converge_least(c), p->bandwidth, max_ns) &&
		    c->stalled < patience + 2 * GW_CONVERGE_RECENT;

	if (fits(p->remaining, p->bandwidth, max_ns) &&
	    (last || at_a_minimum(c, p, patience)))
		return GW_SWITCH_OVER;
	if (last || (params->stall_passes && !hope))
		return GW_GIVE_UP;
	return GW_GO_ON;
}

enum gw_verdict gw_converge_decide(struct gw_converge *c,
				   const struct godwit_params *params,
				   const struct gw_converge_pass *p)
{
	unsigned int patience = params->stall_passes ? params->stall_passes :
						       PATIENCE;
	bool lowered = p->pass == 1 || p->remaining < c->last - c->last / 4;
	bool last = params->max_passes && p->pass >= params->max_passes;

	c->last = p->remaining;
	note(c, p);
	if (fits(p->remaining, p->bandwidth,
		 GW_LIVE(params->downtime_limit_ns))) {
		if (p->remaining <= SMALL_ENOUGH ||
		    fits(p->remaining, p->bandwidth, GW_CONVERGE_SHORT_NS) ||
		    !lowered || ++c->polished > MAX_POLISH)
			return GW_SWITCH_OVER;
		return GW_GO_ON;
	}
	throttle(c, params, p);
	if (!last && c->stalled < patience)
		return GW_GO_ON;
	if (!last && can_throttle(c, params)) {
		step(c, params, p->remaining);
		c->bad = 0;
		return GW_GO_ON;
	}
	return stalled(c, params, p, last, patience);
}
