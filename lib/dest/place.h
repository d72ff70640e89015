/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * place.h - where arriving pages go: the RAM of a waiting VM, or a sink. Any
 * number of threads at once, each with pages of its own.
 */
#ifndef GW_DEST_PLACE_H
#define GW_DEST_PLACE_H

#include <pthread.h>
#include <stdint.h>

#include "base/error.h"
#include "image/sink.h"
#include "wire/ram.h"

struct gw_place;

struct gw_place_ops {
	/* Pages [@first, @first + @n) of @block are going to be written at
	 * *@host, where they hold what came last, at first zeros. *@host NULL:
	 * all are zeros as yet, and go with pages(). NULL: so do all. */
	int (*room)(struct gw_place *p, int block, uint64_t first, uint32_t n,
		    uint8_t **host, struct gw_error *err);
	/* NULL: room() gives all of them a place. */
	int (*pages)(struct gw_place *p, int block, uint64_t first, uint32_t n,
		     const void *data, struct gw_error *err);
	int (*zeros)(struct gw_place *p, int block, uint64_t first, uint64_t n,
		     struct gw_error *err);
};

struct gw_place {
	const struct gw_place_ops *ops;
	const struct gw_ram_table *table; /* what @block is an index into */
};

/* The memory of a VM (put.h). */
struct gw_place_ram {
	struct gw_place base;
	struct gw_ramblock *block[GW_MAX_TABLE_BLOCKS]; /* by table index */
};
void gw_place_ram_init(struct gw_place_ram *p, const struct gw_ram_table *t);

/* A sink that takes one thread at a time gets one at a time. */
struct gw_place_sink {
	struct gw_place base;
	struct gw_sink *sink;
	pthread_mutex_t lock;
};
void gw_place_sink_init(struct gw_place_sink *p, const struct gw_ram_table *t,
			struct gw_sink *sink);
void gw_place_sink_fini(struct gw_place_sink *p);
int gw_place_sink_delta(struct gw_place_sink *p, int block, uint64_t page,
			const void *delta, uint16_t len,
			struct gw_error *err) GW_MUST_CHECK;

#endif
