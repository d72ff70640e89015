/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * xbzrle_test.c - the decoder against a slow obvious one, fed by a plain
 * encoder of maximal runs (which is what QEMU sends), and every rule of the
 * format with bytes that break it.
 */
#include "test.h"

#include <errno.h>
#include <sys/mman.h>

#include "page/xbzrle.h"

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

/* @size bytes that end where memory ends. */
static uint8_t *guarded(size_t size)
{
	size_t room = (size + PAGE - 1) / PAGE * PAGE;
	uint8_t *p = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + room, PAGE, PROT_NONE))
		abort();
	return p + room - size;
}

static uint8_t *page_g, *delta_end; /* page_g: one page, guarded */

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
		size_t len = test_rand(seed) % 4 ? test_rand(seed) % 9 :
						   test_rand(seed) % 300;

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

#define REJECT(...)                                                         \
	do {                                                                \
		static const uint8_t bad_[] = { __VA_ARGS__ };              \
		CHECK(!model(bad_, sizeof(bad_), scratch));                 \
		CHECK(decode(bad_, sizeof(bad_)) == -EPROTO);               \
	} while (0)

static void decoder_rejects(void)
{
	static uint8_t scratch[PAGE];

	REJECT(0);			       /* an unchanged run alone */
	REJECT(0x85);			       /* half a length */
	REJECT(5, 1);			       /* no content */
	REJECT(5, 0x81);		       /* the second length is cut */
	REJECT(5, 0x81, 0);		       /* no content */
	REJECT(0x80, 0x80, 1, 'x');	       /* three bytes of length */
	REJECT(0xff, 0xff, 1, 'x');
	REJECT(0, 0x81, 0x80, 'x');
	REJECT(0, 0, 1, 'x');		       /* an empty changed run */
	REJECT(0, 0x80, 0, 'x');
	REJECT(0, 1, 'x', 0, 1, 'y');	       /* an empty unchanged run */
	REJECT(0, 1, 'x', 0x80, 0, 1, 'y');
	REJECT(0, 3, 'x', 'y');		       /* beyond the delta */
	REJECT(0, 1, 'x', 1);		       /* a length left over */
	REJECT(0, 1, 'x', 1, 1);
	REJECT(0x81, 0x20, 1, 'x');	       /* unchanged 4097 */
	REJECT(0x80, 0x20, 1, 'x');	       /* 4096, then one more */
	REJECT(0xff, 0x1f, 2, 'x', 'y');       /* 4095, then two */
	REJECT(0xff, 0x7f, 1, 'x');	       /* the largest length */
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

int main(void)
{
	page_g = guarded(PAGE);
	delta_end = guarded(4 * PAGE) + 4 * PAGE;
	RUN(edits_come_back);
	RUN(edges_come_back);
	RUN(long_lengths_are_lengths);
	RUN(decoder_rejects);
	RUN(nothing_is_written_beyond_the_page);
	RUN(garbage_is_judged_alike);
	return test_done();
}
