/* SPDX-License-Identifier: BSD-3-Clause */
/* workers.c - see workers.h. */
#include "source/workers.h"

#include <errno.h>

#include "base/scope.h"
#include "base/thread.h"

static void do_task(struct gw_workers *w, const struct gw_task *t)
{
	uint64_t normal = 0, duplicate = 0;
	struct gw_error err = { 0 };
	int r = gw_sink_write(w->sink, t->block, t->first, t->n, t->host,
			      &normal, &duplicate, &err);
	GW_LOCKED(&w->lock);

	w->normal += normal;
	w->duplicate += duplicate;
	if (r && !w->failed.code)
		w->failed = err;
}

/* The next task, waiting for one. Return: false to quit. */
static bool take_task(struct gw_workers *w, struct gw_task *t)
{
	GW_LOCKED(&w->lock);

	while (!w->ntasks && !w->quit)
		pthread_cond_wait(&w->work, &w->lock);
	if (w->quit)
		return false;
	*t = w->task[w->head];
	w->head = (w->head + 1) % GW_WORKERS_QUEUE;
	w->ntasks--;
	w->busy++;
	return true;
}

static void *worker(void *arg)
{
	struct gw_workers *w = arg;
	struct gw_task t;

	while (take_task(w, &t)) {
		do_task(w, &t);
		GW_LOCKED(&w->lock);
		w->busy--;
		pthread_cond_broadcast(&w->idle);
	}
	return NULL;
}

int gw_workers_start(struct gw_workers *w, struct gw_sink *sink,
		     unsigned int nthreads, struct gw_error *err)
{
	w->sink = sink;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	pthread_cond_init(&w->idle, NULL);
	if (!sink->parallel || nthreads < 2)
		return 0;
	while ((unsigned int)w->nthreads < nthreads) {
		int r = gw_thread_start(&w->thread[w->nthreads], "gw-write",
					worker, w, err);

		if (r) {
			gw_workers_stop(w);
			return r;
		}
		w->nthreads++;
	}
	return 0;
}

static int failure(const struct gw_workers *w, struct gw_error *err)
{
	if (w->failed.code && err)
		*err = w->failed;
	return -w->failed.code;
}

int gw_workers_push(struct gw_workers *w, int block, uint64_t first,
		    uint32_t n, const uint8_t *host, struct gw_error *err)
{
	struct gw_task t = { block, n, first, host };

	if (!w->nthreads) {
		do_task(w, &t);
		return failure(w, err);
	}
	GW_LOCKED(&w->lock);
	while (w->ntasks == GW_WORKERS_QUEUE && !w->failed.code)
		pthread_cond_wait(&w->idle, &w->lock);
	if (w->failed.code)
		return failure(w, err);
	w->task[(w->head + w->ntasks++) % GW_WORKERS_QUEUE] = t;
	pthread_cond_signal(&w->work);
	return 0;
}

int gw_workers_drain(struct gw_workers *w, uint64_t *normal,
		     uint64_t *duplicate, struct gw_error *err)
{
	GW_LOCKED(&w->lock);

	while ((w->ntasks || w->busy) && !w->failed.code)
		pthread_cond_wait(&w->idle, &w->lock);
	*normal += w->normal;
	*duplicate += w->duplicate;
	w->normal = w->duplicate = 0;
	return failure(w, err);
}

void gw_workers_stop(struct gw_workers *w)
{
	pthread_mutex_lock(&w->lock);
	w->quit = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	while (w->nthreads)
		pthread_join(w->thread[--w->nthreads], NULL);
}
