/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * writer.h - gathers small headers (copied) and large payloads (referenced)
 * into few vectored writes, with a sticky error.
 *
 * What gw_write_ref() was given must stay valid until the next flush; it may
 * change until then (guest pages do: a page that changes is sent again).
 * One thread at a time.
 */
#ifndef GW_BASE_WRITER_H
#define GW_BASE_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/error.h"

/* Write everything or fail; may change @iov. Return: 0 or -errno with @err. */
typedef int (*gw_flush_fn)(void *arg, struct iovec *iov, int niov,
			   struct gw_error *err);

#define GW_WRITER_IOV  256
#define GW_WRITER_HEAD 8192

struct gw_writer {
	gw_flush_fn flush;
	void *arg;
	struct iovec iov[GW_WRITER_IOV];
	int niov;
	uint8_t head[GW_WRITER_HEAD];
	size_t used;	     /* bytes of head in use */
	uint64_t offset;     /* bytes accepted since init */
	struct gw_error err; /* err.code != 0: failed */
};

void gw_writer_init(struct gw_writer *w, gw_flush_fn flush, void *arg);

void gw_write_u8(struct gw_writer *w, uint8_t v);
void gw_write_be16(struct gw_writer *w, uint16_t v);
void gw_write_be32(struct gw_writer *w, uint32_t v);
void gw_write_be64(struct gw_writer *w, uint64_t v);
void gw_write_cstr8(struct gw_writer *w, const char *s); /* <= 255 bytes */
void gw_write_bytes(struct gw_writer *w, const void *p, size_t len);
void gw_write_ref(struct gw_writer *w, const void *p, size_t len);

/* Hand everything to the flush function. Return: 0 or the sticky error. */
int gw_write_flush(struct gw_writer *w, struct gw_error *err) GW_MUST_CHECK;

static inline bool gw_write_failed(const struct gw_writer *w)
{
	return w->err.code != 0;
}

/* 0, or the sticky error copied to @err. */
int gw_write_check(const struct gw_writer *w, struct gw_error *err)
	GW_MUST_CHECK;

#endif
