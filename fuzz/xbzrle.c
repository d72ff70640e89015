/* SPDX-License-Identifier: BSD-3-Clause */
/* xbzrle.c - fuzz the delta decoder (lib/page/xbzrle.c): a page from the heap,
 * so that a sanitizer sees one byte too many. */
#include "page/xbzrle.h"

#include <stdlib.h>

#include "ram/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *page = calloc(1, GW_PAGE_SIZE);
	int r;

	if (!page)
		return 0;
	r = gw_xbzrle_decode(data, size, page);
	if (r > 0)
		abort();
	free(page);
	return 0;
}
