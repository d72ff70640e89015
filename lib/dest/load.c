/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load.c - what arrives: `ram` sections go straight into the VM's memory,
 * records describe, verify and carry the device state. Parsing is wire/'s; the
 * order of things is checked here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/pause.h"
#include "dest/internal.h"
#include "page/xbzrle.h"

static int bad(struct gw_dest *d, struct gw_error *err)
{
	return gw_read_check(&d->in, err);
}

/* --- RAM ---------------------------------------------------------------- */

/* The table must be the one that was greeted: same names, same lengths. */
static int check_table(struct gw_dest *d, struct gw_error *err)
{
	const struct gw_ram_table *t = &d->ram.table;
	struct gw_ram *ram = &d->c.vm->ram;

	for (int i = 0; i < t->n; i++) {
		struct gw_ramblock *b = gw_ram_find(ram, t->entry[i].idstr);

		if (!b || b->used_length != t->entry[i].used_length)
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "RAM block '%s' of %llu bytes in the table is not the one that was agreed on",
					  t->entry[i].idstr,
					  (unsigned long long)
						  t->entry[i].used_length);
		d->place_ram.block[i] = b;
	}
	if (t->n != ram->nblocks)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the table has %d RAM blocks, %d were agreed on",
				  t->n, ram->nblocks);
	return 0;
}

/* From here on pages can be placed. */
static int bind_table(struct gw_dest *d, struct gw_error *err)
{
	const struct gw_dest_keeper *k = d->c.keeper;
	int r = check_table(d, err);

	if (!r && k)
		r = k->begin(k->arg, &d->ram.table, &d->place, err);
	if (r || !d->nchannels)
		return r;
	d->channels.place = d->place;
	d->channels.deltas = d->features & GW_FEATURE_XBZRLE;
	return gw_channels_start(&d->channels, d->join.chan, d->nchannels, err);
}

/* Where to read the page to; it holds zeros unless it came before. */
static int room(struct gw_dest *d, const struct gw_ram_record *rec,
		uint8_t **host, bool *fresh, struct gw_error *err)
{
	uint64_t page = rec->addr >> GW_PAGE_BITS;
	int r = gw_batch_at(&d->batch, rec->block, page, err);

	if (!r)
		r = d->place->ops->room(d->place, rec->block, page, 1, host,
					err);
	if (r)
		return r;
	*fresh = !*host;
	if (*fresh)
		*host = gw_batch_add(&d->batch, d->place, rec->block, page,
				     err);
	return *host ? 0 : -err->code;
}

static int place_page(struct gw_dest *d, const struct gw_ram_record *rec,
		      struct gw_error *err)
{
	uint8_t *host;
	bool fresh;
	int r = room(d, rec, &host, &fresh, err);

	if (r)
		return r;
	gw_read_bytes(&d->in, host, GW_PAGE_SIZE);
	d->now->normal++;
	return 0;
}

static int place_fill(struct gw_dest *d, const struct gw_ram_record *rec,
		      struct gw_error *err)
{
	uint8_t *host;
	bool fresh;
	int r;

	if (!rec->fill) {
		r = gw_batch_flush(&d->batch, err);
		if (!r)
			r = d->place->ops->zeros(d->place, rec->block,
						 rec->addr >> GW_PAGE_BITS, 1,
						 err);
	} else {
		r = room(d, rec, &host, &fresh, err);
	}
	if (r)
		return r;
	if (rec->fill)
		memset(host, rec->fill, GW_PAGE_SIZE);
	d->now->duplicate++;
	return 0;
}

static int not_agreed(const struct gw_ram_record *rec, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "RAM record 0x%x was not agreed on", rec->kind);
}

/* Against what is there; a page that never came is zeros. */
static int place_delta(struct gw_dest *d, const struct gw_ram_record *rec,
		       struct gw_error *err)
{
	uint8_t delta[GW_PAGE_SIZE], *host;
	uint16_t len;
	bool fresh;

	if (!(d->features & GW_FEATURE_XBZRLE))
		return not_agreed(rec, err);
	if (gw_ram_get_delta(&d->in, delta, &len))
		return bad(d, err);
	if (room(d, rec, &host, &fresh, err))
		return -err->code;
	if (fresh)
		memset(host, 0, GW_PAGE_SIZE);
	if (gw_xbzrle_decode(delta, len, host))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the delta of %u bytes for page 0x%llx of block '%s' is damaged",
				  len,
				  (unsigned long long)(rec->addr >> GW_PAGE_BITS),
				  d->ram.table.entry[rec->block].idstr);
	d->now->normal++;
	d->now->xbzrle_pages++;
	d->now->xbzrle_bytes += len;
	return 0;
}

static int sync_channels(struct gw_dest *d, const struct gw_ram_record *rec,
			 struct gw_error *err)
{
	if (!d->nchannels)
		return not_agreed(rec, err);
	d->flushed = true;
	return gw_batch_flush(&d->batch, err) ||
			       gw_channels_sync(&d->channels, err) ?
		       -err->code :
		       0;
}

static int ram_records(struct gw_dest *d, struct gw_error *err)
{
	struct gw_ram_record rec;
	int r = 0;

	while (!r) {
		if (gw_ram_get(&d->in, &d->ram, &rec))
			return bad(d, err);
		switch (rec.kind) {
		case GW_RAM_FLAG_MEM_SIZE:
			r = bind_table(d, err);
			break;
		case GW_RAM_FLAG_PAGE:
			r = place_page(d, &rec, err);
			break;
		case GW_RAM_FLAG_ZERO:
			r = place_fill(d, &rec, err);
			break;
		case GW_RAM_FLAG_XBZRLE:
			r = place_delta(d, &rec, err);
			break;
		case GW_RAM_FLAG_MULTIFD_FLUSH:
			r = sync_channels(d, &rec, err);
			break;
		case GW_RAM_FLAG_EOS:
			r = gw_batch_flush(&d->batch, err);
			if (!r && gw_section_get_footer(&d->in, d->section_id))
				r = bad(d, err);
			return r;
		default:
			return not_agreed(&rec, err);
		}
		gw_channels_count(&d->channels);
		gw_progress_tick(d->c.progress);
	}
	return r;
}

int gw_dest_out_of_order(struct gw_dest *d, uint8_t item, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "item 0x%02x in phase %d, where it is not possible",
			  item, (int)d->phase);
}

/* The last sync is over: whoever placed pages is gone. */
static int end_channels(struct gw_dest *d, struct gw_error *err)
{
	int r;

	if (d->nchannels && !d->flushed)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "RAM ends, but its %u channels were not waited for",
				  d->nchannels);
	r = gw_channels_finish(&d->channels, err);
	gw_channels_stop(&d->channels);
	return r;
}

int gw_dest_ram_section(struct gw_dest *d, uint8_t item, struct gw_error *err)
{
	struct gw_section s = { .idstr = "ram", .version_id = GW_RAM_VERSION };
	bool start = item == GW_ITEM_SECTION_START;
	int r;

	if (d->phase != (start ? GW_DEST_TABLE : GW_DEST_RAM))
		return gw_dest_out_of_order(d, item, err);
	if (start)
		gw_section_get_long(&d->in, &s);
	else
		s.id = gw_read_be32(&d->in);
	if (gw_read_failed(&d->in))
		return bad(d, err);
	if (strcmp(s.idstr, "ram") || s.version_id != GW_RAM_VERSION ||
	    (!start && s.id != d->section_id))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "section '%s' id %u version %u, only ram version %u is possible here",
				  s.idstr, s.id, s.version_id, GW_RAM_VERSION);
	d->section_id = s.id;
	d->flushed = false;
	r = ram_records(d, err);
	if (!r && item == GW_ITEM_SECTION_END)
		r = end_channels(d, err);
	if (r)
		return r;
	if (start && !d->ram.have_table)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "section ram starts without a block table");
	if (start)
		d->phase = GW_DEST_RAM;
	if (item == GW_ITEM_SECTION_END)
		d->phase = GW_DEST_DEVICE;
	else if (start)
		gw_progress_status(d->c.progress, GODWIT_STATUS_ACTIVE);
	else
		d->now->pass++;
	if (d->phase != GW_DEST_DEVICE)
		return 0;
	gw_pause_at(GW_PAUSE_DEST_RAM_COMPLETE);
	return gw_dest_load_begin(d, err);
}

/* --- records ------------------------------------------------------------ */

int gw_dest_extents(struct gw_dest *d, const struct gw_record *rec,
		   struct gw_error *err)
{
	struct gw_ramblock *b;
	uint32_t n;

	if (gw_record_get_extents(&d->in, rec, &d->c.vm->ram, &b, d->extents,
				  &n))
		return bad(d, err);
	if (d->phase > GW_DEST_RAM || d->c.keeper)
		return 0; /* only the first copy is counted */
	for (uint32_t i = 0; i < n; i++)
		d->now->populated += d->extents[i].len;
	return 0;
}

int gw_dest_collect(struct gw_dest *d, const struct gw_record *rec,
		    struct gw_dest_bytes *to, size_t others,
		    struct gw_error *err)
{
	if (rec->len > GW_RECORD_MAX_DEVICE ||
	    rec->len > GW_MAX_DEVICE_STATE - others - to->len)
		return gw_fail_as(err, GW_FAULT_INPUT, EMSGSIZE,
				  "%u bytes of device state after %zu: at most %u in all, %u at once",
				  rec->len, others + to->len,
				  GW_MAX_DEVICE_STATE, GW_RECORD_MAX_DEVICE);
	if (to->len + rec->len > to->cap) {
		size_t cap = to->cap ? to->cap * 2 : 2u << 20;
		void *p = realloc(to->p, cap);

		if (!p)
			return gw_fail(err, ENOMEM,
				       "no memory for %zu bytes of device state",
				       cap);
		to->p = p;
		to->cap = cap;
	}
	gw_read_bytes(&d->in, to->p + to->len, rec->len);
	if (gw_read_failed(&d->in))
		return bad(d, err);
	to->len += rec->len;
	return 0;
}

static int device(struct gw_dest *d, const struct gw_record *rec,
		  struct gw_error *err)
{
	int r = gw_dest_collect(d, rec, &d->device, 0, err);

	d->now->device_bytes = d->device.len;
	return r;
}

static int device_end(struct gw_dest *d, const struct gw_record *rec,
		      struct gw_error *err)
{
	uint64_t len, hash;

	if (d->verify && !d->now->verified)
		return gw_fail_as(err, GW_FAULT_VERIFY, EPROTO,
				  "verification was asked for, but the source sent no hashes");
	if (gw_dest_disks_check(d, err))
		return -err->code;
	if (d->phase != GW_DEST_DEVICE || rec->len != 16)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the device state ends before the RAM is complete");
	len = gw_read_be64(&d->in);
	hash = gw_read_be64(&d->in);
	if (gw_read_failed(&d->in))
		return bad(d, err);
	if (len != d->device.len ||
	    hash != XXH3_64bits(d->device.p, d->device.len))
		return gw_fail_as(err, GW_FAULT_INPUT, EBADMSG,
				  "the device state is damaged: %zu bytes came, %llu were sent%s",
				  d->device.len, (unsigned long long)len,
				  len == d->device.len ? ", hash differs" : "");
	return 0;
}

int gw_dest_record(struct gw_dest *d, struct gw_record *rec,
		   struct gw_error *err)
{
	struct gw_error said;
	bool not_here;

	if (gw_record_get(&d->in, rec))
		return bad(d, err);
	if (rec->type != GW_RECORD_ERROR)
		return 0;
	if (gw_record_get_error(&d->in, rec, "the source", &said, &not_here))
		return bad(d, err);
	d->source_owns = true; /* a source says ERROR only before GO */
	if (err)
		*err = said;
	return -said.code;
}

/* Return: 1 when the image is complete, 0 to go on, -errno. */
static int record(struct gw_dest *d, struct gw_error *err)
{
	struct gw_record rec;
	int r = gw_dest_record(d, &rec, err);

	if (r)
		return r;
	switch (rec.type) {
	case GW_RECORD_EXTENTS:
		return gw_dest_extents(d, &rec, err);
	case GW_RECORD_DISKS:
		return gw_dest_disks_serve(d, &rec, err);
	case GW_RECORD_DISKS_PROGRESS:
		return gw_dest_disks_progress(d, &rec, err);
	case GW_RECORD_DISKS_END:
		gw_read_skip(&d->in, rec.len);
		r = bad(d, err);
		return r ? r : gw_dest_disks_end(d, err);
	case GW_RECORD_STOPPED:
		gw_moment("STOPPED read");
		gw_read_skip(&d->in, rec.len);
		return bad(d, err);
	case GW_RECORD_VERIFY:
	case GW_RECORD_VERIFY_END:
		if (d->phase != GW_DEST_DEVICE)
			return gw_dest_out_of_order(d, GW_ITEM_RECORD, err);
		if (rec.type == GW_RECORD_VERIFY)
			return gw_dest_verify(d, &rec, err);
		gw_read_skip(&d->in, rec.len);
		r = bad(d, err);
		return r ? r : gw_dest_verify_end(d, err);
	case GW_RECORD_DEVICE:
		return device(d, &rec, err);
	case GW_RECORD_DEVICE_END:
		r = device_end(d, &rec, err);
		gw_moment("device state read");
		return r ? r : 1;
	}
	if (rec.mandatory)
		return gw_fail_as(err, GW_FAULT_INPUT, ENOTSUP,
				  "unknown record %u from the source",
				  rec.type);
	gw_read_skip(&d->in, rec.len);
	return bad(d, err);
}

int gw_dest_receive(struct gw_dest *d, struct gw_error *err)
{
	int r = 0;

	while (!r) {
		uint8_t item = gw_read_u8(&d->in);

		if (gw_read_failed(&d->in))
			return bad(d, err);
		if (item == GW_ITEM_RECORD)
			r = record(d, err);
		else if (item >= GW_ITEM_SECTION_START &&
			 item <= GW_ITEM_SECTION_END)
			r = gw_dest_ram_section(d, item, err);
		else
			r = gw_dest_out_of_order(d, item, err);
	}
	return r < 0 ? r : 0;
}
