/* SPDX-License-Identifier: BSD-3-Clause */
/* inflate.c - see inflate.h. */
#include "page/inflate.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "ram/block.h"

/* 32 MiB: what level 20, QEMU's highest, needs. The peer chooses how much of
 * it is allocated, for each of its channels. */
#define ZSTD_WINDOW_LOG 25

struct gw_inflate {
	/* set once */
	const char *method;
	bool is_zlib;
	z_stream zlib;
	ZSTD_DStream *zstd;

	/* of the current packet */
	const uint8_t *in;
	size_t in_left;
	uint8_t *out;
	size_t out_left;
	const char *damage; /* what the library complained about */
	bool ended;	    /* zlib only: a zstd frame may follow another */
};

/*
 * One step of the decompressor: input to output until one of them is used up.
 * Return: did anything move?
 */
static bool step_zlib(struct gw_inflate *z)
{
	size_t in = z->in_left < UINT_MAX ? z->in_left : UINT_MAX;
	size_t out = z->out_left;
	int r;

	z->zlib.next_in = (Bytef *)(uintptr_t)z->in; /* zlib only reads */
	z->zlib.avail_in = (uInt)in;
	z->zlib.next_out = z->out;
	z->zlib.avail_out = (uInt)out;
	r = inflate(&z->zlib, Z_SYNC_FLUSH);
	if (r == Z_STREAM_END)
		z->ended = true;
	else if (r != Z_OK && r != Z_BUF_ERROR)
		z->damage = z->zlib.msg ? z->zlib.msg :
			    r == Z_NEED_DICT ? "a dictionary is needed" :
					       "damaged";
	in -= z->zlib.avail_in;
	out -= z->zlib.avail_out;
	z->in += in;
	z->in_left -= in;
	z->out += out;
	z->out_left -= out;
	return in || out;
}

static bool step_zstd(struct gw_inflate *z)
{
	ZSTD_inBuffer in = { z->in, z->in_left, 0 };
	ZSTD_outBuffer out = { z->out, z->out_left, 0 };
	size_t r = ZSTD_decompressStream(z->zstd, &out, &in);

	if (ZSTD_isError(r))
		z->damage = ZSTD_getErrorName(r);
	z->in += in.pos;
	z->in_left -= in.pos;
	z->out += out.pos;
	z->out_left -= out.pos;
	return in.pos || out.pos;
}

/* Until the output is full or nothing moves any more. */
static void run(struct gw_inflate *z, uint8_t *out, size_t len)
{
	bool moved = true;

	z->out = out;
	z->out_left = len;
	while (moved && z->out_left && !z->ended && !z->damage)
		moved = z->is_zlib ? step_zlib(z) : step_zstd(z);
}

struct gw_inflate *gw_inflate_new(const char *method, struct gw_error *err)
{
	struct gw_inflate *z;

	if (strcmp(method, "zlib") && strcmp(method, "zstd")) {
		gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			   "unknown compression '%s': zlib and zstd are known",
			   method);
		return NULL;
	}
	z = calloc(1, sizeof(*z));
	if (!z)
		goto no_memory;
	z->is_zlib = !strcmp(method, "zlib");
	z->method = z->is_zlib ? "zlib" : "zstd";
	if (z->is_zlib && inflateInit(&z->zlib) != Z_OK)
		goto no_memory;
	if (!z->is_zlib) {
		z->zstd = ZSTD_createDStream();
		if (!z->zstd ||
		    ZSTD_isError(ZSTD_DCtx_setParameter(z->zstd,
							ZSTD_d_windowLogMax,
							ZSTD_WINDOW_LOG)))
			goto no_memory;
	}
	return z;

no_memory:
	gw_fail(err, ENOMEM, "no memory to decompress %s", method);
	if (z && z->zstd)
		ZSTD_freeDStream(z->zstd);
	free(z);
	return NULL;
}

void gw_inflate_free(struct gw_inflate *z)
{
	if (!z)
		return;
	if (z->is_zlib)
		inflateEnd(&z->zlib);
	else
		ZSTD_freeDStream(z->zstd);
	free(z);
}

/*
 * The output is full: the end of a flush may still be unread, and must give
 * nothing more. Room for one byte shows whether it would.
 */
static bool finish(struct gw_inflate *z)
{
	uint8_t more;

	run(z, &more, sizeof(more));
	return z->out_left == sizeof(more) && !z->in_left;
}

int gw_inflate_pages(struct gw_inflate *z, const void *p, size_t len,
		     uint8_t *const *page, size_t npages, struct gw_error *err)
{
	size_t i;

	z->in = p;
	z->in_left = len;
	for (i = 0; i < npages; i++) {
		run(z, page[i], GW_PAGE_SIZE);
		if (z->out_left)
			break;
	}
	if (i == npages && !z->damage && finish(z) && !z->damage)
		return 0;
	if (z->damage)
		return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				  "page %zu of %zu does not decompress: %s: %s",
				  i, npages, z->method, z->damage);
	if (i < npages)
		return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				  "%zu bytes of %s give only %zu of %zu pages",
				  len, z->method, i, npages);
	return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
			  "%zu bytes of %s give more than %zu pages", len,
			  z->method, npages);
}
