/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * extents.h - which parts of a block were ever populated. A hole is never
 * read: reading a hole of a shared file allocates it.
 */
#ifndef GW_RAM_EXTENTS_H
#define GW_RAM_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

/*
 * The first populated range of @b at or after byte @from, page aligned:
 * *@start and *@len, *@len 0 when there is none. SEEK_DATA/SEEK_HOLE on the
 * block's file; for a block without a file /proc/self/pagemap over b->host.
 */
int gw_extent_next(const struct gw_ramblock *b, uint64_t from, uint64_t *start,
		   uint64_t *len, struct gw_error *err) GW_MUST_CHECK;

/* The first byte of data of @b's file at or after @from: *@at, b->used_length
 * when there is none. Cheaper than _next, which walks to the data's end. */
int gw_extent_seek(const struct gw_ramblock *b, uint64_t from, uint64_t *at,
		   struct gw_error *err) GW_MUST_CHECK;

/*
 * For pages that are about to be read: how many of the @n from page @first on
 * are alike, *@len of them populated, or (*@hole) not. What is punched out
 * after that and then read is allocated again, as a page of zeros. Huge pages
 * are said to be populated: hugetlbfs does not tell.
 */
int gw_extent_alike(const struct gw_ramblock *b, uint64_t first, uint64_t n,
		    uint64_t *len, bool *hole,
		    struct gw_error *err) GW_MUST_CHECK;

/* Bytes in populated ranges. */
int gw_extent_total(const struct gw_ramblock *b, uint64_t *nbytes,
		    struct gw_error *err) GW_MUST_CHECK;

/* Make pages [@first, @first + @n) of @b read as zero, giving their memory
 * back. Not for parts of huge pages. */
int gw_extent_punch(struct gw_ramblock *b, uint64_t first, uint64_t n,
		    struct gw_error *err) GW_MUST_CHECK;

/* Make all of @b read as zero, giving its memory back (a whole-block punch). */
int gw_extent_punch_all(struct gw_ramblock *b,
			struct gw_error *err) GW_MUST_CHECK;

#endif
