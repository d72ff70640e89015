/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * choice_test.c - compress auto against links and pages that are only numbers,
 * in a time of its own.
 */
#include "test.h"

#include "base/clock.h"
#include "source/choice.h"

#define TASK (128u * 4096)
#define MIB  (1024.0 * 1024.0)

/* What the world is like. Bytes per second of one channel. */
struct world {
	double link, work, ratio;
};

struct run {
	struct gw_choice c;
	int64_t now;
	double buffered; /* in the socket: it empties as the link allows */
	uint64_t plain, compressed; /* bytes of pages */
};

#define BUFFER (2.0 * MIB)

static void begin(struct run *r)
{
	memset(r, 0, sizeof(*r));
	r->now = 1000 * GW_NS_PER_S;
	gw_choice_init(&r->c, 1, r->now);
}

/* Let @ns pass. */
static void pass(struct run *r, const struct world *w, double ns)
{
	r->now += (int64_t)ns;
	r->buffered -= ns * w->link / 1e9;
	if (r->buffered < 0)
		r->buffered = 0;
}

static void put(struct run *r, const struct world *w, bool plain, double bytes)
{
	/* A copy at 4 GB/s, and waiting for room. */
	double ns = bytes / 4.0;

	if (r->buffered + bytes > BUFFER && w->link < 4e9)
		ns += (r->buffered + bytes - BUFFER) * 1e9 / w->link;
	pass(r, w, ns);
	r->buffered += bytes;
	gw_choice_wrote(&r->c, plain, (uint64_t)bytes, (int64_t)ns, r->now);
}

static void compress(struct run *r, const struct world *w,
		     enum gw_page_class class, double bytes)
{
	double ns = bytes * 1e9 / w->work;

	pass(r, w, ns);
	gw_choice_compressed(&r->c, class, (uint64_t)bytes,
			     (uint64_t)(bytes * w->ratio), (int64_t)ns);
	put(r, w, false, bytes * w->ratio);
	r->compressed += (uint64_t)bytes;
}

/* Send for @s seconds. Return: the part of the bytes that went compressed. */
static double go(struct run *r, const struct world *w, enum gw_page_class class,
		 double s)
{
	int64_t end = r->now + (int64_t)(s * 1e9);

	r->plain = r->compressed = 0;
	while (r->now < end) {
		double sample = GW_CHOICE_SAMPLE * 4096, left = TASK;
		enum gw_choose what = gw_choice_ask(&r->c, class, r->now);

		if (what == GW_CHOOSE_COMPRESS) {
			compress(r, w, class, TASK);
			continue;
		}
		if (what == GW_CHOOSE_SAMPLE) {
			compress(r, w, class, sample);
			left -= sample;
		}
		put(r, w, true, left);
		r->plain += (uint64_t)left;
	}
	return (double)r->compressed / (double)(r->compressed + r->plain);
}

static void a_fast_link_is_left_alone(void)
{
	struct world w = { .link = 1e12, .work = 500e6, .ratio = 0.3 };
	struct run r;

	begin(&r);
	CHECK(go(&r, &w, GW_PAGES_FIRST, 10) < 0.005);
}

static void a_slow_link_gets_compressed_pages(void)
{
	struct world w = { .link = 100e6, .work = 500e6, .ratio = 0.3 };
	char why[160];
	struct run r;

	begin(&r);
	go(&r, &w, GW_PAGES_FIRST, 1); /* to find out */
	CHECK(go(&r, &w, GW_PAGES_FIRST, 60) > 0.9);
	gw_choice_why(&r.c, "zstd", why, sizeof(why));
	CHECK(strstr(why, "first: zstd (3.3x at 477 MiB/s)"));
	CHECK(strstr(why, "link "));
	printf("%s\n", why);
}

/* So slow that even compressed bytes wait: nothing to find out. */
static void a_very_slow_link_is_not_probed(void)
{
	struct world w = { .link = 5e6, .work = 500e6, .ratio = 0.3 };
	struct run r;

	begin(&r);
	go(&r, &w, GW_PAGES_FIRST, 5);
	CHECK(go(&r, &w, GW_PAGES_FIRST, 60) > 0.98);
}

static void what_does_not_shrink_goes_plain(void)
{
	struct world w = { .link = 100e6, .work = 800e6, .ratio = 1.0 };
	struct run r;

	begin(&r);
	CHECK(go(&r, &w, GW_PAGES_CHANGED, 10) < 0.02);
}

static void a_link_that_becomes_fast_is_noticed(void)
{
	struct world slow = { .link = 100e6, .work = 500e6, .ratio = 0.3 };
	struct world fast = { .link = 1e12, .work = 500e6, .ratio = 0.3 };
	struct run r;

	begin(&r);
	go(&r, &slow, GW_PAGES_FIRST, 5);
	go(&r, &fast, GW_PAGES_FIRST, 20);
	CHECK(go(&r, &fast, GW_PAGES_FIRST, 5) < 0.005);
	go(&r, &slow, GW_PAGES_FIRST, 2);
	CHECK(go(&r, &slow, GW_PAGES_FIRST, 20) > 0.9);
}

static void a_limit_is_a_slow_link(void)
{
	struct world w = { .link = 1e12, .work = 500e6, .ratio = 0.3 };
	char why[160];
	struct run r;

	begin(&r);
	gw_choice_limit(&r.c, 20 << 20, r.now);
	go(&r, &w, GW_PAGES_FIRST, 1);
	CHECK(go(&r, &w, GW_PAGES_FIRST, 20) > 0.99);
	gw_choice_why(&r.c, "zstd", why, sizeof(why));
	CHECK(strstr(why, "limit 20.0 MiB/s"));
	/* The VM stands: no limit any more, and the choice is at once another.
	 */
	gw_choice_limit(&r.c, 0, r.now);
	CHECK(go(&r, &w, GW_PAGES_FIRST, 1) < 0.005);
}

static void classes_are_judged_apart(void)
{
	struct world text = { .link = 100e6, .work = 500e6, .ratio = 0.2 };
	struct world noise = { .link = 100e6, .work = 500e6, .ratio = 1.0 };
	double a = 0, b = 0;
	char why[160];
	struct run r;

	begin(&r);
	for (int i = 0; i < 200; i++) {
		a += go(&r, &text, GW_PAGES_FIRST, 0.05);
		b += go(&r, &noise, GW_PAGES_OVERFLOW, 0.05);
	}
	CHECK(a > 150 && b < 10);
	gw_choice_why(&r.c, "zstd", why, sizeof(why));
	CHECK(strstr(why, "first: zstd") && strstr(why, "overflow: none"));
}

int main(void)
{
	RUN(a_fast_link_is_left_alone);
	RUN(a_slow_link_gets_compressed_pages);
	RUN(a_very_slow_link_is_not_probed);
	RUN(what_does_not_shrink_goes_plain);
	RUN(a_link_that_becomes_fast_is_noticed);
	RUN(a_limit_is_a_slow_link);
	RUN(classes_are_judged_apart);
	return test_done();
}
