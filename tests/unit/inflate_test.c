/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * inflate_test.c - pages compressed as a multifd channel carries them, and
 * everything that is not exactly so many pages.
 */
#include "test.h"

#include <errno.h>
#include <zlib.h>
#include <zstd.h>

#include "page/inflate.h"

#define PAGE 4096
#define MAX  128 /* pages of a packet */

static const char *const methods[] = { "zlib", "zstd" };

/* A sender's side of a channel. */
struct deflater {
	z_stream zlib;
	ZSTD_CCtx *zstd;
};

static void begin(struct deflater *d, const char *method, int level)
{
	memset(d, 0, sizeof(*d));
	if (!strcmp(method, "zstd")) {
		d->zstd = ZSTD_createCCtx();
		CHECK(d->zstd &&
		      !ZSTD_isError(ZSTD_CCtx_setParameter(
			      d->zstd, ZSTD_c_compressionLevel, level)));
	} else {
		CHECK(deflateInit(&d->zlib, level) == Z_OK);
	}
}

/* @len bytes and a flush (@end: the end of the stream). Return: bytes out. */
static size_t squeeze(struct deflater *d, const void *p, size_t len, bool end,
		      uint8_t *out, size_t cap)
{
	if (d->zstd) {
		ZSTD_inBuffer i = { p, len, 0 };
		ZSTD_outBuffer o = { out, cap, 0 };

		CHECK(!ZSTD_compressStream2(d->zstd, &o, &i,
					    end ? ZSTD_e_end : ZSTD_e_flush));
		return o.pos;
	}
	d->zlib.next_in = (Bytef *)(uintptr_t)p;
	d->zlib.avail_in = (uInt)len;
	d->zlib.next_out = out;
	d->zlib.avail_out = (uInt)cap;
	CHECK(deflate(&d->zlib, end ? Z_FINISH : Z_SYNC_FLUSH) ==
	      (end ? Z_STREAM_END : Z_OK));
	return cap - d->zlib.avail_out;
}

static void finish(struct deflater *d)
{
	ZSTD_freeCCtx(d->zstd);
	if (!d->zstd)
		deflateEnd(&d->zlib);
}

static uint8_t in[MAX][PAGE], out[MAX][PAGE], packed[2 * MAX * PAGE];
static uint8_t *page[MAX];

/* Pages of zeros, text-like and random bytes. */
static void fill(size_t n, uint64_t *seed)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t kind = test_rand(seed) % 3;

		for (int j = 0; j < PAGE; j++)
			in[i][j] = (uint8_t)(kind ? (test_rand(seed) >> 32) %
							    (kind * 126 + 4) :
						    0);
	}
}

/* From memory that ends where the packet ends. */
static int inflate_exact(struct gw_inflate *z, const uint8_t *p, size_t len,
			 size_t npages, struct gw_error *err)
{
	uint8_t *copy = malloc(len ? len : 1);
	int r;

	memcpy(copy, p, len);
	r = gw_inflate_pages(z, copy, len, page, npages, err);
	free(copy);
	return r;
}

static void channel_comes_back(const char *method, int level)
{
	struct gw_error err = { 0 };
	struct gw_inflate *z = gw_inflate_new(method, &err);
	uint64_t seed = test_seed();
	struct deflater d;

	REQUIRE(z);
	begin(&d, method, level);
	for (int packet = 0; packet < 40; packet++) {
		size_t n = packet < 2 ? MAX : 1 + test_rand(&seed) % MAX, len;

		fill(n, &seed);
		/* in any order: a packet's pages need not ascend */
		for (size_t i = 0; i < n; i++)
			page[i] = out[n - 1 - i];
		len = squeeze(&d, in, n * PAGE, false, packed, sizeof(packed));
		CHECK_OK(inflate_exact(z, packed, len, n, &err), &err);
		for (size_t i = 0; i < n; i++)
			REQUIRE(!memcmp(in[i], page[i], PAGE));
	}
	finish(&d);
	gw_inflate_free(z);
}

static void channels_come_back(void)
{
	channel_comes_back("zlib", 1);
	channel_comes_back("zlib", 0); /* stored: larger than the pages */
	channel_comes_back("zlib", 9);
	channel_comes_back("zstd", 1);
	channel_comes_back("zstd", 20); /* QEMU's highest: a large window */
}

/* QEMU deflates page by page and flushes at the last one. */
static void page_by_page_comes_back(void)
{
	struct gw_error err = { 0 };
	uint64_t seed = test_seed();

	for (int m = 0; m < 2; m++) {
		struct gw_inflate *z = gw_inflate_new(methods[m], &err);
		struct deflater d;
		size_t len = 0;

		REQUIRE(z);
		begin(&d, methods[m], 1);
		fill(3, &seed);
		for (int i = 0; i < 3; i++) {
			page[i] = out[i];
			len += squeeze(&d, in[i], PAGE, false, packed + len,
				       sizeof(packed) - len);
		}
		CHECK_OK(inflate_exact(z, packed, len, 3, &err), &err);
		CHECK(!memcmp(in, out, 3 * PAGE));
		finish(&d);
		gw_inflate_free(z);
	}
}

/* @len bytes of a fresh channel for @npages pages must be refused. */
static void refused(const char *method, const uint8_t *p, size_t len,
		    size_t npages, const char *because)
{
	struct gw_error err = { 0 };
	struct gw_inflate *z = gw_inflate_new(method, &err);
	int r;

	REQUIRE(z);
	r = inflate_exact(z, p, len, npages, &err);
	if (r != -EBADMSG || !strstr(err.msg, because))
		printf("%s, '%s': %d '%s'\n", method, because, r, err.msg);
	CHECK(r == -EBADMSG && err.fault == GW_FAULT_INPUT &&
	      strstr(err.msg, because));
	gw_inflate_free(z);
}

static void packets_are_exact(void)
{
	uint64_t seed = test_seed();

	for (int m = 0; m < 2; m++) {
		const char *method = methods[m];
		struct deflater d;
		size_t len, more;

		fill(4, &seed);
		memset(in[1], 'a', PAGE);
		for (int i = 0; i < MAX; i++)
			page[i] = out[i];
		begin(&d, method, 1);
		len = squeeze(&d, in, 4 * PAGE, false, packed, sizeof(packed));
		refused(method, packed, len, 3, "give more than 3 pages");
		refused(method, packed, len, 5, "give only 4 of 5 pages");
		refused(method, packed, len, 0, "give more than 0 pages");
		refused(method, packed, 0, 1, "0 bytes of");
		for (size_t cut = len / 2; cut < len - 8; cut += 11)
			refused(method, packed, cut, 4, "give only");
		/* one byte of a fifth page */
		more = squeeze(&d, in, 1, false, packed + len,
			       sizeof(packed) - len);
		refused(method, packed, len + more, 4, "give more than 4");
		memset(packed, 0xee, 64);
		refused(method, packed, 64, 1, "does not decompress");
		finish(&d);
	}
}

/* Half a megabyte that would become half a gigabyte. */
static void bombs_stop(void)
{
	size_t len = 512u << 20, got = 0, cap = 1 << 20;
	uint8_t *bomb = malloc(cap), *zeros = calloc(1, 1 << 20);

	REQUIRE(bomb && zeros);
	for (int m = 0; m < 2; m++) {
		struct deflater d;

		begin(&d, methods[m], 1);
		for (got = 0; len && got + (64 << 10) < cap; len -= 1 << 20)
			got += squeeze(&d, zeros, 1 << 20, false, bomb + got,
				       cap - got);
		refused(methods[m], bomb, got, MAX, "give more than 128 pages");
		refused(methods[m], bomb, got, 1, "give more than 1 page");
		finish(&d);
		len = 512u << 20;
	}
	free(bomb);
	free(zeros);
}

/* The largest window allowed, and one that is larger: memory is the peer's
 * to ask for only so far. */
static void windows_are_bounded(void)
{
	/* frame header: magic, descriptor 0 (no size, no checksum), window */
	uint8_t frame[] = { 0x28, 0xb5, 0x2f, 0xfd, 0, (25 - 10) << 3,
			    /* a last block: RLE of 4096 x 'z' */
			    1 | 1 << 1 | (4096 << 3 & 0xff), 4096 << 3 >> 8 & 0xff,
			    4096 << 3 >> 16, 'z' };
	struct gw_error err = { 0 };
	struct gw_inflate *z = gw_inflate_new("zstd", &err);

	REQUIRE(z);
	page[0] = out[0];
	CHECK_OK(inflate_exact(z, frame, sizeof(frame), 1, &err), &err);
	CHECK(out[0][0] == 'z' && out[0][PAGE - 1] == 'z');
	gw_inflate_free(z);
	frame[5] += 1 << 3;
	refused("zstd", frame, sizeof(frame), 1, "does not decompress");
	frame[5] = 31 << 3;
	refused("zstd", frame, sizeof(frame), 1, "does not decompress");
}

/* zlib's stream may end; then nothing more comes, and nothing is accepted. */
static void an_ended_stream_stays_ended(void)
{
	struct gw_error err = { 0 };
	struct gw_inflate *z = gw_inflate_new("zlib", &err);
	uint64_t seed = test_seed();
	struct deflater d;
	size_t len;

	REQUIRE(z);
	fill(1, &seed);
	page[0] = out[0];
	begin(&d, "zlib", 1);
	len = squeeze(&d, in, PAGE, true, packed, sizeof(packed));
	CHECK_OK(inflate_exact(z, packed, len, 1, &err), &err);
	CHECK(inflate_exact(z, packed, len, 1, &err) == -EBADMSG);
	packed[len] = 0;
	refused("zlib", packed, len + 1, 1, "give more than 1 page");
	finish(&d);
	gw_inflate_free(z);
}

static void methods_are_known(void)
{
	struct gw_error err = { 0 };

	CHECK(!gw_inflate_new("qpl", &err) && err.code == EINVAL);
	CHECK(strstr(err.msg, "unknown compression 'qpl'"));
	gw_inflate_free(NULL);
}

/* Any damage: an error or other pages, never out of bounds. */
static void damage_is_survived(void)
{
	uint64_t seed = test_seed();

	for (int m = 0; m < 2; m++) {
		struct deflater d;
		size_t len;

		fill(3, &seed);
		begin(&d, methods[m], 1);
		len = squeeze(&d, in, 3 * PAGE, false, packed, sizeof(packed));
		finish(&d);
		for (int i = 0; i < 2000; i++) {
			struct gw_error err = { 0 };
			struct gw_inflate *z = gw_inflate_new(methods[m], &err);
			size_t at = test_rand(&seed) % (i % 2 ? len : 40);
			uint8_t was = packed[at];
			int r;

			REQUIRE(z);
			packed[at] ^= (uint8_t)(1 + test_rand(&seed) % 255);
			r = inflate_exact(z, packed, len, 3, &err);
			CHECK(!r || (r == -EBADMSG && err.msg[0]));
			packed[at] = was;
			gw_inflate_free(z);
		}
	}
}

int main(void)
{
	for (int i = 0; i < MAX; i++)
		page[i] = out[i];
	RUN(channels_come_back);
	RUN(page_by_page_comes_back);
	RUN(packets_are_exact);
	RUN(bombs_stop);
	RUN(windows_are_bounded);
	RUN(an_ended_stream_stays_ended);
	RUN(methods_are_known);
	RUN(damage_is_survived);
	return test_done();
}
