/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reader.h - a bounded cursor over untrusted bytes, with a sticky error.
 *
 * The bytes come from memory or, buffered, from a refill function (a channel,
 * a file). After the first failure every getter returns 0 or an empty string
 * and the first error stays in r->err, so a parser is a list of fields in wire
 * order followed by one check. Whatever is used as a size or an index is taken
 * with a bounded getter. One thread at a time.
 */
#ifndef GW_BASE_READER_H
#define GW_BASE_READER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/error.h"

/* One attempt to read. Return: bytes > 0, 0 at the end, or -errno with @err. */
typedef ssize_t (*gw_refill_fn)(void *arg, const struct iovec *iov, int niov,
				struct gw_error *err);

/* Step over @len bytes without reading them. Return: 0 or -errno with @err. */
typedef int (*gw_seek_fn)(void *arg, uint64_t len, struct gw_error *err);

struct gw_reader {
	gw_refill_fn refill; /* NULL: only what is in buf */
	gw_seek_fn seek;     /* optional, set after init: a file */
	void *arg;
	uint8_t *buf;
	size_t cap, pos, end; /* unread bytes are buf[pos..end) */
	uint64_t offset;      /* bytes consumed since init */
	bool own;	      /* buf is freed by _fini */
	struct gw_error err;  /* err.code != 0: failed */
};

/* Read from @len bytes at @mem, which must outlive the reader. */
void gw_reader_init_mem(struct gw_reader *r, const void *mem, size_t len);

/* Read through @refill with a buffer of @cap bytes. Return: 0 or -ENOMEM. */
int gw_reader_init(struct gw_reader *r, gw_refill_fn refill, void *arg,
		   size_t cap, struct gw_error *err) GW_MUST_CHECK;
void gw_reader_fini(struct gw_reader *r);

uint8_t gw_read_u8(struct gw_reader *r);
uint16_t gw_read_be16(struct gw_reader *r);
uint32_t gw_read_be32(struct gw_reader *r);
uint64_t gw_read_be64(struct gw_reader *r);

/* A be32 length; more than @max is an error naming @what, value and limit. */
uint32_t gw_read_len32(struct gw_reader *r, uint32_t max, const char *what);

/* Copy exactly @len bytes, past the buffer when that saves a copy. */
void gw_read_bytes(struct gw_reader *r, void *dst, size_t len);
void gw_read_skip(struct gw_reader *r, uint64_t len);

/*
 * cstr8 of QEMU (one length byte, no terminator) into @dst[256], terminated.
 * An empty string or one with a NUL inside is an error naming @what.
 */
void gw_read_cstr8(struct gw_reader *r, char dst[256], const char *what);

/* Is there another byte? Waits for one. false at a clean end or on error. */
bool gw_read_more(struct gw_reader *r);

/* The next @n <= cap bytes without consuming them; NULL after a failure. */
const uint8_t *gw_read_peek(struct gw_reader *r, size_t n);

/* Record the first failure (later ones are ignored). Return: -r->err.code. */
int gw_read_fail(struct gw_reader *r, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static inline bool gw_read_failed(const struct gw_reader *r)
{
	return r->err.code != 0;
}

/* 0, or the sticky error copied to @err. */
int gw_read_check(const struct gw_reader *r, struct gw_error *err)
	GW_MUST_CHECK;

#endif
