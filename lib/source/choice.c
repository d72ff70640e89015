/* SPDX-License-Identifier: BSD-3-Clause */
/* choice.c - see choice.h. */
#include "source/choice.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/units.h"

#define MARGIN	     1.25 /* what is won must be worth the change */
#define NEW	     0.2  /* weight of a new sample */
#define INTERVAL_MIN 16u  /* calls between two samples of what is plain */
#define INTERVAL_MAX 1024u

/* Look at what was written so often, if it is enough to tell. */
#define LOOK_NS	   (50 * GW_NS_PER_MS)
#define LOOK_BYTES (256u << 10)

/* A probe: bytes of each channel that fill buffers, and that are measured. */
#define PROBE_FILL   (3u << 20)
#define PROBE_BYTES  (3u << 20)
#define PROBE_NS     (300 * GW_NS_PER_MS)
#define PROBE_FIRST  (2 * GW_NS_PER_S)
#define PROBE_SELDOM (16 * GW_NS_PER_S)

void gw_choice_init(struct gw_choice *c, unsigned int nthreads, int64_t now)
{
	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->lock, NULL);
	c->nthreads = nthreads;
	c->probe_every = PROBE_FIRST;
	c->since_ns = now;
	for (int i = 0; i < GW_PAGE_CLASSES; i++)
		c->class[i].interval = INTERVAL_MIN;
}

static double link_of(const struct gw_choice *c)
{
	return c->link > c->limit ? c->link : c->limit;
}

/* Decide anew for all classes. */
static void decide(struct gw_choice *c, int64_t now)
{
	bool changed = false;

	for (int i = 0; i < GW_PAGE_CLASSES; i++) {
		struct gw_class *k = &c->class[i];
		double won = link_of(c) * (1 - k->ratio);
		bool on = k->known && won > k->work * (k->on ? 1.0 : MARGIN);

		changed |= on != k->on;
		if (on != k->on)
			k->interval = INTERVAL_MIN;
		k->on = on;
	}
	if (!changed)
		return;
	c->probe_every = PROBE_FIRST;
	c->probe_at = now + c->probe_every;
}

static bool any_on(const struct gw_choice *c)
{
	for (int i = 0; i < GW_PAGE_CLASSES; i++)
		if (c->class[i].on)
			return true;
	return false;
}

static void restart(struct gw_choice *c, int64_t now)
{
	c->bytes = 0;
	c->ns = 0;
	c->fill = c->probing ? (uint64_t)PROBE_FILL * c->nthreads : 0;
	c->since_ns = now;
}

/* A limit that pays for compression by itself needs no probe. */
static bool probe_due(const struct gw_choice *c, int64_t now)
{
	return !c->probing && now >= c->probe_at && c->link > c->limit &&
	       any_on(c);
}

enum gw_choose gw_choice_ask(struct gw_choice *c, enum gw_page_class class,
			     int64_t now)
{
	struct gw_class *k = &c->class[class];
	GW_LOCKED(&c->lock);

	if (probe_due(c, now)) {
		c->probing = true;
		restart(c, now);
	}
	if (k->on && !c->probing)
		return GW_CHOOSE_COMPRESS;
	if (k->until_sample--)
		return GW_CHOOSE_PLAIN;
	k->until_sample = k->interval;
	if (k->interval < INTERVAL_MAX)
		k->interval *= 2;
	return GW_CHOOSE_SAMPLE;
}

static void approach(double *value, double seen, bool known)
{
	*value = known ? *value + NEW * (seen - *value) : seen;
}

void gw_choice_compressed(struct gw_choice *c, enum gw_page_class class,
			  uint64_t in, uint64_t out, int64_t ns)
{
	struct gw_class *k = &c->class[class];
	GW_LOCKED(&c->lock);

	approach(&k->ratio, (double)out / (double)in, k->known);
	approach(&k->work, (double)ns / (double)in, k->known);
	k->known = true;
}

/* Enough was written plain to say how long a byte takes. */
static void look(struct gw_choice *c, int64_t now)
{
	c->link = (double)c->ns / (double)c->bytes;
	if (c->probing) {
		c->probing = false;
		if (c->probe_every < PROBE_SELDOM)
			c->probe_every *= 2;
		c->probe_at = now + c->probe_every;
	}
	restart(c, now);
	decide(c, now);
}

/* Is what was written plain enough to tell? A slow link never fills. */
static bool enough_plain(const struct gw_choice *c, int64_t now)
{
	int64_t took = now - c->since_ns;

	if (!c->probing)
		return c->bytes >= LOOK_BYTES && took >= LOOK_NS;
	return took >= PROBE_NS ||
	       (!c->fill && c->bytes >= (uint64_t)PROBE_BYTES * c->nthreads);
}

static void wrote_plain(struct gw_choice *c, int64_t now)
{
	if (c->fill && c->bytes >= c->fill) {
		c->bytes = c->fill = 0;
		c->ns = 0;
	} else if (enough_plain(c, now)) {
		look(c, now);
	}
}

/* Compressed bytes that wait so long: plain ones would wait no less. */
static void wrote_compressed(struct gw_choice *c, int64_t now)
{
	double each = (double)c->ns / (double)c->bytes;

	if (c->bytes < LOOK_BYTES / 8 || now - c->since_ns < LOOK_NS)
		return;
	if (each > c->link) {
		c->link = each;
		c->probe_at = now + c->probe_every;
	}
	restart(c, now);
	decide(c, now);
}

void gw_choice_wrote(struct gw_choice *c, bool plain, uint64_t bytes,
		     int64_t ns, int64_t now)
{
	GW_LOCKED(&c->lock);

	/* Samples among what is plain, and the other way round, say little. */
	if (!bytes || plain != (c->probing || !any_on(c)))
		return;
	c->bytes += bytes;
	c->ns += ns;
	if (plain)
		wrote_plain(c, now);
	else
		wrote_compressed(c, now);
}

void gw_choice_limit(struct gw_choice *c, uint64_t bps, int64_t now)
{
	double limit = bps ? (double)c->nthreads * 1e9 / (double)bps : 0;
	GW_LOCKED(&c->lock);

	if (limit == c->limit)
		return;
	c->limit = limit;
	decide(c, now);
}

static uint64_t rate(const struct gw_choice *c, double ns_per_byte)
{
	return ns_per_byte > 0
		       ? (uint64_t)((double)c->nthreads * 1e9 / ns_per_byte)
		       : 0;
}

static size_t why_class(const struct gw_choice *c, const struct gw_class *k,
			const char *name, const char *method, char *text,
			size_t size)
{
	char speed[32];
	int n = snprintf(
		text, size, "%s %s (%.1fx at %s/s); ", name,
		k->on ? method : "none", k->ratio > 0 ? 1 / k->ratio : 1,
		gw_format_size(speed, sizeof(speed), rate(c, k->work)));

	return n > 0 && (size_t)n < size ? (size_t)n : 0;
}

void gw_choice_why(struct gw_choice *c, const char *method, char *text,
		   size_t size)
{
	static const char *const name[] = { "first:", "changed:", "overflow:" };
	char speed[32];
	size_t at = 0;
	GW_LOCKED(&c->lock);

	text[0] = '\0';
	for (int i = 0; i < GW_PAGE_CLASSES; i++)
		if (c->class[i].known)
			at += why_class(c, &c->class[i], name[i], method,
					text + at, size - at);
	if (at && link_of(c) > 0)
		snprintf(text + at, size - at, "%s %s/s",
			 c->limit > c->link ? "limit" : "link",
			 gw_format_size(speed, sizeof(speed),
					rate(c, link_of(c))));
}
