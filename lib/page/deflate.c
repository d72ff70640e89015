/* SPDX-License-Identifier: BSD-3-Clause */
/* deflate.c - see deflate.h. */
#include "page/deflate.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "ram/block.h"

/* What receivers take at least: inflate.c, and QEMU's level 20. */
#define ZSTD_WINDOW_LOG_MAX 25
#define ZLIB_LEVEL_MAX	    9
#define ZSTD_LEVEL_MAX	    22

struct gw_deflate {
	/* set once */
	z_stream zlib;
	ZSTD_CCtx *zstd; /* NULL: zlib */
	size_t cap;	 /* of out, for the longest packet */

	/* of the current packet */
	size_t len;
	const char *failure; /* what the library complained about */
	uint8_t copy[GW_PAGE_SIZE];
	uint8_t out[];
};

/* One page into the stream; @last: all of it has to come out. */
static void put_zlib(struct gw_deflate *z, bool last)
{
	int r;

	z->zlib.next_in = z->copy;
	z->zlib.avail_in = GW_PAGE_SIZE;
	z->zlib.next_out = z->out + z->len;
	z->zlib.avail_out = (uInt)(z->cap - z->len);
	r = deflate(&z->zlib, last ? Z_SYNC_FLUSH : Z_NO_FLUSH);
	if (r != Z_OK)
		z->failure = z->zlib.msg ? z->zlib.msg : "deflate";
	else if (z->zlib.avail_in || !z->zlib.avail_out)
		z->failure = "it does not fit";
	z->len = z->cap - z->zlib.avail_out;
}

static void put_zstd(struct gw_deflate *z, bool last)
{
	ZSTD_inBuffer in = { z->copy, GW_PAGE_SIZE, 0 };
	ZSTD_outBuffer out = { z->out, z->cap, z->len };
	size_t r;

	do
		r = ZSTD_compressStream2(z->zstd, &out, &in,
					 last ? ZSTD_e_flush : ZSTD_e_continue);
	while (!ZSTD_isError(r) && out.pos < out.size &&
	       (in.pos < in.size || (last && r)));
	if (ZSTD_isError(r))
		z->failure = ZSTD_getErrorName(r);
	else if (in.pos < in.size || (last && r))
		z->failure = "it does not fit";
	z->len = out.pos;
}

int gw_deflate_pages(struct gw_deflate *z, const uint8_t *const *page,
		     size_t npages, const uint8_t **out, size_t *len,
		     struct gw_error *err)
{
	z->len = 0;
	for (size_t i = 0; i < npages && !z->failure; i++) {
		memcpy(z->copy, page[i], GW_PAGE_SIZE);
		if (z->zstd)
			put_zstd(z, i == npages - 1);
		else
			put_zlib(z, i == npages - 1);
	}
	*out = z->out;
	*len = z->len;
	if (!z->failure)
		return 0;
	return gw_fail(err, EIO, "%zu pages cannot be compressed: %s: %s",
		       npages, z->zstd ? "zstd" : "zlib", z->failure);
}

/* zstd allocates with the first page: make it do so now. */
static bool warm_up(struct gw_deflate *z)
{
	put_zstd(z, true);
	z->len = 0;
	return !z->failure &&
	       !ZSTD_isError(ZSTD_CCtx_reset(z->zstd, ZSTD_reset_session_only));
}

static bool new_zstd(struct gw_deflate *z, int level)
{
	int window = ZSTD_WINDOW_LOG_MAX;

	z->zstd = ZSTD_createCCtx();
	if (!z->zstd || ZSTD_isError(ZSTD_CCtx_setParameter(
				z->zstd, ZSTD_c_compressionLevel, level)))
		return false;
	/* Only the highest levels would take a larger one by themselves. */
	if (level > 19 && ZSTD_isError(ZSTD_CCtx_setParameter(
				  z->zstd, ZSTD_c_windowLog, window)))
		return false;
	return warm_up(z);
}

int gw_deflate_check(const char *method, uint32_t level, struct gw_error *err)
{
	bool zstd = !strcmp(method, "zstd");
	uint32_t max = zstd ? ZSTD_LEVEL_MAX : ZLIB_LEVEL_MAX;

	if (!zstd && strcmp(method, "zlib"))
		return gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"unknown compression '%s': zlib and zstd are known",
			method);
	if (level > max)
		return gw_fail_as(err, GW_FAULT_USAGE, ERANGE,
				  "compression %s:%u: its levels are 1 to %u",
				  method, level, max);
	return 0;
}

struct gw_deflate *gw_deflate_new(const char *method, uint32_t level,
				  size_t max_pages, struct gw_error *err)
{
	size_t cap = 2 * max_pages * GW_PAGE_SIZE;
	bool zstd = !strcmp(method, "zstd");
	struct gw_deflate *z;

	if (gw_deflate_check(method, level, err))
		return NULL;
	level = level ? level : 1;
	z = calloc(1, sizeof(*z) + cap);
	if (z)
		z->cap = cap;
	if (z && (zstd ? new_zstd(z, (int)level)
		       : deflateInit(&z->zlib, (int)level) == Z_OK))
		return z;
	gw_fail(err, ENOMEM, "no memory to compress with %s", method);
	if (z)
		ZSTD_freeCCtx(z->zstd);
	free(z);
	return NULL;
}

void gw_deflate_free(struct gw_deflate *z)
{
	if (!z)
		return;
	if (z->zstd)
		ZSTD_freeCCtx(z->zstd);
	else
		deflateEnd(&z->zlib);
	free(z);
}
