/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * advice.c - the text of exit code 5: what was seen, and what would have
 * helped, as a user would type it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/live.h"
#include "base/units.h"
#include "source/internal.h"

#define MOST_DOWNTIME_NS (2000 * GW_NS_PER_S) /* that the parameter takes */

struct text {
	char buf[640];
	size_t len;
	int options;
};

static void add(struct text *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
	size_t left = sizeof(t->buf) - t->len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, left, fmt, ap);
	va_end(ap);
	if (n > 0)
		t->len += (size_t)n < left ? (size_t)n : left - 1;
}

/* One more way out. */
static void option(struct text *t)
{
	add(t, "%s", t->options++ ? ", or " : "");
}

/* A quarter more than @ns, rounded up, as a parameter is written. */
static void format_param(char buf[32], int64_t ns)
{
	int64_t ms = (ns + ns / 4) / GW_NS_PER_MS + 1, step = 1;

	while (ms > 100 * step)
		step *= 10;
	ms = (ms + step - 1) / step * step;
	if (ms >= 10000)
		snprintf(buf, 32, "%llds", (long long)(ms + 999) / 1000);
	else
		snprintf(buf, 32, "%lldms", (long long)ms);
}

static void advise_downtime(struct gw_source *s, struct text *t)
{
	int64_t least = gw_converge_estimate(gw_converge_least(&s->converge),
					     s->ram_rate);
	char param[32];

	if (least < 0 || least > MOST_DOWNTIME_NS / 2)
		return;
	format_param(param, least);
	option(t);
	add(t, "let it stand for that long (--max-downtime %s)", param);
}

static void advise_throttle(struct gw_source *s, struct text *t)
{
	if (s->c.params->auto_converge)
		return;
	option(t);
	add(t, "have its CPUs slowed down meanwhile (--auto-converge)");
}

static void advise_link(struct gw_source *s, struct text *t)
{
	uint64_t limit = GW_LIVE(s->c.params->max_bandwidth);
	char now[32];

	if (s->c.chan && !s->c.params->xbzrle) {
		option(t);
		add(t, "send differences only (--xbzrle)");
	}
	if (!limit)
		return;
	option(t);
	add(t, "raise --max-bandwidth, which is %s",
	    gw_format_size(now, sizeof(now), limit));
}

/* What was done already. */
static void add_throttle(struct gw_source *s, struct text *t)
{
	if (s->throttle_why[0])
		add(t, ", and its CPUs could not be slowed down (%.200s)",
		    s->throttle_why);
	else if (s->now->cpu_throttle_percentage)
		add(t, " though %u percent of its CPU time was taken",
		    s->now->cpu_throttle_percentage);
}

int gw_source_give_up(struct gw_source *s, struct gw_error *err)
{
	char left[32], rate[32], bw[32], est[32], limit[32], most[32];
	int64_t max_ns = GW_LIVE(s->c.params->max_downtime_ns);
	const struct godwit_stats *n = s->now;
	struct text t = { .len = 0 };

	if (max_ns)
		add(&t, ", %s at most",
		    gw_format_time(most, sizeof(most), max_ns));
	add_throttle(s, &t);
	add(&t, ". What would help: ");
	advise_downtime(s, &t);
	advise_throttle(s, &t);
	advise_link(s, &t);
	option(&t);
	add(&t, "try when the guest writes less");
	return gw_fail_as(
		err, GW_FAULT_CONVERGE, ETIME,
		"does not converge: %s left after pass %u, the guest dirties %s/s and %s/s can be sent, so the downtime would be %s and the limit is %s%s",
		gw_format_size(left, sizeof(left), n->remaining), n->pass,
		gw_format_size(rate, sizeof(rate),
			       n->dirty_pages_rate * GW_PAGE_SIZE),
		gw_format_size(bw, sizeof(bw), s->ram_rate),
		gw_format_time(est, sizeof(est), n->expected_downtime_ns),
		gw_format_time(limit, sizeof(limit),
			       GW_LIVE(s->c.params->downtime_limit_ns)),
		t.buf);
}
