/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * workers.h - threads that write runs of pages into a sink. The migration
 * thread finds what to write and pushes it; each worker tests for zero pages
 * and writes. A sink that takes one thread only is written to by the pusher.
 */
#ifndef GW_SOURCE_WORKERS_H
#define GW_SOURCE_WORKERS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "image/sink.h"

#define GW_WORKERS_MAX	 64
#define GW_WORKERS_QUEUE 256

struct gw_workers {
	/* set once */
	struct gw_sink *sink;
	pthread_t thread[GW_WORKERS_MAX];
	int nthreads; /* 0: the pusher writes */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	struct gw_task {
		int block;
		uint32_t n;
		uint64_t first;
		const uint8_t *host;
	} task[GW_WORKERS_QUEUE];
	unsigned int head, ntasks, busy;
	bool quit;
	struct gw_error failed; /* code != 0: the first failure */
	uint64_t normal, duplicate;
};

int gw_workers_start(struct gw_workers *w, struct gw_sink *sink,
		     unsigned int nthreads, struct gw_error *err) GW_MUST_CHECK;

/* @n pages at @host, page @first of the sink's block @block. Waits while the
 * queue is full. Return: 0, or the first failure of any worker. */
int gw_workers_push(struct gw_workers *w, int block, uint64_t first,
		    uint32_t n, const uint8_t *host,
		    struct gw_error *err) GW_MUST_CHECK;

/* Wait until all that was pushed is written; adds the counts up. */
int gw_workers_drain(struct gw_workers *w, uint64_t *normal,
		     uint64_t *duplicate, struct gw_error *err) GW_MUST_CHECK;

/* What waits in the queue is dropped. Idempotent. */
void gw_workers_stop(struct gw_workers *w);

#endif
