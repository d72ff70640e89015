/* SPDX-License-Identifier: BSD-3-Clause */
/* scan.c - see scan.h. */
#include "image/scan.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"

#define TICK_NS (100 * GW_NS_PER_MS)

struct scan {
	struct gw_scan *s;
	uint64_t all; /* pages */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t ended; /* a thread ended */
	int block;
	uint64_t page;
	uint64_t done;
	unsigned int running;
	int result; /* of the first that failed */
	struct gw_error err;
};

static void fail(struct scan *c, int r, const struct gw_error *err)
{
	GW_LOCKED(&c->lock);

	if (c->result)
		return;
	c->result = r;
	c->err = *err;
}

/* The next pages to visit. Return: how many, 0: none are left. */
static uint32_t take(struct scan *c, int *block, uint64_t *page)
{
	struct gw_scan *s = c->s;
	uint64_t n = 0;

	GW_LOCKED(&c->lock);
	while (!c->result && c->block < s->img->desc.table.n) {
		uint64_t left = gw_image_npages(s->img, c->block) - c->page;
		bool want;

		if (!left) {
			c->block++;
			c->page = 0;
			continue;
		}
		want = s->want(s->arg, c->block, c->page, left, &n);
		if (want && n > GW_SCAN_PAGES)
			n = GW_SCAN_PAGES;
		*block = c->block;
		*page = c->page;
		c->page += n;
		if (want)
			return (uint32_t)n;
		c->done += n;
	}
	return 0;
}

static void add_done(struct scan *c, uint32_t n)
{
	GW_LOCKED(&c->lock);

	c->done += n;
}

static void visit_all(struct scan *c, uint8_t *buf)
{
	struct gw_error err = { 0 };
	uint64_t page;
	uint32_t n;
	int block, r;

	while ((n = take(c, &block, &page))) {
		r = gw_cancel_requested(c->s->cancel) ?
			    gw_cancel_fail(&err) :
			    c->s->visit(c->s->arg, block, page, n, buf, &err);
		if (r)
			fail(c, r, &err);
		add_done(c, n);
	}
}

static void *worker(void *arg)
{
	gw_autofree uint8_t *buf =
		malloc(2 * (size_t)GW_SCAN_PAGES * GW_PAGE_SIZE);
	struct gw_error err = { 0 };
	struct scan *c = arg;

	if (buf)
		visit_all(c, buf);
	else
		fail(c, gw_fail(&err, ENOMEM, "no memory for a buffer"), &err);
	GW_LOCKED(&c->lock);
	c->running--;
	pthread_cond_signal(&c->ended);
	return NULL;
}

static void tick(struct scan *c)
{
	if (c->s->tick)
		c->s->tick(c->done, c->all, c->s->data);
}

/* Until all threads have ended. */
static void watch(struct scan *c)
{
	GW_LOCKED(&c->lock);

	while (c->running) {
		struct timespec t;
		int64_t ns;

		clock_gettime(CLOCK_REALTIME, &t);
		ns = t.tv_nsec + TICK_NS;
		t.tv_sec += ns / GW_NS_PER_S;
		t.tv_nsec = ns % GW_NS_PER_S;
		pthread_cond_timedwait(&c->ended, &c->lock, &t);
		tick(c);
	}
}

static unsigned int start(struct scan *c, pthread_t *thread, unsigned int want)
{
	struct gw_error err = { 0 };
	unsigned int n;

	for (n = 0; n < want; n++) {
		{
			GW_LOCKED(&c->lock);
			c->running++;
		}
		if (!gw_thread_start(&thread[n], "gw-scan", worker, c, &err))
			continue;
		fail(c, -err.code, &err);
		GW_LOCKED(&c->lock);
		c->running--;
		break;
	}
	return n;
}

int gw_scan(struct gw_scan *s, struct gw_error *err)
{
	pthread_t thread[GW_SCAN_THREADS_MAX];
	struct scan c = { .s = s };
	unsigned int n = s->threads ? s->threads : 1;

	if (n > GW_SCAN_THREADS_MAX)
		n = GW_SCAN_THREADS_MAX;
	for (int i = 0; i < s->img->desc.table.n; i++)
		c.all += gw_image_npages(s->img, i);
	pthread_mutex_init(&c.lock, NULL);
	pthread_cond_init(&c.ended, NULL);
	n = start(&c, thread, n);
	watch(&c);
	for (unsigned int i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	pthread_cond_destroy(&c.ended);
	pthread_mutex_destroy(&c.lock);
	if (c.result && err)
		*err = c.err;
	return c.result;
}
