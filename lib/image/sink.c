/* SPDX-License-Identifier: BSD-3-Clause */
/* sink.c - see sink.h: what all sinks have in common. */
#include "image/sink.h"

#include "page/zero.h"
#include "ram/block.h"

#define BIGGEST_DEVICE_BLOCK (64ULL << 20)

bool gw_image_is_ram(const struct gw_image_desc *d, int block)
{
	const struct gw_ram_table *t = &d->table;
	uint64_t len = t->entry[block].used_length;

	if (len > BIGGEST_DEVICE_BLOCK)
		return true;
	for (int i = 0; i < t->n; i++)
		if (t->entry[i].used_length > len)
			return false;
	return true;
}

int gw_sink_write(struct gw_sink *s, int block, uint64_t first, uint32_t n,
		  const void *host, uint64_t *normal, uint64_t *duplicate,
		  struct gw_error *err)
{
	const uint8_t *p = host;
	uint32_t at = 0;

	while (at < n) {
		const uint8_t *start = p + (uint64_t)at * GW_PAGE_SIZE;
		bool zero = gw_page_is_zero(start);
		uint32_t len = 1;
		int r;

		while (at + len < n &&
		       gw_page_is_zero(start + (uint64_t)len * GW_PAGE_SIZE) ==
			       zero)
			len++;
		r = zero ? s->ops->zeros(s, block, first + at, len, err) :
			   s->ops->pages(s, block, first + at, len, start, err);
		if (r)
			return r;
		*(zero ? duplicate : normal) += len;
		at += len;
	}
	return 0;
}
