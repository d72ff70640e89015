/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * prepare.h - allocate memory in the background, ahead of the pages that are
 * coming: allocation and page faults are the largest cost at a destination.
 * Preparing never changes what memory reads as.
 */
#ifndef GW_DEST_PREPARE_H
#define GW_DEST_PREPARE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

struct gw_prepare {
	struct gw_ram *ram;
	struct gw_bitmap ready[GW_RAM_MAX_BLOCKS]; /* pages prepared */
	bool started;
	pthread_t thread;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct gw_prepare_job {
		int block;
		uint64_t start, len;
	} *job;
	size_t njobs, next, cap;
	bool stop;
	struct gw_error failed; /* out of memory; valid once `broken` */
	bool broken;		/* atomic */
};

int gw_prepare_start(struct gw_prepare *p, struct gw_ram *ram,
		     struct gw_error *err) GW_MUST_CHECK;

/* Bytes [@start, @start + @len) of @b will be written. */
void gw_prepare_add(struct gw_prepare *p, const struct gw_ramblock *b,
		    uint64_t start, uint64_t len);

/*
 * May pages [@first, @first + @n) of @b be written without fear of SIGBUS?
 * Allocates now what was not prepared yet. Any number of threads, without a
 * lock: `ready` is atomic and only gets more, and two that allocate the same
 * page find it twice. Until gw_prepare_stop(). Return: 0 or -errno when there
 * is no memory.
 */
int gw_prepare_pages(struct gw_prepare *p, struct gw_ramblock *b,
		     uint64_t first, uint64_t n,
		     struct gw_error *err) GW_MUST_CHECK;

/* Did the background run out of memory? Return: 0 or -errno with @err. */
int gw_prepare_check(struct gw_prepare *p, struct gw_error *err) GW_MUST_CHECK;

/* Work no more; what was not prepared is not needed. Does not wait. */
void gw_prepare_quit(struct gw_prepare *p);

/* The same, and wait for its thread. Idempotent. */
void gw_prepare_stop(struct gw_prepare *p);

#endif
