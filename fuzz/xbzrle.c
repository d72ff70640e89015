/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * xbzrle.c - fuzz the delta decoder (lib/page/xbzrle.c), and the encoders with
 * whatever page came out of it. Pages and deltas are on the heap, so that a
 * sanitizer sees one byte too many.
 */
#include "page/xbzrle.h"

#include <stdlib.h>
#include <string.h>

#include "ram/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A delta of at most @max bytes by each encoder: all the same, and back. */
static void encode(const uint8_t *old, const uint8_t *new, size_t max)
{
	const struct gw_xbzrle_impl *i = gw_xbzrle_impls;
	uint8_t *first = malloc(max ? max : 1), *dst = malloc(max ? max : 1);
	uint8_t *back = malloc(GW_PAGE_SIZE);
	int n, len;

	if (!first || !dst || !back)
		abort();
	len = gw_xbzrle_encode(old, new, first, max);
	if (len > (int)max || (!len && memcmp(old, new, GW_PAGE_SIZE)))
		abort();
	for (; i->name; i++) {
		n = i->usable() ? i->encode(old, new, dst, max) : len;
		if (n != len)
			abort();
		if (len > 0 && i->usable() && memcmp(dst, first, (size_t)len))
			abort();
	}
	memcpy(back, old, GW_PAGE_SIZE);
	if (len >= 0 && (gw_xbzrle_decode(first, (size_t)len, back) ||
			 memcmp(back, new, GW_PAGE_SIZE)))
		abort();
	free(first);
	free(dst);
	free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *page = calloc(1, GW_PAGE_SIZE);
	uint8_t *old = calloc(1, GW_PAGE_SIZE);
	size_t n = size < GW_PAGE_SIZE ? size : GW_PAGE_SIZE;
	int r;

	if (!page || !old)
		abort();
	r = gw_xbzrle_decode(data, size, page);
	if (r > 0)
		abort();
	encode(old, page, GW_PAGE_SIZE);
	encode(old, page, n);
	if (n) /* against the input itself: runs of any kind */
		memcpy(old, data, n);
	encode(old, page, GW_PAGE_SIZE - n / 2);
	free(page);
	free(old);
	return 0;
}
