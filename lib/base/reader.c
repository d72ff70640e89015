/* SPDX-License-Identifier: BSD-3-Clause */
/* reader.c - see reader.h. */
#include "base/reader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void gw_reader_init_mem(struct gw_reader *r, const void *mem, size_t len)
{
	memset(r, 0, sizeof(*r));
	r->buf = (uint8_t *)(uintptr_t)mem; /* never written without refill */
	r->cap = r->end = len;
}

int gw_reader_init(struct gw_reader *r, gw_refill_fn refill, void *arg,
		   size_t cap, struct gw_error *err)
{
	memset(r, 0, sizeof(*r));
	r->refill = refill;
	r->arg = arg;
	r->cap = cap;
	r->own = true;
	r->buf = malloc(cap);
	if (!r->buf)
		return gw_fail(err, ENOMEM, "no memory for a buffer of %zu bytes",
			       cap);
	return 0;
}

void gw_reader_fini(struct gw_reader *r)
{
	if (r->own)
		free(r->buf);
	r->buf = NULL;
	r->pos = r->end = r->cap = 0;
}

int gw_read_fail(struct gw_reader *r, int code, const char *fmt, ...)
{
	va_list ap;

	if (gw_read_failed(r))
		return -r->err.code;
	r->err.code = code;
	r->err.fault = GW_FAULT_INPUT;
	va_start(ap, fmt);
	vsnprintf(r->err.msg, sizeof(r->err.msg), fmt, ap);
	va_end(ap);
	return -code;
}

int gw_read_check(const struct gw_reader *r, struct gw_error *err)
{
	if (!gw_read_failed(r))
		return 0;
	if (err)
		*err = r->err;
	return -r->err.code;
}

/* One refill into @iov. Return: bytes, 0 after recording why there are none. */
static size_t refill(struct gw_reader *r, struct iovec *iov, int niov,
		     size_t want)
{
	ssize_t n;

	if (gw_read_failed(r))
		return 0;
	n = r->refill ? r->refill(r->arg, iov, niov, &r->err) : 0;
	if (n > 0)
		return (size_t)n;
	if (n < 0 && !gw_read_failed(r))
		r->err.code = (int)-n;
	gw_read_fail(r, ECONNRESET,
		     "the stream ends at byte %llu, %zu more were expected",
		     (unsigned long long)(r->offset + (r->end - r->pos)), want);
	return 0;
}

const uint8_t *gw_read_peek(struct gw_reader *r, size_t n)
{
	if (r->end - r->pos < n && r->refill && r->pos) {
		memmove(r->buf, r->buf + r->pos, r->end - r->pos);
		r->end -= r->pos;
		r->pos = 0;
	}
	while (r->end - r->pos < n) {
		struct iovec iov = { r->buf + r->end, r->cap - r->end };
		size_t got = refill(r, &iov, 1, n - (r->end - r->pos));

		if (!got)
			return NULL;
		r->end += got;
	}
	return gw_read_failed(r) ? NULL : r->buf + r->pos;
}

static const uint8_t *take(struct gw_reader *r, size_t n)
{
	const uint8_t *p = gw_read_peek(r, n);

	if (p) {
		r->pos += n;
		r->offset += n;
	}
	return p;
}

uint8_t gw_read_u8(struct gw_reader *r)
{
	const uint8_t *p = take(r, 1);

	return p ? *p : 0;
}

uint16_t gw_read_be16(struct gw_reader *r)
{
	const uint8_t *p = take(r, 2);

	return p ? gw_get_be16(p) : 0;
}

uint32_t gw_read_be32(struct gw_reader *r)
{
	const uint8_t *p = take(r, 4);

	return p ? gw_get_be32(p) : 0;
}

uint64_t gw_read_be64(struct gw_reader *r)
{
	const uint8_t *p = take(r, 8);

	return p ? gw_get_be64(p) : 0;
}

uint32_t gw_read_len32(struct gw_reader *r, uint32_t max, const char *what)
{
	uint32_t v = gw_read_be32(r);

	if (v > max) {
		gw_read_fail(r, EMSGSIZE, "%s is %u bytes, the limit is %u",
			     what, v, max);
		return 0;
	}
	return v;
}

void gw_read_bytes(struct gw_reader *r, void *dst, size_t len)
{
	uint8_t *d = dst;

	while (len && !gw_read_failed(r)) {
		size_t have = r->end - r->pos;

		if (have) {
			size_t n = have < len ? have : len;

			memcpy(d, r->buf + r->pos, n);
			r->pos += n;
			r->offset += n;
			d += n;
			len -= n;
			continue;
		}
		/* The rest goes straight to its place, read-ahead behind it. */
		struct iovec iov[2] = { { d, len }, { r->buf, r->cap } };
		size_t n = refill(r, iov, r->cap ? 2 : 1, len);
		size_t mine = n < len ? n : len;

		r->pos = 0;
		r->end = n - mine;
		r->offset += mine;
		d += mine;
		len -= mine;
	}
	if (len)
		memset(d, 0, len);
}

/* Past what is buffered, in one step. */
static void seek(struct gw_reader *r, uint64_t len)
{
	int n;

	r->pos = r->end = 0;
	n = r->seek(r->arg, len, &r->err);
	if (!n)
		r->offset += len;
	else if (!gw_read_failed(r))
		r->err.code = -n;
}

void gw_read_skip(struct gw_reader *r, uint64_t len)
{
	while (len && !gw_read_failed(r)) {
		size_t have = r->end - r->pos;
		size_t n = have < len ? have : (size_t)len;

		r->pos += n;
		r->offset += n;
		len -= n;
		if (len > r->cap && r->seek) {
			seek(r, len);
			return;
		}
		if (len && !gw_read_peek(r, 1))
			return;
	}
}

void gw_read_cstr8(struct gw_reader *r, char dst[256], const char *what)
{
	uint8_t n = gw_read_u8(r);

	gw_read_bytes(r, dst, n);
	dst[n] = '\0';
	if (!gw_read_failed(r) && (n == 0 || strlen(dst) != n)) {
		gw_read_fail(r, EPROTO, "%s is %s", what,
			     n ? "a name with a NUL byte inside" : "empty");
		dst[0] = '\0';
	}
}

bool gw_read_more(struct gw_reader *r)
{
	struct iovec iov;
	ssize_t n;

	if (gw_read_failed(r))
		return false;
	if (r->end > r->pos)
		return true;
	if (!r->refill)
		return false;
	r->pos = r->end = 0;
	iov = (struct iovec){ r->buf, r->cap };
	n = r->refill(r->arg, &iov, 1, &r->err);
	if (n < 0 && !gw_read_failed(r))
		r->err.code = (int)-n;
	if (n <= 0)
		return false;
	r->end = (size_t)n;
	return true;
}
