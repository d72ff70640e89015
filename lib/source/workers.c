/* SPDX-License-Identifier: BSD-3-Clause */
/* workers.c - see workers.h. */
#include "source/workers.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/scope.h"
#include "base/thread.h"

#define TICK_NS (20 * GW_NS_PER_MS)

/* --- workers -------------------------------------------------------------- */

/* Is there something for worker @k? After a failure there is not. */
static bool idle(const struct gw_worker *k)
{
	const struct gw_workers *w = k->all;

	return w->failed.code || (!w->ntasks && k->synced == w->syncs);
}

/* The next task, or with no pages a sync, waiting for one. Return: false to
 * quit. */
static bool take(struct gw_worker *k, struct gw_task *t)
{
	struct gw_workers *w = k->all;
	GW_LOCKED(&w->lock);

	while (idle(k) && !w->quit)
		pthread_cond_wait(&w->work, &w->lock);
	if (w->quit)
		return false;
	w->busy++;
	t->npages = 0;
	if (!w->ntasks) {
		k->synced = w->syncs;
		return true;
	}
	*t = w->task[w->head];
	w->head = (w->head + 1) % w->depth;
	w->ntasks--;
	return true;
}

static void done(struct gw_workers *w, int r, const struct gw_error *err)
{
	GW_LOCKED(&w->lock);

	if (r && !w->failed.code)
		w->failed = *err;
	w->busy--;
	pthread_cond_broadcast(&w->idle);
}

static void *worker(void *arg)
{
	struct gw_worker *k = arg;
	struct gw_workers *w = k->all;
	struct gw_task t;

	while (take(k, &t)) {
		struct gw_error err = { 0 };
		int r = 0;

		if (t.npages)
			r = w->ops->task(w->arg, k->i, &t, &err);
		else if (w->ops->sync)
			r = w->ops->sync(w->arg, k->i, &err);
		done(w, r, &err);
	}
	return NULL;
}

static void init_locks(struct gw_workers *w)
{
	pthread_condattr_t a;

	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, &a);
	pthread_cond_init(&w->idle, &a);
	pthread_condattr_destroy(&a);
}

int gw_workers_start(struct gw_workers *w, const struct gw_worker_ops *ops,
		     void *arg, unsigned int nthreads, uint32_t max_pages,
		     unsigned int depth, struct gw_error *err)
{
	w->ops = ops;
	w->arg = arg;
	w->max_pages = max_pages;
	w->depth = depth;
	init_locks(w);
	w->started = true;
	if (!nthreads)
		return 0;
	w->task = calloc(depth, sizeof(*w->task));
	if (!w->task)
		return gw_fail(err, ENOMEM, "no memory for %u tasks", depth);
	while (w->nthreads < nthreads && w->nthreads < GW_WORKERS_MAX) {
		struct gw_worker *k = &w->worker[w->nthreads];
		int r;

		k->all = w;
		k->i = w->nthreads;
		r = gw_thread_start(&k->thread, ops->thread, worker, k, err);
		if (r)
			return r;
		w->nthreads++;
	}
	return 0;
}

/* --- the adder ------------------------------------------------------------ */

static int failure(const struct gw_workers *w, struct gw_error *err)
{
	if (w->failed.code && err)
		*err = w->failed;
	return -w->failed.code;
}

/* Wait for a change, for a while. Return: 0 or the first failure. */
static int wait_idle(struct gw_workers *w, struct gw_error *err)
{
	int64_t at = gw_now_ns() + TICK_NS;
	struct timespec ts = { at / GW_NS_PER_S, at % GW_NS_PER_S };
	int r = failure(w, err);

	if (r || !pthread_cond_timedwait(&w->idle, &w->lock, &ts))
		return r ? r : failure(w, err);
	pthread_mutex_unlock(&w->lock);
	r = w->ops->tick(w->arg, err);
	pthread_mutex_lock(&w->lock);
	return r;
}

static int queue(struct gw_workers *w, struct gw_error *err)
{
	GW_LOCKED(&w->lock);
	int r = failure(w, err);

	while (!r && w->ntasks == w->depth)
		r = wait_idle(w, err);
	if (r)
		return r;
	w->task[(w->head + w->ntasks++) % w->depth] = w->next;
	pthread_cond_signal(&w->work);
	return 0;
}

/* What was gathered goes to the workers. */
static int push(struct gw_workers *w, struct gw_error *err)
{
	int r = 0;

	if (!w->next.npages)
		return 0;
	r = w->nthreads ? queue(w, err)
			: w->ops->task(w->arg, 0, &w->next, err);
	w->next.npages = w->next.nruns = 0;
	return r ? r : w->ops->tick(w->arg, err);
}

/* At most @n pages that the gathered task has room for. Return: how many. */
static uint32_t gather(struct gw_workers *w, uint64_t first, uint64_t n,
		       bool zero)
{
	struct gw_task *t = &w->next;
	struct gw_run *last = t->nruns ? &t->run[t->nruns - 1] : NULL;
	uint32_t room = w->max_pages - t->npages;

	if (n > room)
		n = room;
	if (last && last->first + last->n == first && last->zero == zero)
		last->n += (uint32_t)n;
	else
		t->run[t->nruns++] =
			(struct gw_run){ first, (uint32_t)n, zero };
	t->npages += (uint32_t)n;
	return (uint32_t)n;
}

int gw_workers_add(struct gw_workers *w, int block, uint64_t first, uint64_t n,
		   bool zero, struct gw_error *err)
{
	struct gw_task *t = &w->next;
	int r = t->npages && t->block != block ? push(w, err) : 0;

	while (!r && n) {
		uint32_t took;

		t->block = block;
		took = gather(w, first, n, zero);
		first += took;
		n -= took;
		if (t->npages == w->max_pages || t->nruns == GW_TASK_RUNS)
			r = push(w, err);
	}
	return r;
}

/* Have all said what was asked for? */
static bool synced(const struct gw_workers *w)
{
	for (unsigned int i = 0; i < w->nthreads; i++)
		if (w->worker[i].synced != w->syncs)
			return false;
	return true;
}

int gw_workers_drain(struct gw_workers *w, struct gw_error *err)
{
	int r = push(w, err);
	GW_LOCKED(&w->lock);

	if (r || !w->nthreads)
		return r;
	w->syncs++;
	pthread_cond_broadcast(&w->work);
	while (!r && (w->ntasks || w->busy || !synced(w)))
		r = wait_idle(w, err);
	return r ? r : failure(w, err);
}

void gw_workers_stop(struct gw_workers *w)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->lock);
	w->quit = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	while (w->nthreads)
		pthread_join(w->worker[--w->nthreads].thread, NULL);
	free(w->task);
	w->task = NULL;
}
