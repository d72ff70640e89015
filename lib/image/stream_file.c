/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_file.c - pages of a stream file, by an index that is built while the
 * stream is read once: a word per page says where its last full record is.
 *
 *	0		never seen
 *	1		zero
 *	offset << 2 | 2	a page, at that byte of the file
 *	i << 2 | 3	deltas: delta[i] is the last of a ring
 *
 * A ring has the word that was there before the first delta (zero, a page, or
 * nothing) as its first element, then the deltas in stream order; the last
 * one's `next` is the first:
 *
 *	word --> last --> base --> delta --> delta ... --> last
 *
 * A full page or a zero ends it: the word is simply replaced.
 *
 * The index is lazily allocated memory, of which only the parts that were
 * written exist; `touched` has a bit per CHUNK pages so that a huge empty block
 * is walked in no time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/file.h"
#include "page/xbzrle.h"

enum { ABSENT, ZERO, PAGE, DELTAS };
#define KIND(word)  ((word) & 3)
#define VALUE(word) ((word) >> 2)

#define CHUNK 512u /* pages: one page of index */
#define MAX_IOV 512

struct block {
	uint64_t *word;
	uint64_t *touched;
	uint64_t npages;
};

struct delta {
	uint64_t at; /* the delta's file offset; the first: the page's word */
	uint64_t next;
	uint16_t len;
};

struct stream_file {
	struct gw_image_file f;
	struct block block[GW_MAX_TABLE_BLOCKS];
	struct delta *delta;
	uint64_t ndeltas, room;
};

static uint64_t index_size(uint64_t npages)
{
	return npages * sizeof(uint64_t);
}

static uint64_t touched_size(uint64_t npages)
{
	return (npages / CHUNK / 64 + 1) * sizeof(uint64_t);
}

static struct gw_image_file *new_stream(void)
{
	struct stream_file *s = calloc(1, sizeof(*s));

	return s ? &s->f : NULL;
}

static void close_stream(struct gw_image *img)
{
	struct stream_file *s = (struct stream_file *)img;

	for (int i = 0; i < img->desc.table.n; i++) {
		struct block *b = &s->block[i];

		gw_lazy_free(b->word, index_size(b->npages));
		gw_lazy_free(b->touched, touched_size(b->npages));
	}
	free(s->delta);
	free(s);
}

static int table(struct gw_image_file *f, struct gw_error *err)
{
	struct stream_file *s = (struct stream_file *)f;

	for (int i = 0; i < f->img.desc.table.n; i++) {
		struct block *b = &s->block[i];

		b->npages = gw_image_npages(&f->img, i);
		b->word = gw_lazy_alloc(index_size(b->npages));
		b->touched = gw_lazy_alloc(touched_size(b->npages));
		if (!b->word || !b->touched)
			return gw_fail(err, ENOMEM,
				       "no memory for an index of block '%s' with %llu pages",
				       f->img.desc.table.entry[i].idstr,
				       (unsigned long long)b->npages);
	}
	return 0;
}

/* --- the index grows ---------------------------------------------------- */

static uint64_t add_element(struct stream_file *s, uint64_t at, uint16_t len,
			    struct gw_error *err)
{
	if (s->ndeltas == s->room) {
		uint64_t room = s->room ? 2 * s->room : 256;
		struct delta *d = realloc(s->delta, room * sizeof(*d));

		if (!d) {
			gw_fail(err, ENOMEM, "no memory for %llu deltas",
				(unsigned long long)room);
			return UINT64_MAX;
		}
		s->delta = d;
		s->room = room;
	}
	s->delta[s->ndeltas] = (struct delta){ at, s->ndeltas, len };
	return s->ndeltas++;
}

static int add_delta(struct stream_file *s, uint64_t *word, uint64_t at,
		     uint16_t len, struct gw_error *err)
{
	uint64_t last, i;

	if (KIND(*word) == DELTAS)
		last = VALUE(*word);
	else
		last = add_element(s, *word, 0, err);
	i = last == UINT64_MAX ? last : add_element(s, at, len, err);
	if (i == UINT64_MAX)
		return -ENOMEM;
	s->delta[i].next = s->delta[last].next;
	s->delta[last].next = i;
	*word = i << 2 | DELTAS;
	return 0;
}

/* Whether a delta can be applied does not depend on the page: find out now,
 * where the place in the stream is known. */
static int try_delta(const struct gw_stream_event *ev, struct gw_error *err)
{
	uint8_t scratch[GW_PAGE_SIZE];

	memset(scratch, 0, sizeof(scratch));
	if (gw_xbzrle_decode(ev->delta, ev->delta_len, scratch))
		return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				  "a damaged XBZRLE delta of %u bytes",
				  ev->delta_len);
	return 0;
}

static int record(struct gw_image_file *f, const struct gw_stream_event *ev,
		  uint64_t at, struct gw_error *err)
{
	struct stream_file *s = (struct stream_file *)f;
	struct block *b = &s->block[ev->block];
	uint64_t page = ev->addr / GW_PAGE_SIZE;
	uint64_t chunk = page / CHUNK;
	int r;

	b->touched[chunk / 64] |= 1ULL << chunk % 64;
	if (ev->kind == GW_STREAM_PAGE) {
		b->word[page] = at << 2 | PAGE;
		return 0;
	}
	if (ev->kind == GW_STREAM_ZERO) {
		b->word[page] = ZERO;
		return 0;
	}
	r = try_delta(ev, err);
	return r ? r : add_delta(s, &b->word[page], at, ev->delta_len, err);
}

/* --- and is asked ------------------------------------------------------- */

static enum gw_page_state state_of(uint64_t word)
{
	switch (KIND(word)) {
	case ABSENT:
		return GW_PAGE_ABSENT;
	case ZERO:
		return GW_PAGE_ZERO;
	}
	return GW_PAGE_DATA;
}

/* Pages from @page on, at most @max, in chunks where nothing is. */
static uint64_t untouched(const struct block *b, uint64_t page, uint64_t max)
{
	uint64_t chunks, end;

	if (gw_bits_run(b->touched, page / CHUNK,
			(page + max - 1) / CHUNK - page / CHUNK + 1, &chunks))
		return 0;
	end = (page / CHUNK + chunks) * CHUNK;
	return end - page < max ? end - page : max;
}

static enum gw_page_state state(struct gw_image *img, int block,
				uint64_t page, uint64_t max, uint64_t *n)
{
	const struct block *b = &((struct stream_file *)img)->block[block];
	uint64_t len = untouched(b, page, max);
	enum gw_page_state s = len ? GW_PAGE_ABSENT : state_of(b->word[page]);

	while (len < max) {
		uint64_t more = s == GW_PAGE_ABSENT ?
					untouched(b, page + len, max - len) :
					0;

		if (!more && state_of(b->word[page + len]) != s)
			break;
		len += more ? more : 1;
	}
	*n = len;
	return s;
}

static int read_word(struct stream_file *s, uint64_t word, uint8_t *dst,
		     struct gw_error *err)
{
	if (KIND(word) == PAGE)
		return gw_input_read(s->f.fd, dst, GW_PAGE_SIZE, VALUE(word),
				     err);
	memset(dst, 0, GW_PAGE_SIZE);
	return 0;
}

static int read_deltas(struct stream_file *s, uint64_t last, uint8_t *dst,
		       struct gw_error *err)
{
	uint64_t i = s->delta[last].next;
	uint8_t delta[GW_PAGE_SIZE];
	int r = read_word(s, s->delta[i].at, dst, err);

	while (!r && i != last) {
		const struct delta *d = &s->delta[i = s->delta[i].next];

		r = gw_input_read(s->f.fd, delta, d->len, d->at, err);
		if (!r && gw_xbzrle_decode(delta, d->len, dst))
			r = gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				       "the delta at byte %llu of the file is damaged",
				       (unsigned long long)d->at);
	}
	return r;
}

/*
 * Pages that follow each other in the file, but for the headers between them,
 * in one call: the headers go to a bin. Return: how many pages, or -errno.
 */
static int read_pages(struct stream_file *s, const uint64_t *word, uint32_t n,
		      uint8_t *dst, struct gw_error *err)
{
	uint8_t bin[8 + 1 + GW_IDSTR_MAX];
	struct iovec iov[MAX_IOV];
	uint64_t end = VALUE(word[0]);
	int niov = 0, r;
	uint32_t i;

	for (i = 0; i < n && niov + 2 <= MAX_IOV; i++) {
		uint64_t at = VALUE(word[i]);

		if (KIND(word[i]) != PAGE || at < end ||
		    at - end > sizeof(bin))
			break;
		if (at > end)
			iov[niov++] = (struct iovec){ bin, at - end };
		iov[niov++] = (struct iovec){ dst, GW_PAGE_SIZE };
		dst += GW_PAGE_SIZE;
		end = at + GW_PAGE_SIZE;
	}
	r = gw_input_readv(s->f.fd, iov, niov, VALUE(word[0]), err);
	return r ? r : (int)i;
}

static int read_data(struct gw_image *img, int block, uint64_t page,
		     uint32_t n, void *dst, struct gw_error *err)
{
	struct stream_file *s = (struct stream_file *)img;
	const uint64_t *word = s->block[block].word + page;
	uint8_t *to = dst;

	while (n) {
		int r = 1, e = 0;

		switch (KIND(*word)) {
		case PAGE:
			r = e = read_pages(s, word, n, to, err);
			break;
		case DELTAS:
			e = read_deltas(s, VALUE(*word), to, err);
			break;
		default:
			memset(to, 0, GW_PAGE_SIZE);
		}
		if (e < 0)
			return e;
		word += r;
		n -= (uint32_t)r;
		to += (uint64_t)r * GW_PAGE_SIZE;
	}
	return 0;
}

const struct gw_image_kind gw_image_stream = {
	.ops = { .state = state, .read = read_data, .close = close_stream },
	.format = "stream",
	.new = new_stream,
	.table = table,
	.record = record,
};
