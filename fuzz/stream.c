/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream.c - fuzz whole streams and mapped-ram files (lib/wire/stream.c). The
 * first byte: bit 0, a file that is read in small pieces and seeks; the rest,
 * where the stream begins in it.
 */
#include "wire/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct file {
	const uint8_t *p;
	size_t left;
};

static ssize_t refill(void *arg, const struct iovec *iov, int niov,
		      struct gw_error *err)
{
	struct file *f = arg;
	size_t n = f->left < iov->iov_len ? f->left : iov->iov_len;

	if (n > 100)
		n = 100;
	memcpy(iov->iov_base, f->p, n);
	f->p += n;
	f->left -= n;
	return (ssize_t)n;
}

static int seek_file(void *arg, uint64_t len, struct gw_error *err)
{
	struct file *f = arg;
	size_t n = len < f->left ? (size_t)len : f->left;

	f->p += n; /* beyond its end a file seeks as well, and is empty */
	f->left -= n;
	return 0;
}

static void check(const struct gw_stream *s, const struct gw_stream_event *ev)
{
	const struct gw_ram_table *t = &s->ram.table;

	if (ev->block < 0 || ev->block >= t->n ||
	    ev->addr % GW_PAGE_SIZE ||
	    ev->addr + GW_PAGE_SIZE > t->entry[ev->block].used_length)
		abort();
}

static void walk(struct gw_reader *r, uint64_t base)
{
	static struct gw_stream_event ev;
	static struct gw_stream s;

	gw_stream_init(&s, r, base);
	while (!gw_stream_next(&s, &ev) && ev.kind != GW_STREAM_TAIL) {
		if (ev.kind == GW_STREAM_PAGE || ev.kind == GW_STREAM_ZERO ||
		    ev.kind == GW_STREAM_DELTA)
			check(&s, &ev);
		if (ev.kind == GW_STREAM_PAGE)
			gw_read_skip(r, GW_PAGE_SIZE);
		if (ev.kind == GW_STREAM_DELTA && ev.delta_len > GW_PAGE_SIZE)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct file f = { data + 1, size - 1 };
	struct gw_reader r;

	if (!size)
		return 0;
	if (data[0] & 1) {
		if (gw_reader_init(&r, refill, &f, 256, NULL))
			return 0;
		r.seek = seek_file;
	} else {
		gw_reader_init_mem(&r, data + 1, size - 1);
	}
	walk(&r, data[0] >> 1);
	gw_reader_fini(&r);
	return 0;
}
