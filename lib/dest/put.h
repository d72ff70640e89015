/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * put.h - pages into the RAM of a waiting VM, so that a host without memory is
 * an error and not a SIGBUS. Any number of threads, each with pages of its own.
 * Notes in `placed` what was put.
 */
#ifndef GW_DEST_PUT_H
#define GW_DEST_PUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

/*
 * Pages [@first, @first + @n) from @data, through the file and not through our
 * mapping of it: writing allocates whole runs at once and neither clears nor
 * maps them.
 */
int gw_put_pages(struct gw_ramblock *b, uint64_t first, uint32_t n,
		 const void *data, struct gw_error *err) GW_MUST_CHECK;

/* Were none of them put yet, and is gw_put_pages() the better way? */
bool gw_put_is_fresh(const struct gw_ramblock *b, uint64_t first, uint32_t n);

/* They may be written in our mapping from now on, and are: what was not put
 * yet is allocated and mapped. */
int gw_put_room(struct gw_ramblock *b, uint64_t first, uint32_t n,
		struct gw_error *err) GW_MUST_CHECK;

/* A page that was never put is zero already: it is not even touched. */
void gw_put_zeros(struct gw_ramblock *b, uint64_t first, uint64_t n);

#endif
