/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * deflate.h - the counterpart of inflate.h: one zlib or zstd stream per
 * channel for its whole life, flushed at the end of every packet. One thread
 * per channel at a time; nothing is allocated after gw_deflate_new().
 */
#ifndef GW_PAGE_DEFLATE_H
#define GW_PAGE_DEFLATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct gw_deflate;

/* Is there such a @method ("zlib", "zstd") and does it have @level? zlib has 1
 * to 9, zstd 1 to 22; 0 is the fastest. Return: 0 or a usage error. */
int gw_deflate_check(const char *method, uint32_t level,
		     struct gw_error *err) GW_MUST_CHECK;

/*
 * A packet has at most @max_pages. NULL with @err.
 */
struct gw_deflate *gw_deflate_new(const char *method, uint32_t level,
				  size_t max_pages, struct gw_error *err);
void gw_deflate_free(struct gw_deflate *z); /* NULL is fine */

/*
 * One packet: @npages (> 0) pages of 4096 bytes, *@len bytes at *@out, valid
 * until the next call and at most twice as long. Each page is copied first,
 * for a guest may change it while it is read. Return: 0, or -EIO when the
 * library fails; then only free.
 */
int gw_deflate_pages(struct gw_deflate *z, const uint8_t *const *page,
		     size_t npages, const uint8_t **out, size_t *len,
		     struct gw_error *err) GW_MUST_CHECK;

#endif
