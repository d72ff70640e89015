/* SPDX-License-Identifier: BSD-3-Clause */
/* multifd.c - see multifd.h. */
#include "wire/multifd.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define NAME_SIZE 256u

static const uint8_t zeros[NAME_SIZE];

static void put_magic(struct gw_writer *w)
{
	gw_write_be32(w, GW_MULTIFD_MAGIC);
	gw_write_be32(w, GW_MULTIFD_VERSION);
}

static int get_magic(struct gw_reader *r, const char *what)
{
	uint32_t magic = gw_read_be32(r), version = gw_read_be32(r);

	if (gw_read_failed(r))
		return -r->err.code;
	if (magic != GW_MULTIFD_MAGIC)
		return gw_read_fail(r, EPROTO,
				    "%s begins with 0x%08x, not 0x%08x: not a multifd channel",
				    what, magic, GW_MULTIFD_MAGIC);
	if (version != GW_MULTIFD_VERSION)
		return gw_read_fail(r, EPROTO,
				    "%s has version %u, only %u is known", what,
				    version, GW_MULTIFD_VERSION);
	return 0;
}

void gw_multifd_put_hello(struct gw_writer *w, const struct gw_multifd_hello *h)
{
	put_magic(w);
	gw_write_bytes(w, h->uuid, sizeof(h->uuid));
	gw_write_u8(w, h->id);
	gw_write_bytes(w, zeros, 39);
}

int gw_multifd_get_hello(struct gw_reader *r, unsigned int channels,
			 struct gw_multifd_hello *h)
{
	if (get_magic(r, "a multifd hello"))
		return -r->err.code;
	gw_read_bytes(r, h->uuid, sizeof(h->uuid));
	h->id = gw_read_u8(r);
	gw_read_skip(r, 39);
	if (!gw_read_failed(r) && h->id >= channels)
		return gw_read_fail(r, EPROTO,
				    "multifd channel %u of %u: set multifd-channels to the same number on both sides",
				    h->id, channels);
	return -r->err.code;
}

void gw_multifd_put_packet(struct gw_writer *w,
			   const struct gw_multifd_packet *p)
{
	uint32_t n = p->normal + p->zero;
	size_t len = strlen(p->idstr);
	uint8_t offset[8 * GW_MULTIFD_PAGES];

	put_magic(w);
	gw_write_be32(w, p->flags);
	/* How many pages the arrays have room for; none with a SYNC. */
	gw_write_be32(w, p->flags & GW_MULTIFD_SYNC && !n ? 0 :
							   GW_MULTIFD_PAGES);
	gw_write_be32(w, p->normal);
	gw_write_be32(w, p->payload);
	gw_write_be64(w, p->number);
	gw_write_be32(w, p->zero);
	gw_write_bytes(w, zeros, 28);
	gw_write_bytes(w, p->idstr, len);
	gw_write_bytes(w, zeros, NAME_SIZE - len);
	memset(offset, 0, sizeof(offset));
	for (uint32_t i = 0; i < n; i++)
		gw_put_be64(offset + 8 * i, p->offset[i]);
	gw_write_bytes(w, offset, sizeof(offset));
}

static int check_flags(struct gw_reader *r, uint32_t flags)
{
	uint32_t method = flags & GW_MULTIFD_COMPRESSION;

	if (flags & GW_MULTIFD_DEVICE_STATE)
		return gw_read_fail(r, ENOTSUP,
				    "a multifd packet with device state (vfio): it cannot be carried");
	if (flags & ~(uint32_t)(GW_MULTIFD_SYNC | GW_MULTIFD_COMPRESSION |
				GW_MULTIFD_DELTA) ||
	    (flags & GW_MULTIFD_DELTA && flags != GW_MULTIFD_DELTA))
		return gw_read_fail(r, EPROTO,
				    "a multifd packet with unknown flags 0x%x",
				    flags);
	if (method != GW_MULTIFD_NOCOMP && method != GW_MULTIFD_ZLIB &&
	    method != GW_MULTIFD_ZSTD)
		return gw_read_fail(r, ENOTSUP,
				    "a multifd packet compressed by method 0x%x: set multifd-compression to none, zlib or zstd",
				    method);
	return 0;
}

static int check_deltas(struct gw_reader *r, const struct gw_multifd_packet *p)
{
	if (p->normal && !p->zero && p->payload >= 3 * p->normal &&
	    p->payload <= (2 + GW_PAGE_SIZE) * p->normal)
		return 0;
	return gw_read_fail(r, EPROTO,
			    "a multifd packet of %u deltas and %u zero pages with %u bytes of payload: 3 to %u per delta and no zero pages are possible",
			    p->normal, p->zero, p->payload, 2 + GW_PAGE_SIZE);
}

static int check_counts(struct gw_reader *r, struct gw_multifd_packet *p,
			uint32_t room)
{
	uint32_t want;

	/* In this order, so that no sum overflows. */
	if (room > GW_MULTIFD_PAGES || p->normal > room ||
	    p->zero > room - p->normal)
		return gw_read_fail(r, EPROTO,
				    "a multifd packet of %u normal and %u zero pages with room for %u: at most %u are possible",
				    p->normal, p->zero, room, GW_MULTIFD_PAGES);
	if (p->flags & GW_MULTIFD_DELTA)
		return check_deltas(r, p);
	/* QEMU before 9.0 leaves payload and name as they were in the packet
	 * before; nothing follows. Not only with SYNC: when that went with the
	 * pages before it, a packet without anything comes behind. */
	if (!p->normal && (p->flags & GW_MULTIFD_SYNC || !p->zero))
		p->payload = 0;
	want = p->normal * GW_PAGE_SIZE;
	if (p->flags & GW_MULTIFD_COMPRESSION ?
		    p->payload > GW_MULTIFD_MAX_PAYLOAD ||
			    !p->payload != !p->normal :
		    p->payload != want)
		return gw_read_fail(r, EPROTO,
				    "a multifd packet of %u pages with %u bytes of payload: uncompressed it must have %u, compressed at most %u, and 0 only without pages",
				    p->normal, p->payload, want,
				    GW_MULTIFD_MAX_PAYLOAD);
	return 0;
}

static int get_idstr(struct gw_reader *r, struct gw_multifd_packet *p)
{
	gw_read_bytes(r, p->idstr, NAME_SIZE);
	if (gw_read_failed(r))
		return -r->err.code;
	if (p->idstr[NAME_SIZE - 1])
		return gw_read_fail(r, EPROTO,
				    "a multifd packet whose block name does not end");
	if (p->normal + p->zero && !p->idstr[0])
		return gw_read_fail(r, EPROTO,
				    "a multifd packet with pages of a block without name");
	if (!(p->normal + p->zero)) /* stale, see check_counts() */
		memset(p->idstr, 0, sizeof(p->idstr));
	return 0;
}

static int get_offsets(struct gw_reader *r, struct gw_multifd_packet *p)
{
	uint32_t n = p->normal + p->zero;

	for (uint32_t i = 0; i < n; i++) {
		p->offset[i] = gw_read_be64(r);
		if (p->offset[i] % GW_PAGE_SIZE ||
		    p->offset[i] >= GW_RAM_MAX_LENGTH)
			return gw_read_fail(r, EPROTO,
					    "a multifd packet with a page at 0x%llx of block '%s': no multiple of %u below 0x%llx",
					    (unsigned long long)p->offset[i],
					    p->idstr, GW_PAGE_SIZE,
					    GW_RAM_MAX_LENGTH);
	}
	/* The array always comes whole. */
	gw_read_skip(r, 8 * (uint64_t)(GW_MULTIFD_PAGES - n));
	memset(p->offset + n, 0, sizeof(p->offset[0]) * (GW_MULTIFD_PAGES - n));
	return -r->err.code;
}

int gw_multifd_get_packet(struct gw_reader *r, struct gw_multifd_packet *p)
{
	uint32_t room;

	if (get_magic(r, "a multifd packet"))
		return -r->err.code;
	p->flags = gw_read_be32(r);
	if (gw_read_failed(r) || check_flags(r, p->flags))
		return -r->err.code;
	room = gw_read_be32(r);
	p->normal = gw_read_be32(r);
	p->payload = gw_read_be32(r);
	p->number = gw_read_be64(r);
	p->zero = gw_read_be32(r);
	gw_read_skip(r, 28); /* reserved */
	if (gw_read_failed(r) || check_counts(r, p, room))
		return -r->err.code;
	if (get_idstr(r, p))
		return -r->err.code;
	return get_offsets(r, p);
}
