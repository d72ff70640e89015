/* SPDX-License-Identifier: BSD-3-Clause */
/* writer.c - see writer.h. */
#include "base/writer.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"

void gw_writer_init(struct gw_writer *w, gw_flush_fn flush, void *arg)
{
	w->flush = flush;
	w->arg = arg;
	w->niov = 0;
	w->used = 0;
	w->offset = 0;
	w->err.code = 0;
	w->err.msg[0] = '\0';
}

static void flush(struct gw_writer *w)
{
	int r;

	if (w->niov && !gw_write_failed(w)) {
		r = w->flush(w->arg, w->iov, w->niov, &w->err);
		if (r && !gw_write_failed(w))
			w->err.code = -r;
	}
	w->niov = 0;
	w->used = 0;
}

int gw_write_check(const struct gw_writer *w, struct gw_error *err)
{
	if (!gw_write_failed(w))
		return 0;
	if (err)
		*err = w->err;
	return -w->err.code;
}

int gw_write_flush(struct gw_writer *w, struct gw_error *err)
{
	flush(w);
	return gw_write_check(w, err);
}

/* Room for @n bytes in head, contiguous with the last iovec if it can be. */
static uint8_t *reserve(struct gw_writer *w, size_t n)
{
	struct iovec *last;
	uint8_t *p;

	if (w->used + n > sizeof(w->head) || w->niov == GW_WRITER_IOV)
		flush(w);
	p = w->head + w->used;
	w->used += n;
	w->offset += n;
	last = w->niov ? &w->iov[w->niov - 1] : NULL;
	if (last && (uint8_t *)last->iov_base + last->iov_len == p)
		last->iov_len += n;
	else
		w->iov[w->niov++] = (struct iovec){ p, n };
	return p;
}

void gw_write_u8(struct gw_writer *w, uint8_t v)
{
	*reserve(w, 1) = v;
}

void gw_write_be16(struct gw_writer *w, uint16_t v)
{
	gw_put_be16(reserve(w, 2), v);
}

void gw_write_be32(struct gw_writer *w, uint32_t v)
{
	gw_put_be32(reserve(w, 4), v);
}

void gw_write_be64(struct gw_writer *w, uint64_t v)
{
	gw_put_be64(reserve(w, 8), v);
}

void gw_write_cstr8(struct gw_writer *w, const char *s)
{
	size_t n = strlen(s);

	assert(n <= 255);
	gw_write_u8(w, (uint8_t)n);
	gw_write_bytes(w, s, n);
}

void gw_write_bytes(struct gw_writer *w, const void *p, size_t len)
{
	const uint8_t *s = p;

	while (len) {
		size_t n = len < 1024 ? len : 1024;

		memcpy(reserve(w, n), s, n);
		s += n;
		len -= n;
	}
}

void gw_write_ref(struct gw_writer *w, const void *p, size_t len)
{
	if (!len)
		return;
	if (w->niov == GW_WRITER_IOV)
		flush(w);
	w->iov[w->niov++] = (struct iovec){ (void *)(uintptr_t)p, len };
	w->offset += len;
}
