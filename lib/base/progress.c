/* SPDX-License-Identifier: BSD-3-Clause */
/* progress.c - see progress.h. */
#include "base/progress.h"

#include <string.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/trace.h"

#define INTERVAL_NS (100 * GW_NS_PER_MS)

void gw_progress_init(struct gw_progress *p, godwit_progress_fn fn, void *data)
{
	memset(p, 0, sizeof(*p));
	pthread_mutex_init(&p->lock, NULL);
	p->fn = fn;
	p->data = data;
	p->now.expected_downtime_ns = -1;
	p->now.eta_ns = -1;
	p->started_ns = p->window_ns = gw_now_ns();
}

void gw_progress_fini(struct gw_progress *p)
{
	pthread_mutex_destroy(&p->lock);
}

/* Overflowed pages went whole: they are among the normal ones. */
static uint64_t pages_sent(const struct godwit_stats *s)
{
	return s->normal + s->duplicate + s->xbzrle_pages - s->xbzrle_overflow;
}

/* Which bytes went while the VM ran, which while it stood. */
static void split_bytes(struct godwit_stats *s)
{
	if (s->status < GODWIT_STATUS_PRE_SWITCHOVER ||
	    s->status == GODWIT_STATUS_COLO)
		s->precopy_bytes = s->transferred;
	else
		s->downtime_bytes = s->transferred - s->precopy_bytes;
}

static void measure(struct gw_progress *p, int64_t now)
{
	int64_t ns = now - p->window_ns;

	if (ns < INTERVAL_NS / 2)
		return;
	p->now.bandwidth = (uint64_t)(
		(double)(p->now.transferred - p->window_bytes) * 1e9 /
		(double)ns);
	p->now.pages_per_second = (uint64_t)(
		(double)(pages_sent(&p->now) - p->window_pages) * 1e9 /
		(double)ns);
	p->now.eta_ns = p->now.bandwidth ?
				(int64_t)((double)p->now.remaining * 1e9 /
					  (double)p->now.bandwidth) :
				-1;
	p->window_ns = now;
	p->window_bytes = p->now.transferred;
	p->window_pages = pages_sent(&p->now);
}

static void publish(struct gw_progress *p, int64_t now)
{
	measure(p, now);
	split_bytes(&p->now);
	p->last_ns = now;
	p->now.total_ns = now - p->started_ns;
	{
		GW_LOCKED(&p->lock);
		p->published = p->now;
	}
	if (p->fn)
		p->fn(&p->now, p->data);
}

void gw_progress_tick(struct gw_progress *p)
{
	int64_t now = gw_now_ns();

	if (now - p->last_ns >= INTERVAL_NS)
		publish(p, now);
}

void gw_progress_status(struct gw_progress *p, enum godwit_status s)
{
	GW_TRACE2(status, (int)p->now.status, (int)s);
	split_bytes(&p->now); /* up to here */
	p->now.status = s;
	publish(p, gw_now_ns());
}

void gw_progress_get(struct gw_progress *p, struct godwit_stats *out)
{
	GW_LOCKED(&p->lock);
	*out = p->published;
}
