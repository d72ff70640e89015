/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * xbzrle_test.c - the decoder and every variant of the encoder against slow
 * obvious ones (maximal runs are what QEMU sends), every rule of the format
 * with bytes that break it, and all deltas of real QEMUs made again. No buffer
 * has a byte to spare on either side.
 */
#include "captures.h"

#include <errno.h>
#include <sys/mman.h>

#include "page/xbzrle.h"
#include "wire/stream.h"

#define PAGE 4096

/* --- model ------------------------------------------------------------- */

static size_t put_run(uint8_t *out, size_t n)
{
	if (n < 128) {
		out[0] = (uint8_t)n;
		return 1;
	}
	out[0] = (uint8_t)(n | 0x80);
	out[1] = (uint8_t)(n >> 7);
	return 2;
}

/* Bytes of delta; at most one length byte more than changed bytes per run. */
static size_t encode(const uint8_t *old, const uint8_t *new, uint8_t *out)
{
	size_t len = 0, at = 0, start;

	while (at < PAGE) {
		for (start = at; at < PAGE && old[at] == new[at]; at++)
			;
		if (at == PAGE)
			break; /* an unchanged run at the end is left out */
		len += put_run(out + len, at - start);
		for (start = at; at < PAGE && old[at] != new[at]; at++)
			;
		len += put_run(out + len, at - start);
		memcpy(out + len, new + start, at - start);
		len += at - start;
	}
	return len;
}

/* With a limit: what fits, and a delta that ends before the page does must
 * leave two bytes unused. */
static int encode_max(const uint8_t *old, const uint8_t *new, uint8_t *out,
		      size_t max)
{
	size_t len = encode(old, new, out);
	bool to_the_end = old[PAGE - 1] != new[PAGE - 1];

	return !len || len + (to_the_end ? 0 : 2) <= max ? (int)len : -1;
}

/* Byte by byte, from the format's description. Return: is it valid? */
static bool model(const uint8_t *d, size_t len, uint8_t *page)
{
	size_t i = 0, at = 0;

	while (i < len) {
		size_t run[2];
		bool first = i == 0;

		for (int k = 0; k < 2; k++) {
			if (len - i < 2)
				return false;
			run[k] = d[i] % 128;
			if (d[i++] >= 128) {
				if (d[i] >= 128)
					return false;
				run[k] += 128u * d[i++];
			}
			if (k == 0) {
				if (!run[0] && !first)
					return false;
				at += run[0];
				if (at > PAGE)
					return false;
			}
		}
		if (!run[1])
			return false;
		for (size_t n = 0; n < run[1]; n++, i++, at++) {
			if (at >= PAGE || i >= len)
				return false;
			page[at] = d[i];
		}
	}
	return true;
}

/* --- guarded memory ---------------------------------------------------- */

/* Whole pages with no memory on either side. */
static uint8_t *guarded(size_t size)
{
	uint8_t *p = mmap(NULL, size + 2 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE) ||
	    mprotect(p + PAGE + size, PAGE, PROT_NONE))
		abort();
	return p + PAGE;
}

static uint8_t *page_g, *old_g, *new_g, *dst_g; /* a page each */
static uint8_t *delta_end;

static uint8_t *at_the_end(const uint8_t *d, size_t len)
{
	memcpy(delta_end - len, d, len);
	return delta_end - len;
}

static int decode(const uint8_t *d, size_t len)
{
	return gw_xbzrle_decode(at_the_end(d, len), len, page_g);
}

static void fill(uint8_t *p, uint64_t *seed)
{
	for (int i = 0; i < PAGE; i++)
		p[i] = (uint8_t)(test_rand(seed) >> 32);
}

/* Edits of every kind: runs of 1..300 bytes, some of them no change. */
static void edit(uint8_t *p, uint64_t *seed)
{
	int n = (int)(test_rand(seed) % 40);

	while (n--) {
		size_t at = test_rand(seed) % PAGE;
		size_t len = test_rand(seed) % 4 ? test_rand(seed) % 9
						 : test_rand(seed) % 300;

		for (; len && at < PAGE; len--, at++)
			p[at] = (uint8_t)(test_rand(seed) >> 40);
	}
}

/* --- claims ------------------------------------------------------------ */

static void edits_come_back(void)
{
	static uint8_t old[PAGE], new[PAGE], d[3 * PAGE], want[PAGE];
	uint64_t seed = test_seed();

	for (int i = 0; i < 5000; i++) {
		size_t len;

		if (i % 2)
			fill(old, &seed);
		memcpy(new, old, PAGE);
		edit(new, &seed);
		len = encode(old, new, d);
		memcpy(page_g, old, PAGE);
		memcpy(want, old, PAGE);
		REQUIRE(model(d, len, want) && !memcmp(want, new, PAGE));
		REQUIRE(decode(d, len) == 0);
		REQUIRE(!memcmp(page_g, new, PAGE));
	}
}

static void edges_come_back(void)
{
	static uint8_t old[PAGE], new[PAGE], d[3 * PAGE];
	static const uint8_t last_byte[] = { 0xff, 0x1f, 0x01, 0x31 };
	size_t len;

	memset(page_g, 7, PAGE);
	CHECK(!decode(d, 0) && page_g[0] == 7 && page_g[PAGE - 1] == 7);
	CHECK(encode(old, new, d) == 0); /* equal: nothing to send */

	memset(new, 1, PAGE); /* all changed */
	len = encode(old, new, d);
	CHECK(len == PAGE + 3);
	CHECK(!decode(d, len) && !memcmp(page_g, new, PAGE));

	memset(new, 0, PAGE); /* the last byte only: as QEMU sends it */
	new[PAGE - 1] = 0x31;
	CHECK(encode(old, new, d) == sizeof(last_byte) &&
	      !memcmp(d, last_byte, sizeof(last_byte)));
	memset(page_g, 0, PAGE);
	CHECK(!decode(d, 4) && !memcmp(page_g, new, PAGE));

	for (int i = 0; i < PAGE; i++) /* every other byte */
		new[i] = (uint8_t)(i % 2);
	len = encode(old, new, d);
	CHECK(len == PAGE / 2 * 3);
	memset(page_g, 0, PAGE);
	CHECK(!decode(d, len) && !memcmp(page_g, new, PAGE));
}

/* A length may be written with one byte too many. */
static void long_lengths_are_lengths(void)
{
	static const uint8_t d[] = { 0x80, 0, 0x82, 0, 'a', 'b' };

	memset(page_g, 0, PAGE);
	CHECK(!decode(d, sizeof(d)) && !memcmp(page_g, "ab", 3));
}

#define REJECT(...)                                            \
	do {                                                   \
		static const uint8_t bad_[] = { __VA_ARGS__ }; \
		CHECK(!model(bad_, sizeof(bad_), scratch));    \
		CHECK(decode(bad_, sizeof(bad_)) == -EPROTO);  \
	} while (0)

static void decoder_rejects(void)
{
	static uint8_t scratch[PAGE];

	REJECT(0);		    /* an unchanged run alone */
	REJECT(0x85);		    /* half a length */
	REJECT(5, 1);		    /* no content */
	REJECT(5, 0x81);	    /* the second length is cut */
	REJECT(5, 0x81, 0);	    /* no content */
	REJECT(0x80, 0x80, 1, 'x'); /* three bytes of length */
	REJECT(0xff, 0xff, 1, 'x');
	REJECT(0, 0x81, 0x80, 'x');
	REJECT(0, 0, 1, 'x'); /* an empty changed run */
	REJECT(0, 0x80, 0, 'x');
	REJECT(0, 1, 'x', 0, 1, 'y'); /* an empty unchanged run */
	REJECT(0, 1, 'x', 0x80, 0, 1, 'y');
	REJECT(0, 3, 'x', 'y'); /* beyond the delta */
	REJECT(0, 1, 'x', 1);	/* a length left over */
	REJECT(0, 1, 'x', 1, 1);
	REJECT(0x81, 0x20, 1, 'x');	 /* unchanged 4097 */
	REJECT(0x80, 0x20, 1, 'x');	 /* 4096, then one more */
	REJECT(0xff, 0x1f, 2, 'x', 'y'); /* 4095, then two */
	REJECT(0xff, 0x7f, 1, 'x');	 /* the largest length */
	REJECT(0, 0xff, 0x7f, 'x');
	REJECT(0xff, 0x1f, 1, 'x', 1, 1, 'y'); /* past the end */
}

/* A changed run of a page and a byte, all of its content there. */
static void nothing_is_written_beyond_the_page(void)
{
	static uint8_t d[PAGE + 8] = { 0, 0x81, 0x20 };

	CHECK(decode(d, 3 + PAGE + 1) == -EPROTO);
	d[1] = 0x80;
	CHECK(decode(d, 3 + PAGE) == 0);
	CHECK(decode(d, 3 + PAGE + 1) == -EPROTO); /* half a run follows */
	CHECK(decode(d, 3 + PAGE - 1) == -EPROTO);
}

/* Any bytes at all: the same verdict as the model, the same page. */
static void garbage_is_judged_alike(void)
{
	static uint8_t old[PAGE], new[PAGE], d[3 * PAGE], want[PAGE];
	uint64_t seed = test_seed();
	int good = 0, bad = 0;

	for (int i = 0; i < 40000; i++) {
		size_t len;
		bool valid;

		if (i % 2) { /* damage a good one */
			edit(new, &seed);
			len = encode(old, new, d);
			for (int k = i % 3; len && k >= 0; k--)
				d[test_rand(&seed) % len] =
					(uint8_t)test_rand(&seed);
			if (i % 5 == 0 && len)
				len -= test_rand(&seed) % len;
			memcpy(new, old, PAGE);
		} else {
			len = test_rand(&seed) % 24;
			for (size_t k = 0; k < len; k++)
				d[k] = (uint8_t)(test_rand(&seed) %
						 (i % 4 ? 256 : 8));
		}
		memset(want, 0, PAGE);
		memset(page_g, 0, PAGE);
		valid = model(d, len, want);
		REQUIRE(decode(d, len) == (valid ? 0 : -EPROTO));
		REQUIRE(!valid || !memcmp(page_g, want, PAGE));
		*(valid ? &good : &bad) += 1;
	}
	CHECK(good > 1000 && bad > 1000);
}

/* --- the encoder ------------------------------------------------------- */

/* Every variant makes of old_g and new_g what the model makes of them, within
 * @max bytes that begin, or end, where memory does. */
static bool variants_agree(size_t max, bool at_end)
{
	static uint8_t want[3 * PAGE];
	uint8_t *dst = at_end ? dst_g + PAGE - max : dst_g;
	int len = encode_max(old_g, new_g, want, max);
	const struct gw_xbzrle_impl *i = gw_xbzrle_impls;
	int got;

	for (; i->name; i++) {
		if (!i->usable())
			continue;
		memset(dst_g, 0xa5, PAGE);
		got = i->encode(old_g, new_g, dst, max);
		if (got != len || (len > 0 && memcmp(dst, want, (size_t)len))) {
			fprintf(stderr, "%s: %d, not %d, of %zu\n", i->name,
				got, len, max);
			return false;
		}
		for (uint8_t *p = dst_g; p < dst_g + PAGE; p++)
			if ((p < dst || p >= dst + max) && *p != 0xa5)
				return false;
	}
	got = gw_xbzrle_encode(old_g, new_g, dst, max);
	if (got < 0)
		return got == len;
	memcpy(page_g, old_g, PAGE);
	return got == len && !gw_xbzrle_decode(dst, (size_t)got, page_g) &&
	       !memcmp(page_g, new_g, PAGE);
}

/* @len bytes every @every are changed, from @from on. */
static void pattern(size_t from, size_t len, size_t every)
{
	memcpy(new_g, old_g, PAGE);
	for (size_t i = from; i < PAGE; i += every)
		for (size_t k = i; k < i + len && k < PAGE; k++)
			new_g[k] = (uint8_t)~old_g[k];
}

static void which_variants(void)
{
	const struct gw_xbzrle_impl *i = gw_xbzrle_impls;
	int n = 0;

	for (; i->name; i++)
		if (i->usable())
			n++;
		else
			printf("SKIP variant %s: not on this CPU\n", i->name);
	CHECK(n > 0);
}

static void patterns_are_encoded(void)
{
	static const size_t p[][2] = {
		{ 12, 1111 }, { 33, 701 },   { 40, 100 },  { 1, 2 },
		{ 1, 3 },     { 2, 3 },	     { 7, 8 },	   { 31, 32 },
		{ 32, 64 },   { 64, 65 },    { 127, 255 }, { 128, 256 },
		{ 1, PAGE },  { PAGE, PAGE }
	};
	uint64_t seed = test_seed();

	fill(old_g, &seed);
	memcpy(new_g, old_g, PAGE);
	CHECK(variants_agree(PAGE, false) && variants_agree(0, true));
	for (size_t i = 0; i < sizeof(p) / sizeof(p[0]); i++)
		for (size_t from = 0; from < p[i][1]; from += 1 + from / 70) {
			pattern(from, p[i][0], p[i][1]);
			REQUIRE(variants_agree(PAGE, false));
		}
}

/* Runs that begin and end around the blocks the variants work in. */
static void block_edges_are_encoded(void)
{
	for (size_t at = 0; at < PAGE; at++) {
		memset(old_g, 0, PAGE);
		pattern(at, 1, PAGE);
		REQUIRE(variants_agree(PAGE, at % 2));
		pattern(at, PAGE, PAGE); /* to the end */
		REQUIRE(variants_agree(PAGE, at % 2));
		memset(new_g, 1, at); /* all but one */
		new_g[at] = 0;
		REQUIRE(variants_agree(PAGE, at % 2));
	}
	for (size_t at = 0; at <= 4032; at += 32)
		for (size_t from = at < 2 ? 0 : at - 2; from < at + 3; from++)
			for (size_t len = 1; len < 140; len++) {
				pattern(from, len, PAGE);
				REQUIRE(variants_agree(PAGE, len % 2));
			}
}

static void edits_are_encoded(void)
{
	uint64_t seed = test_seed();

	fill(old_g, &seed);
	for (int i = 0; i < 20000; i++) {
		memcpy(new_g, old_g, PAGE);
		for (int k = i % 7 == 0 ? 4 : 0; k >= 0; k--)
			edit(new_g, &seed);
		REQUIRE(variants_agree(PAGE - test_rand(&seed) % 40, i % 2));
		if (i % 3)
			memcpy(old_g, new_g, PAGE);
	}
}

/* What fits and what does not, for every size of the buffer. */
static void every_limit_is_kept(void)
{
	uint64_t seed = test_seed();

	for (int i = 0; i < 8; i++) {
		fill(old_g, &seed);
		memcpy(new_g, old_g, PAGE);
		if (i < 5)
			edit(new_g, &seed);
		else
			pattern((size_t)i, i == 5 ? PAGE : 3, i == 6 ? 5 : 11);
		for (size_t max = 0; max <= PAGE; max++)
			REQUIRE(variants_agree(max, max % 2));
	}
	/* around a full buffer, up to the page's end and short of it */
	for (size_t len = PAGE - 12; len <= PAGE; len++)
		for (size_t from = 0; from <= PAGE - len; from++) {
			pattern(from, len, PAGE);
			REQUIRE(variants_agree(PAGE, false));
		}
}

/* --- what QEMU made ---------------------------------------------------- */

struct known {
	uint8_t *ram[GW_MAX_TABLE_BLOCKS];
	int same, deltas;
};

/* QEMU's delta of a page that is known, made again. */
static void again(struct known *k, const struct gw_stream_event *ev)
{
	uint8_t *page = k->ram[ev->block] + ev->addr;

	memcpy(old_g, page, PAGE);
	if (gw_xbzrle_decode(ev->delta, ev->delta_len, page))
		return;
	memcpy(new_g, page, PAGE);
	k->deltas++;
	k->same +=
		gw_xbzrle_encode(old_g, new_g, dst_g, PAGE) == ev->delta_len &&
		!memcmp(dst_g, ev->delta, ev->delta_len) &&
		variants_agree(PAGE, true);
}

static int step(struct known *k, struct gw_stream *s,
		struct gw_stream_event *ev)
{
	int r = gw_stream_next(s, ev);

	if (r)
		return r;
	if (ev->kind == GW_STREAM_TABLE)
		for (int i = 0; i < s->ram.table.n; i++)
			k->ram[i] =
				calloc(1, s->ram.table.entry[i].used_length);
	else if (ev->kind == GW_STREAM_PAGE)
		gw_read_bytes(s->r, k->ram[ev->block] + ev->addr, PAGE);
	else if (ev->kind == GW_STREAM_ZERO)
		memset(k->ram[ev->block] + ev->addr, 0, PAGE);
	else if (ev->kind == GW_STREAM_DELTA)
		again(k, ev);
	return r;
}

static void qemus_deltas_are_made_again(void)
{
	static const struct {
		const char *name;
		int deltas;
	} g[] = { { "xbzrle_pc_8m.mig", 1491 },
		  { "xbzrle_smallcache.mig", 1937 } };
	static struct gw_stream_event ev;
	static struct gw_stream s;
	const char *folder = test_vectors();

	if (!folder)
		SKIP("GW_TEST_VECTORS names no folder of captures");
	for (size_t i = 0; i < sizeof(g) / sizeof(g[0]); i++) {
		struct known k = { .same = 0 };
		struct gw_reader r;
		size_t len;
		uint8_t *b = test_load(folder, g[i].name, &len);

		REQUIRE(b);
		gw_reader_init_mem(&r, b, len);
		gw_stream_init(&s, &r, 0);
		do
			REQUIRE(!step(&k, &s, &ev));
		while (ev.kind != GW_STREAM_TAIL);
		printf("%s: %d deltas, %d the same\n", g[i].name, k.deltas,
		       k.same);
		CHECK(k.deltas == g[i].deltas && k.same == k.deltas);
		for (int n = 0; n < GW_MAX_TABLE_BLOCKS; n++)
			free(k.ram[n]);
		free(b);
	}
}

int main(void)
{
	page_g = guarded(PAGE);
	old_g = guarded(PAGE);
	new_g = guarded(PAGE);
	dst_g = guarded(PAGE);
	delta_end = guarded(4 * PAGE) + 4 * PAGE;
	RUN(edits_come_back);
	RUN(edges_come_back);
	RUN(long_lengths_are_lengths);
	RUN(decoder_rejects);
	RUN(nothing_is_written_beyond_the_page);
	RUN(garbage_is_judged_alike);
	RUN(which_variants);
	RUN(patterns_are_encoded);
	RUN(block_edges_are_encoded);
	RUN(edits_are_encoded);
	RUN(every_limit_is_kept);
	RUN(qemus_deltas_are_made_again);
	return test_done();
}
