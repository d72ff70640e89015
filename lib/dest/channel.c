/* SPDX-License-Identifier: BSD-3-Clause */
/* channel.c - see channel.h. */
#include "dest/channel.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "page/inflate.h"
#include "page/xbzrle.h"

/* --- bytes --------------------------------------------------------------- */

static ssize_t read_some(struct gw_channel *ch, const struct iovec *iov,
			 int niov, struct gw_error *err)
{
	ssize_t n = gw_channels_readv(ch->all, ch->chan, iov, niov, err);

	ch->lost = n <= 0;
	return n;
}

/* A header, also one that was begun before. Return: 0; 1: the end, where a
 * packet could begin; -errno. */
static int read_head(struct gw_channel *ch, struct gw_error *err)
{
	while (ch->nhead < sizeof(ch->head)) {
		struct iovec iov = { ch->head + ch->nhead,
				     sizeof(ch->head) - ch->nhead };
		ssize_t n = read_some(ch, &iov, 1, err);

		if (n < 0)
			return (int)n;
		if (!n && !ch->nhead)
			return 1;
		if (!n)
			return gw_fail(err, ECONNRESET,
				       "the connection ends within a header");
		ch->nhead += (size_t)n;
	}
	ch->nhead = 0;
	return 0;
}

int gw_channel_get(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_reader in;
	int r = read_head(ch, err);

	if (r)
		return r;
	gw_reader_init_mem(&in, ch->head, sizeof(ch->head));
	return gw_multifd_get_packet(&in, &ch->p) ? gw_read_check(&in, err) : 0;
}

/* All of @iov, which is used up. */
static int read_payload(struct gw_channel *ch, struct iovec *iov, int niov,
			struct gw_error *err)
{
	while (niov) {
		ssize_t n = read_some(ch, iov, niov, err);

		if (n < 0)
			return (int)n;
		if (!n)
			return gw_fail(err, ECONNRESET,
				       "the connection ends within a packet");
		while (niov && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			niov--;
		}
		if (n) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

/* --- the pages of a packet ----------------------------------------------- */

/* Normal or zero pages from the @i-th on that follow each other. */
static uint32_t run_at(const struct gw_multifd_packet *p, uint32_t i,
		       uint32_t end)
{
	uint32_t n = 1;

	while (i + n < end &&
	       p->offset[i + n] == p->offset[i] + (uint64_t)n * GW_PAGE_SIZE)
		n++;
	return n;
}

/* Which block; are all pages within it? */
static int check_pages(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_ram_table *t = ch->all->place->table;
	const struct gw_multifd_packet *p = &ch->p;

	if (ch->block < 0 || strcmp(t->entry[ch->block].idstr, p->idstr))
		ch->block = gw_ram_table_find(t, p->idstr);
	if (ch->block < 0)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "there is no such block");
	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		if (p->offset[i] >= t->entry[ch->block].used_length)
			return gw_fail_as(
				err, GW_FAULT_INPUT, EPROTO,
				"a page at 0x%llx of a block with 0x%llx bytes",
				(unsigned long long)p->offset[i],
				(unsigned long long)t->entry[ch->block]
					.used_length);
	return 0;
}

/* Pages [@i, @i + @n) of the packet, which follow each other: where they are
 * to be read to, in place or at first into ch->pages. */
static int room_for(struct gw_channel *ch, uint32_t i, uint32_t n,
		    uint8_t **host, struct gw_error *err)
{
	struct gw_place *place = ch->all->place;
	const struct gw_multifd_packet *p = &ch->p;
	int r = 0;

	*host = NULL;
	if (place->ops->room)
		r = place->ops->room(place, ch->block,
				     p->offset[i] >> GW_PAGE_BITS, n, host,
				     err);
	if (r || *host)
		return r;
	*host = ch->pages + (size_t)i * GW_PAGE_SIZE;
	/* What a delta is against. */
	if (p->flags & GW_MULTIFD_DELTA)
		memset(*host, 0, (size_t)n * GW_PAGE_SIZE);
	return 0;
}

/* Where the normal pages are read to: @iov and *@niov have it, too, in as few
 * pieces as possible. */
static int make_room(struct gw_channel *ch, int *niov, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	struct iovec *last = NULL;
	uint8_t *host;
	uint32_t n;

	*niov = 0;
	for (uint32_t i = 0; i < p->normal; i += n) {
		n = run_at(p, i, p->normal);
		if (room_for(ch, i, n, &host, err))
			return -err->code;
		if (last && host == (uint8_t *)last->iov_base + last->iov_len) {
			last->iov_len += (size_t)n * GW_PAGE_SIZE;
		} else {
			last = &ch->iov[(*niov)++];
			*last = (struct iovec){ host,
						(size_t)n * GW_PAGE_SIZE };
		}
		for (uint32_t k = 0; k < n; k++)
			ch->page[i + k] = host + (size_t)k * GW_PAGE_SIZE;
	}
	return 0;
}

static int inflate_pages(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	bool zstd = p->flags & GW_MULTIFD_ZSTD;
	struct gw_inflate **z = zstd ? &ch->zstd : &ch->zlib;

	/* Which method comes is not known before. */
	if (!*z)
		*z = gw_inflate_new(zstd ? "zstd" : "zlib", err);
	if (!*z || gw_inflate_pages(*z, ch->payload, p->payload, ch->page,
				    p->normal, err))
		return -err->code;
	__atomic_store_n(&ch->method, zstd ? "zstd" : "zlib", __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->packed, p->normal, __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->packed_in, (uint64_t)p->normal * GW_PAGE_SIZE,
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->packed_out, p->payload, __ATOMIC_RELAXED);
	return 0;
}

/* One be16 per page, then so many bytes for each. */
static int apply_deltas(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	const uint8_t *at = ch->payload + 2 * (size_t)p->normal;
	const uint8_t *end = ch->payload + p->payload;

	for (uint32_t i = 0; i < p->normal; i++) {
		uint16_t len = gw_get_be16(ch->payload + 2 * (size_t)i);

		if (!len || len > GW_PAGE_SIZE || len > end - at)
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "a delta of %u bytes for the page at "
					  "0x%llx where %td are left",
					  len, (unsigned long long)p->offset[i],
					  end - at);
		if (len == GW_PAGE_SIZE)
			memcpy(ch->page[i], at, len);
		else if (gw_xbzrle_decode(at, len, ch->page[i]))
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "the delta of %u bytes for the page "
					  "at 0x%llx is damaged",
					  len,
					  (unsigned long long)p->offset[i]);
		at += len;
		if (len == GW_PAGE_SIZE)
			continue;
		__atomic_fetch_add(&ch->deltas, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(&ch->delta_bytes, len, __ATOMIC_RELAXED);
	}
	if (at != end)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%td bytes behind the last delta", end - at);
	return 0;
}

/* Read what belongs to the normal pages and make it pages. */
static int get_pages(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	struct iovec whole = { ch->payload, p->payload };
	int niov, r = make_room(ch, &niov, err);

	if (r)
		return r;
	if (!(p->flags & (GW_MULTIFD_COMPRESSION | GW_MULTIFD_DELTA)))
		return read_payload(ch, ch->iov, niov, err);
	r = read_payload(ch, &whole, 1, err);
	if (r)
		return r;
	return p->flags & GW_MULTIFD_DELTA ? apply_deltas(ch, err)
					   : inflate_pages(ch, err);
}

/* Those that were not read in place. */
static int put_pages(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_place *place = ch->all->place;
	const struct gw_multifd_packet *p = &ch->p;
	uint32_t n;
	int r = 0;

	for (uint32_t i = 0; i < p->normal && !r; i += n) {
		n = run_at(p, i, p->normal);
		if (ch->page[i] == ch->pages + (size_t)i * GW_PAGE_SIZE)
			r = place->ops->pages(place, ch->block,
					      p->offset[i] >> GW_PAGE_BITS, n,
					      ch->page[i], err);
	}
	return r;
}

static int put_zeros(struct gw_channel *ch, struct gw_error *err)
{
	struct gw_place *place = ch->all->place;
	const struct gw_multifd_packet *p = &ch->p;
	uint32_t end = p->normal + p->zero, n;
	int r = 0;

	for (uint32_t i = p->normal; i < end && !r; i += n) {
		n = run_at(p, i, end);
		r = place->ops->zeros(place, ch->block,
				      p->offset[i] >> GW_PAGE_BITS, n, err);
	}
	return r;
}

int gw_channel_place(struct gw_channel *ch, struct gw_error *err)
{
	const struct gw_multifd_packet *p = &ch->p;
	int r;

	if (p->flags & GW_MULTIFD_DELTA &&
	    (!ch->all->deltas || !ch->all->place->ops->room))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "deltas were not agreed on");
	r = check_pages(ch, err);
	if (!r && p->normal)
		r = get_pages(ch, err);
	if (!r && p->normal && ch->all->place->ops->pages)
		r = put_pages(ch, err);
	if (!r && p->zero)
		r = put_zeros(ch, err);
	if (r)
		return r;
	__atomic_fetch_add(&ch->normal, p->normal, __ATOMIC_RELAXED);
	__atomic_fetch_add(&ch->zero, p->zero, __ATOMIC_RELAXED);
	return 0;
}
