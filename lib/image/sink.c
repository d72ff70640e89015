/* SPDX-License-Identifier: BSD-3-Clause */
/* sink.c - see sink.h: what all sinks have in common. */
#include "image/sink.h"

#include <errno.h>
#include <string.h>

#include "image/internal.h"
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

void gw_image_put_end(struct gw_writer *w, const char *vmdesc,
		      size_t vmdesc_len)
{
	gw_write_u8(w, GW_ITEM_EOF);
	if (!vmdesc)
		return;
	gw_write_u8(w, GW_ITEM_VMDESCRIPTION);
	gw_write_be32(w, (uint32_t)vmdesc_len);
	gw_write_ref(w, vmdesc, vmdesc_len);
}

static const struct {
	const char *name;
	struct gw_sink *(*open)(const char *path,
				const struct gw_sink_options *o,
				struct gw_error *err);
} formats[] = {
	{ "stream", gw_sink_stream_file },
	{ "mapped-ram", gw_sink_mapped_file },
	{ "raw", gw_sink_raw_file },
	{ "elf", gw_sink_elf_file },
};

const char *const gw_sink_formats[] = { "stream", "mapped-ram", "raw",
					"elf", NULL };

struct gw_sink *gw_sink_file(const char *format, const char *path,
			     const struct gw_sink_options *o,
			     struct gw_error *err)
{
	static const struct gw_sink_options none;

	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (!strcmp(formats[i].name, format))
			return formats[i].open(path, o ? o : &none, err);
	gw_fail_as(err, GW_FAULT_USAGE, EINVAL, "there is no format '%s'",
		   format);
	return NULL;
}
