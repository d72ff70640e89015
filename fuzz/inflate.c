/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inflate.c - fuzz the pages of a multifd channel (lib/page/inflate.c). The
 * first byte chooses the method; then packets: pages (u8), length (be16),
 * bytes.
 */
#include "page/inflate.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "ram/block.h"

#define PAGES 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int packet(struct gw_inflate *z, const uint8_t *p, size_t len,
		  unsigned int npages)
{
	uint8_t *mem = malloc((size_t)PAGES * GW_PAGE_SIZE);
	uint8_t *page[PAGES];
	struct gw_error err = { 0 };
	int r;

	if (!mem)
		return -1;
	/* against the end of what was allocated */
	for (unsigned int i = 0; i < npages; i++)
		page[i] = mem + (PAGES - npages + i) * GW_PAGE_SIZE;
	r = gw_inflate_pages(z, p, len, page, npages, &err);
	if (r && !err.msg[0])
		abort();
	free(mem);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_inflate *z;
	size_t at = 1;
	int r = 0;

	if (!size)
		return 0;
	z = gw_inflate_new(data[0] & 1 ? "zstd" : "zlib", NULL);
	while (z && !r && size - at >= 3) {
		unsigned int npages = data[at] % (PAGES + 1);
		size_t len = gw_get_be16(data + at + 1);

		at += 3;
		if (len > size - at)
			len = size - at;
		r = packet(z, data + at, len, npages);
		at += len;
	}
	gw_inflate_free(z);
	return 0;
}
