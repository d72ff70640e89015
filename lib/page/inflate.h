/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inflate.h - pages that a multifd channel carries compressed: one zlib or
 * zstd stream per channel for its whole life, flushed at the end of every
 * packet. One thread per channel at a time.
 */
#ifndef GW_PAGE_INFLATE_H
#define GW_PAGE_INFLATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct gw_inflate;

/* @method: "zlib" or "zstd". NULL with @err. */
struct gw_inflate *gw_inflate_new(const char *method, struct gw_error *err);
void gw_inflate_free(struct gw_inflate *z); /* NULL is fine */

/*
 * One packet: @len compressed bytes give exactly @npages pages of 4096 bytes,
 * the i-th into @page[i]. Return: 0, or -EBADMSG (GW_FAULT_INPUT): damaged,
 * too short, or more than that comes out or remains. After an error only free.
 */
int gw_inflate_pages(struct gw_inflate *z, const void *p, size_t len,
		     uint8_t *const *page, size_t npages,
		     struct gw_error *err) GW_MUST_CHECK;

#endif
