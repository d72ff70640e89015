/* SPDX-License-Identifier: BSD-3-Clause */
/* mapped.c - see mapped.h. */
#include "wire/mapped.h"

#include <errno.h>

struct gw_mapped_block gw_mapped_layout(uint64_t at, uint64_t used_length)
{
	struct gw_mapped_block m;

	m.bitmap_offset = at + GW_MAPPED_HEADER_SIZE;
	m.pages_offset = m.bitmap_offset + gw_mapped_bitmap_size(used_length);
	m.pages_offset += GW_MAPPED_ALIGN - 1;
	m.pages_offset -= m.pages_offset % GW_MAPPED_ALIGN;
	return m;
}

void gw_mapped_put(struct gw_writer *w, const struct gw_mapped_block *m)
{
	gw_write_be32(w, GW_MAPPED_VERSION);
	gw_write_be64(w, GW_PAGE_SIZE);
	gw_write_be64(w, m->bitmap_offset);
	gw_write_be64(w, m->pages_offset);
}

int gw_mapped_get(struct gw_reader *r, uint64_t at, uint64_t used_length,
		  bool may_be_ignored, struct gw_mapped_block *m)
{
	uint32_t version = gw_read_be32(r);
	uint64_t page = gw_read_be64(r), size, end;

	m->bitmap_offset = gw_read_be64(r);
	m->pages_offset = gw_read_be64(r);
	if (gw_read_failed(r))
		return -r->err.code;
	if (version != GW_MAPPED_VERSION || page != GW_PAGE_SIZE)
		return gw_read_fail(r, ENOTSUP,
				    "a mapped-ram header of version %u for pages of %llu bytes: only version %u and %u bytes can be read",
				    version, (unsigned long long)page,
				    GW_MAPPED_VERSION, GW_PAGE_SIZE);
	if (may_be_ignored && !m->bitmap_offset && !m->pages_offset)
		return 0;
	size = gw_mapped_bitmap_size(used_length);
	if (m->bitmap_offset < at || m->bitmap_offset > INT64_MAX - size ||
	    m->pages_offset < m->bitmap_offset + size ||
	    m->pages_offset % GW_PAGE_SIZE ||
	    __builtin_add_overflow(m->pages_offset, used_length, &end) ||
	    end > INT64_MAX)
		return gw_read_fail(
			r, EPROTO,
			"a mapped-ram header with its bitmap at 0x%llx (%llu bytes, not before 0x%llx) and pages at 0x%llx (%llu bytes): they must follow each other, the pages on a multiple of %u",
			(unsigned long long)m->bitmap_offset,
			(unsigned long long)size, (unsigned long long)at,
			(unsigned long long)m->pages_offset,
			(unsigned long long)used_length, GW_PAGE_SIZE);
	return 0;
}
