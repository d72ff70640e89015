/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * workers.h - threads that carry pages away: into a sink, or each over a
 * connection of its own (sender.h). The migration thread adds runs of pages;
 * they are gathered into tasks of one block, and the next idle worker takes
 * one. With no threads the adder does it all.
 *
 *	add add add -> task -> queue -> worker 0, 1, ... -> ops->task
 *	drain: the queue is empty, nobody is busy, and each said ops->sync
 */
#ifndef GW_SOURCE_WORKERS_H
#define GW_SOURCE_WORKERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define GW_WORKERS_MAX	 64
#define GW_WORKERS_QUEUE 256
#define GW_TASK_RUNS	 128

struct gw_task {
	int block; /* of vm->ram */
	uint32_t nruns, npages;
	struct gw_run {
		uint64_t first; /* page */
		uint32_t n;
		bool zero; /* known to be: need not be looked at */
	} run[GW_TASK_RUNS];
};

struct gw_worker_ops {
	const char *thread; /* its name */
	/* Worker @i (0 without threads) carries @t away. */
	int (*task)(void *arg, unsigned int i, const struct gw_task *t,
		    struct gw_error *err);
	/* Optional: a pass ends; all of worker @i's tasks are done. */
	int (*sync)(void *arg, unsigned int i, struct gw_error *err);
	/* In the adder's thread, after every task that was queued and while it
	 * waits: cancel, limits, progress. */
	int (*tick)(void *arg, struct gw_error *err);
};

struct gw_workers {
	/* set once */
	const struct gw_worker_ops *ops;
	void *arg;
	uint32_t max_pages; /* of a task */
	unsigned int depth; /* of the queue */
	bool started;
	struct gw_worker {
		struct gw_workers *all;
		unsigned int i;
		pthread_t thread;
		uint64_t synced; /* guarded by lock */
	} worker[GW_WORKERS_MAX];
	unsigned int nthreads; /* 0: the adder does it */
	/* the adder's */
	struct gw_task next;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	struct gw_task *task; /* ring of depth */
	unsigned int head, ntasks, busy;
	uint64_t syncs; /* asked for so far */
	bool quit;
	struct gw_error failed; /* code != 0: the first failure */
};

/*
 * @nthreads workers (0: none, the adder does it), tasks of at most @max_pages,
 * @depth of them waiting. Whatever it returns, gw_workers_stop() undoes it.
 */
int gw_workers_start(struct gw_workers *w, const struct gw_worker_ops *ops,
		     void *arg, unsigned int nthreads, uint32_t max_pages,
		     unsigned int depth, struct gw_error *err) GW_MUST_CHECK;

/* @n pages of block @block from page @first. Waits while the queue is full.
 * Return: 0, or the first failure of any worker or of tick. */
int gw_workers_add(struct gw_workers *w, int block, uint64_t first, uint64_t n,
		   bool zero, struct gw_error *err) GW_MUST_CHECK;

/* Wait until all that was added is carried away, and synced. */
int gw_workers_drain(struct gw_workers *w,
		     struct gw_error *err) GW_MUST_CHECK;

/* What waits in the queue is dropped; what is being done is waited for.
 * Idempotent; a zeroed @w is fine. */
void gw_workers_stop(struct gw_workers *w);

#endif
