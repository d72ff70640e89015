/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * copy.c - everything of an image into a sink.
 *
 *	cursor --> jobs of at most 1 MiB of pages --> read --> sink
 *
 * A sink that takes pages from several threads is fed by as many, each of
 * which reads and writes its job. Any other sink is fed by the calling thread,
 * in order, while the threads read ahead.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/hugepage.h"
#include "base/scope.h"
#include "base/thread.h"
#include "image/image.h"

#define JOB_PAGES   256u
#define MAX_THREADS 64
#define TICK_MS	    100

struct job {
	int block;
	uint64_t first, n; /* n > JOB_PAGES: none of them has data */
	uint64_t number;   /* in order */
};

/* What a reader has read ahead, for the calling thread. */
struct slot {
	struct job job;
	bool full;
	uint8_t *buffer;
};

struct copier {
	struct gw_copy *c;
	unsigned int nthreads;
	uint8_t *memory; /* a job's pages per slot */
	struct slot slot[MAX_THREADS];
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t change;
	int block;	 /* the cursor */
	uint64_t page;
	uint64_t njobs;	 /* handed out */
	uint64_t next;	 /* to be fed in order */
	uint64_t done;	 /* pages */
	unsigned int running;
	bool stop;
	struct gw_error err;
};

/* --- the cursor, under the lock ----------------------------------------- */

static bool next_job(struct copier *k, struct job *j)
{
	struct gw_image *img = k->c->img;
	uint64_t left = 0, n;

	for (; k->block < img->desc.table.n; k->block++, k->page = 0) {
		left = gw_image_npages(img, k->block) - k->page;
		if (left)
			break;
	}
	if (!left || k->stop)
		return false;
	j->block = k->block;
	j->first = k->page;
	j->n = left < JOB_PAGES ? left : JOB_PAGES;
	if (img->ops->state(img, j->block, j->first, left, &n) !=
		    GW_PAGE_DATA &&
	    n > JOB_PAGES)
		j->n = n;
	j->number = k->njobs++;
	k->page += j->n;
	return true;
}

static void fail(struct copier *k, const struct gw_error *err)
{
	GW_LOCKED(&k->lock);
	if (!k->stop)
		k->err = *err;
	k->stop = true;
	pthread_cond_broadcast(&k->change);
}

/* --- a job -------------------------------------------------------------- */

static bool wants_zeros(const struct copier *k, int block)
{
	const struct gw_copy *c = k->c;

	return !c->sink->keeps_holes || !gw_image_is_ram(&c->img->desc, block);
}

static int read_job(struct copier *k, const struct job *j, uint8_t *buffer,
		    struct gw_error *err)
{
	struct gw_image *img = k->c->img;
	uint64_t n;
	int r = 0;

	for (uint64_t at = 0; j->n <= JOB_PAGES && at < j->n && !r; at += n)
		if (img->ops->state(img, j->block, j->first + at, j->n - at,
				    &n) == GW_PAGE_DATA)
			r = img->ops->read(img, j->block, j->first + at,
					   (uint32_t)n,
					   buffer + at * GW_PAGE_SIZE, err);
	return r;
}

static int write_job(struct copier *k, const struct job *j,
		     const uint8_t *buffer, struct gw_error *err)
{
	struct gw_image *img = k->c->img;
	struct gw_sink *sink = k->c->sink;
	uint64_t n, normal = 0, duplicate = 0;
	int r = 0;

	for (uint64_t at = 0; at < j->n && !r; at += n) {
		if (img->ops->state(img, j->block, j->first + at, j->n - at,
				    &n) == GW_PAGE_DATA) {
			r = gw_sink_write(sink, j->block, j->first + at,
					  (uint32_t)n,
					  buffer + at * GW_PAGE_SIZE, &normal,
					  &duplicate, err);
			continue;
		}
		duplicate += n;
		if (wants_zeros(k, j->block))
			r = sink->ops->zeros(sink, j->block, j->first + at, n,
					     err);
	}
	GW_LOCKED(&k->lock);
	k->c->normal += normal;
	k->c->duplicate += duplicate;
	k->done += r ? 0 : j->n;
	return r;
}

/* --- threads ------------------------------------------------------------ */

struct worker {
	struct copier *k;
	pthread_t thread;
	uint8_t *buffer;
};

static void leave(struct copier *k)
{
	GW_LOCKED(&k->lock);
	k->running--;
	pthread_cond_broadcast(&k->change);
}

static bool take(struct copier *k, struct job *j)
{
	GW_LOCKED(&k->lock);
	return next_job(k, j);
}

/* Reads and writes. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct gw_error err = { 0 };
	struct job j;

	while (take(w->k, &j)) {
		if (read_job(w->k, &j, w->buffer, &err) ||
		    write_job(w->k, &j, w->buffer, &err)) {
			fail(w->k, &err);
			break;
		}
	}
	leave(w->k);
	return NULL;
}

/* The slot of the next job, once whoever feeds has emptied it. */
static struct slot *take_slot(struct copier *k)
{
	struct slot *s;
	struct job j;

	GW_LOCKED(&k->lock);
	if (!next_job(k, &j))
		return NULL;
	s = &k->slot[j.number % k->nthreads];
	/* Job N waits until N - nthreads was fed, which is read by now or by
	 * a thread that waits for nothing later: no circle. */
	while (k->next + k->nthreads <= j.number && !k->stop)
		pthread_cond_wait(&k->change, &k->lock);
	s->job = j;
	return k->stop ? NULL : s;
}

static void fill_slot(struct copier *k, struct slot *s)
{
	GW_LOCKED(&k->lock);
	s->full = true;
	pthread_cond_broadcast(&k->change);
}

/* Reads ahead. */
static void *read_ahead(void *arg)
{
	struct worker *w = arg;
	struct gw_error err = { 0 };
	struct slot *s;

	while ((s = take_slot(w->k))) {
		if (read_job(w->k, &s->job, s->buffer, &err)) {
			fail(w->k, &err);
			break;
		}
		fill_slot(w->k, s);
	}
	leave(w->k);
	return NULL;
}

/* --- the calling thread ------------------------------------------------- */

static void tick(struct copier *k, uint64_t all)
{
	struct gw_error err = { 0 };
	uint64_t done;

	if (gw_cancel_requested(k->c->cancel)) {
		gw_cancel_fail(&err);
		fail(k, &err);
	}
	pthread_mutex_lock(&k->lock);
	done = k->done;
	pthread_mutex_unlock(&k->lock);
	if (k->c->tick)
		k->c->tick(done, all, k->c->data);
}

/* Something changes, or it is time for a tick. Under the lock. */
static void wait_change(struct copier *k, int64_t until)
{
	struct timespec t = { until / GW_NS_PER_S, until % GW_NS_PER_S };

	pthread_cond_timedwait(&k->change, &k->lock, &t);
}

static void wait_for_workers(struct copier *k, uint64_t all)
{
	bool running = true;

	while (running) {
		int64_t until = gw_now_ns() + TICK_MS * GW_NS_PER_MS;

		pthread_mutex_lock(&k->lock);
		while (k->running && gw_now_ns() < until)
			wait_change(k, until);
		running = k->running;
		pthread_mutex_unlock(&k->lock);
		tick(k, all);
	}
}

/* The slot whose turn it is, NULL: not yet; *@end: there will be none. */
static struct slot *full_slot(struct copier *k, int64_t until, bool *end)
{
	struct slot *s = &k->slot[k->next % k->nthreads];

	GW_LOCKED(&k->lock);
	while (!s->full && k->running && !k->stop && gw_now_ns() < until)
		wait_change(k, until);
	*end = k->stop || (!s->full && !k->running);
	return s->full && !*end ? s : NULL;
}

static void free_slot(struct copier *k, struct slot *s)
{
	GW_LOCKED(&k->lock);
	s->full = false;
	k->next++;
	pthread_cond_broadcast(&k->change);
}

static void feed_in_order(struct copier *k, uint64_t all)
{
	int64_t until = gw_now_ns() + TICK_MS * GW_NS_PER_MS;
	struct gw_error err = { 0 };
	bool end = false;

	while (!end) {
		struct slot *s = full_slot(k, until, &end);

		if (s && write_job(k, &s->job, s->buffer, &err))
			fail(k, &err);
		else if (s)
			free_slot(k, s);
		if (gw_now_ns() >= until) {
			tick(k, all);
			until = gw_now_ns() + TICK_MS * GW_NS_PER_MS;
		}
	}
	wait_for_workers(k, all);
}

static int start(struct copier *k, struct worker *w, uint8_t *buffer)
{
	bool parallel = k->c->sink->parallel;
	struct gw_error err = { 0 };
	int r;

	w->k = k;
	w->buffer = buffer;
	pthread_mutex_lock(&k->lock);
	k->running++;
	pthread_mutex_unlock(&k->lock);
	r = gw_thread_start(&w->thread, "gw-copy",
			    parallel ? work : read_ahead, w, &err);
	if (r) {
		fail(k, &err);
		leave(k);
	}
	return r;
}

static void run(struct copier *k)
{
	struct gw_image *img = k->c->img;
	struct worker worker[MAX_THREADS];
	unsigned int started = 0;
	uint64_t all = 0;

	for (int i = 0; i < img->desc.table.n; i++)
		all += gw_image_npages(img, i);
	for (unsigned int i = 0; i < k->nthreads; i++)
		k->slot[i].buffer =
			k->memory + (size_t)i * JOB_PAGES * GW_PAGE_SIZE;
	while (started < k->nthreads &&
	       !start(k, &worker[started], k->slot[started].buffer))
		started++;
	if (k->c->sink->parallel)
		wait_for_workers(k, all);
	else
		feed_in_order(k, all);
	for (unsigned int i = 0; i < started; i++)
		pthread_join(worker[i].thread, NULL);
}

/* In huge pages, if there are: then a job that is read with O_DIRECT is one
 * request, and not one for each of as many pages as a disk takes at a time. */
static size_t buffers_size(unsigned int n)
{
	size_t size = (size_t)n * JOB_PAGES * GW_PAGE_SIZE;

	return (size + GW_HUGE_PAGE - 1) / GW_HUGE_PAGE * GW_HUGE_PAGE;
}

static int copy_pages(struct gw_copy *c, struct gw_error *err)
{
	struct copier k = { .c = c };
	pthread_condattr_t attr;

	k.nthreads = c->threads ? c->threads : 1;
	/* One reads while the other's pages are written. */
	if (!c->sink->parallel)
		k.nthreads++;
	if (k.nthreads > MAX_THREADS)
		k.nthreads = MAX_THREADS;
	k.memory = gw_huge_alloc(buffers_size(k.nthreads));
	if (!k.memory)
		return gw_fail(err, ENOMEM, "no memory for %u buffers",
			       k.nthreads);
	pthread_mutex_init(&k.lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&k.change, &attr);
	pthread_condattr_destroy(&attr);
	run(&k);
	pthread_cond_destroy(&k.change);
	pthread_mutex_destroy(&k.lock);
	munmap(k.memory, buffers_size(k.nthreads));
	if (k.stop && err)
		*err = k.err;
	return k.stop ? -k.err.code : 0;
}

int gw_image_copy(struct gw_copy *c, struct gw_error *err)
{
	struct gw_image *img = c->img;
	struct gw_sink *s = c->sink;
	int r;

	c->normal = c->duplicate = 0;
	r = gw_image_complete(img, err);
	if (!r)
		r = s->ops->begin(s, &img->desc, err);
	if (!r)
		r = copy_pages(c, err);
	if (!r)
		r = s->ops->pass(s, true, err);
	if (!r)
		r = s->ops->device(s, img->tail, img->eof, img->vmdesc,
				   img->vmdesc_len, err);
	return r;
}
