/* SPDX-License-Identifier: BSD-3-Clause */
/* answer.c - see answer.h. */
#include "hint/answer.h"

#include <errno.h>

#include "base/reader.h"

#define MIN_PAGE_BITS 12
#define MAX_PAGE_BITS 16
#define MAX_ADDR      (1ULL << 52) /* more than any guest has */

void gw_answer_init(struct gw_answer *a, const struct gw_answer_ops *ops,
		    void *arg)
{
	a->ops = ops;
	a->arg = arg;
	a->skipped = a->frames = a->broken = a->bad = 0;
	a->used = 0;
}

/* A LEB128 number of pages that leaves *@page below @max. */
static uint64_t get_pages(struct gw_reader *r, uint64_t page, uint64_t max)
{
	uint64_t v = 0;
	uint8_t b = 0x80;

	for (unsigned int shift = 0; b & 0x80; shift += 7) {
		if (shift > 49) {
			gw_read_fail(r, EPROTO, "a number of pages is too long");
			return 0;
		}
		b = gw_read_u8(r);
		v |= (uint64_t)(b & 0x7f) << shift;
	}
	if (v > max - page) {
		gw_read_fail(r, EPROTO, "pages beyond any memory");
		return 0;
	}
	return v;
}

static void part(struct gw_answer *a, uint32_t id, const uint8_t *p, size_t n)
{
	uint64_t page = 0, max, len;
	struct gw_reader r;
	unsigned int bits;

	gw_reader_init_mem(&r, p, n);
	bits = gw_read_u8(&r);
	if (bits < MIN_PAGE_BITS || bits > MAX_PAGE_BITS) {
		a->bad++;
		return;
	}
	max = MAX_ADDR >> bits;
	while (r.pos < r.end) {
		page += get_pages(&r, page, max);
		len = get_pages(&r, page, max);
		if (gw_read_failed(&r) || !len) {
			a->bad++;
			return;
		}
		a->ops->range(a->arg, id, page << bits, len << bits);
		page += len;
	}
}

static void refused(struct gw_answer *a, uint32_t id, const uint8_t *p,
		    size_t n)
{
	char text[GW_ANSWER_TEXT + 1];

	if (n > GW_ANSWER_TEXT)
		n = GW_ANSWER_TEXT;
	/* A person will read it: plain characters only. */
	for (size_t i = 0; i < n; i++)
		text[i] = p[i] < 0x20 || p[i] > 0x7e ? '?' : (char)p[i];
	text[n] = '\0';
	a->ops->end(a->arg, id, text);
}

static void frame(struct gw_answer *a, const uint8_t *p, size_t n)
{
	uint32_t id = gfp_get32(p + 8);

	a->frames++;
	switch (p[5]) {
	case GFP_PART:
		part(a, id, p + GFP_HEAD, n - GFP_HEAD);
		break;
	case GFP_END:
		a->ops->end(a->arg, id, NULL);
		break;
	case GFP_REFUSED:
		refused(a, id, p + GFP_HEAD, n - GFP_HEAD);
		break;
	default:
		a->bad++;
	}
}

bool gw_answer_deaf(const struct gw_answer *a)
{
	return a->broken > GW_ANSWER_BROKEN || a->skipped > GW_ANSWER_SKIPPED;
}

/* No frame at @at. Return: where one may begin next. */
static size_t skip(struct gw_answer *a, size_t at)
{
	const uint8_t *p = a->buf + at, *next;
	size_t left = a->used - at, n;

	next = memchr(p + 1, GFP_MARK[0], left - 1);
	n = next ? (size_t)(next - p) : left;
	a->skipped += n;
	a->broken += left >= 4 && !memcmp(p, GFP_MARK, 4);
	return at + n;
}

/* The frames at the beginning of the buffer. */
static void take_frames(struct gw_answer *a)
{
	size_t at = 0;

	while (at < a->used && !gw_answer_deaf(a)) {
		int n = gfp_frame(a->buf + at, a->used - at);

		if (!n)
			break;
		if (n > 0)
			frame(a, a->buf + at, (size_t)n);
		at = n > 0 ? at + (size_t)n : skip(a, at);
	}
	a->used -= at;
	memmove(a->buf, a->buf + at, a->used);
}

void gw_answer_feed(struct gw_answer *a, const void *p, size_t n)
{
	const uint8_t *from = p;

	/* A whole frame fits: there is always room after taking frames. */
	while (n && !gw_answer_deaf(a)) {
		size_t room = sizeof(a->buf) - a->used;
		size_t step = n < room ? n : room;

		memcpy(a->buf + a->used, from, step);
		a->used += step;
		from += step;
		n -= step;
		take_frames(a);
	}
}
