/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pass.c - what one pass does: scan, drain, send. In that order, always: a
 * page that a disk transfer had pinned before the scan can change after it
 * without being reported; drain() returns when all of those have landed, and
 * only then is the page read (docs/internals/data-flow.md, "The pass rule").
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/pause.h"
#include "base/scope.h"
#include "base/trace.h"
#include "page/hash.h"
#include "page/zero.h"
#include "ram/extents.h"
#include "source/internal.h"
#include "wire/section.h"

/* Between two scans while the VM runs: each makes the guest fault again. */
#define MIN_SCAN_PERIOD_NS (50 * GW_NS_PER_MS)
#define RAM_SECTION_ID	   1u

/* Sleep @ns, less if cancelled (the next peer_check finds out). */
static void rest(struct gw_source *s, int64_t ns)
{
	struct pollfd p = { .fd = gw_cancel_fd(s->c.cancel), .events = POLLIN };
	struct timespec t = { ns / GW_NS_PER_S, ns % GW_NS_PER_S };

	ppoll(&p, 1, &t, NULL);
}

/* Let the limiter hold us back for @nbytes just sent, answering the peer. */
static int throttle(struct gw_source *s, uint64_t nbytes, struct gw_error *err)
{
	int64_t wait = s->unlimited ? 0 : gw_limit_spend(&s->limit, nbytes);

	while (wait > 0) {
		int64_t step = wait < 20 * GW_NS_PER_MS ? wait :
							   20 * GW_NS_PER_MS;
		int r;

		rest(s, step);
		wait -= step;
		r = gw_source_peer_check(s, err);
		if (r)
			return r;
		gw_progress_tick(s->c.progress);
	}
	return 0;
}

/* The last word before an answer, which may be here before we look. */
int gw_source_flush_question(struct gw_source *s, struct gw_error *err)
{
	if (gw_write_flush(&s->out, err)) {
		gw_source_peer_reason(s, err);
		return -err->code;
	}
	s->now->transferred = gw_chan_bytes_written(s->c.chan);
	return 0;
}

int gw_source_flush(struct gw_source *s, struct gw_error *err)
{
	uint64_t before = gw_chan_bytes_written(s->c.chan), sent;
	int64_t t0 = gw_now_ns();
	int r = gw_write_flush(&s->out, err);

	if (r) {
		gw_source_peer_reason(s, err);
		return -err->code;
	}
	sent = gw_chan_bytes_written(s->c.chan) - before;
	s->now->transferred = gw_chan_bytes_written(s->c.chan);
	r = throttle(s, sent, err);
	s->pass_bytes += sent;
	s->pass_ns += gw_now_ns() - t0;
	if (!r)
		r = gw_source_peer_check(s, err);
	gw_progress_tick(s->c.progress);
	return r;
}

int gw_source_section(struct gw_source *s, enum gw_item item,
		      struct gw_error *err)
{
	static const struct gw_section ram = { .id = RAM_SECTION_ID,
					       .idstr = "ram",
					       .version_id = GW_RAM_VERSION };

	if (item == GW_ITEM_SECTION_START)
		gw_section_put_long(&s->out, item, &ram);
	else
		gw_section_put_short(&s->out, item, RAM_SECTION_ID);
	s->in_section = true;
	return gw_write_check(&s->out, err);
}

void gw_source_section_end(struct gw_source *s)
{
	gw_ram_put_eos(&s->out);
	gw_section_put_footer(&s->out, RAM_SECTION_ID);
	s->in_section = false;
}

int gw_source_pass_scan(struct gw_source *s, struct gw_error *err)
{
	int r = gw_track_scan(s->track, err);

	s->last_scan_ns = gw_now_ns();
	s->now->remaining = gw_ram_dirty_pages(&s->c.vm->ram) * GW_PAGE_SIZE;
	GW_TRACE2(scan, s->now->pass, s->now->remaining);
	return r;
}

int gw_source_pass_pace(struct gw_source *s, struct gw_error *err)
{
	int64_t wait = s->last_scan_ns + MIN_SCAN_PERIOD_NS - gw_now_ns();

	if (wait > 0)
		rest(s, wait);
	return gw_source_peer_check(s, err);
}

/* --- sending ------------------------------------------------------------ */

static void send_page(struct gw_source *s, struct gw_ramblock *b,
		      uint64_t page)
{
	uint64_t addr = page << GW_PAGE_BITS;
	const uint8_t *p = b->host + addr;

	/*
	 * A running guest may change the page between the test and the write
	 * to the channel: then it is dirty again and will be sent again.
	 */
	if (gw_page_is_zero(p)) {
		gw_ram_put_zero(&s->out, &s->encoder, b->idstr, addr);
		s->now->duplicate++;
	} else {
		gw_ram_put_page(&s->out, &s->encoder, b->idstr, addr,
				p);
		s->now->normal++;
		if (s->verify)
			gw_bitmap_set(&b->placed, page);
	}
}

/* A run is at most 64 pages: flush before the iovecs are full, so that
 * limiter, cancel and the peer are looked at. */
static bool is_full(const struct gw_source *s)
{
	return s->out.niov > GW_WRITER_IOV - 2 * 64 - 2 ||
	       s->out.used > GW_WRITER_HEAD / 2;
}

static int send_block(struct gw_source *s, struct gw_ramblock *b,
		      struct gw_error *err)
{
	uint64_t at = 0, first, n;

	while ((n = gw_bitmap_take_run(&b->dirty, at, &first))) {
		for (uint64_t i = 0; i < n; i++)
			send_page(s, b, first + i);
		at = first + n;
		s->now->remaining -= n * GW_PAGE_SIZE;
		if (is_full(s)) {
			int r = gw_source_flush(s, err);

			if (r)
				return r;
			gw_pause_at(GW_PAUSE_SOURCE_BULK);
		}
	}
	return 0;
}

/* Zero at the destination what was sent of the hole [@at, @end), unread. */
static int send_hole(struct gw_source *s, struct gw_ramblock *b, uint64_t at,
		     uint64_t end, struct gw_error *err)
{
	uint64_t first, n;
	int r = 0;

	while (!r && at < end &&
	       (n = gw_bitmap_next_run(&b->placed, at, 64, &first)) &&
	       first < end) {
		at = first + n < end ? first + n : end;
		for (uint64_t page = first; page < at; page++) {
			if (gw_bitmap_clear(&b->dirty, page))
				s->now->remaining -= GW_PAGE_SIZE;
			gw_ram_put_zero(&s->out, &s->encoder, b->idstr,
					page << GW_PAGE_BITS);
			s->now->duplicate++;
		}
		if (is_full(s))
			r = gw_source_flush(s, err);
	}
	return r;
}

/*
 * Pages that were sent and are holes now: the guest gave them back (balloon,
 * free-page reporting). No tracker reports that, for nothing was written, and
 * the guest has no use for what they held; but before all RAM is compared
 * they have to be zero on the other side too.
 */
int gw_source_pass_holes(struct gw_source *s, struct gw_error *err)
{
	struct gw_ram *ram = &s->c.vm->ram;
	int r = 0;

	for (int i = 0; i < ram->nblocks && !r; i++) {
		struct gw_ramblock *b = &ram->block[i];
		uint64_t at = 0, start, len;

		while (at < b->used_length && !r) {
			r = gw_extent_next(b, at, &start, &len, err);
			if (!r && !len)
				start = b->used_length;
			if (!r)
				r = send_hole(s, b, at >> GW_PAGE_BITS,
					      start >> GW_PAGE_BITS, err);
			at = start + len;
		}
	}
	return r;
}

/* A pass of a few pages says little: it only filled a socket buffer. */
static void measure(struct gw_source *s)
{
	if (s->pass_bytes && (!s->bandwidth || s->pass_ns > GW_NS_PER_MS))
		s->bandwidth = (uint64_t)((double)s->pass_bytes * 1e9 /
					  (double)(s->pass_ns + 1));
}

/* Send what the bitmaps hold as one PART (or whatever section is open). */
int gw_source_pass_send(struct gw_source *s, struct gw_error *err)
{
	int r = 0;

	s->pass_bytes = 0;
	s->pass_ns = 0;
	for (int i = 0; i < s->c.vm->ram.nblocks && !r; i++)
		r = send_block(s, &s->c.vm->ram.block[i], err);
	if (r)
		return r;
	gw_source_section_end(s);
	r = gw_source_flush(s, err);
	measure(s);
	return r;
}

/* What a scan found while the VM runs: drain, then send it as one PART. */
int gw_source_pass_part(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	int r = vm->info.direct_io ? vm->ops->drain(vm, err) : 0;

	if (!r)
		r = gw_source_section(s, GW_ITEM_SECTION_PART, err);
	return r ? r : gw_source_pass_send(s, err);
}

/* --- the bulk pass ------------------------------------------------------ */

/* Tell the destination what is coming, mark it dirty, count the rest. */
static int mark_extents(struct gw_source *s, struct gw_ramblock *b,
			struct gw_extent *e, struct gw_error *err)
{
	uint64_t at = 0, populated = 0;
	uint32_t n = 0;

	for (;;) {
		uint64_t start, len;
		int r = gw_extent_next(b, at, &start, &len, err);

		if (r)
			return r;
		if (n == GW_RECORD_MAX_EXTENTS || (!len && n)) {
			gw_record_put_extents(&s->out, b, e, n);
			n = 0;
		}
		if (!len)
			break;
		e[n++] = (struct gw_extent){ start, len };
		gw_bitmap_set_range(&b->dirty, start >> GW_PAGE_BITS,
				    len >> GW_PAGE_BITS);
		populated += len;
		at = start + len;
	}
	s->now->populated += populated;
	s->now->skipped += (b->used_length - populated) >> GW_PAGE_BITS;
	return 0;
}

/*
 * Every data extent of the file, not what a first scan reports: parts of a
 * VM's RAM that godwit placed (it arrived by migration) are unknown to QEMU's
 * page tables, and no scan reports them.
 */
int gw_source_pass_first(struct gw_source *s, struct gw_error *err)
{
	gw_autofree struct gw_extent *e =
		calloc(GW_RECORD_MAX_EXTENTS, sizeof(*e));
	struct gw_ram *ram = &s->c.vm->ram;
	int r;

	if (!e)
		return gw_fail(err, ENOMEM, "no memory for a list of extents");
	r = gw_track_start(s->track, err);
	s->last_scan_ns = gw_now_ns();
	if (!r && s->c.vm->info.direct_io)
		r = s->c.vm->ops->drain(s->c.vm, err);
	s->now->pass = 1;
	for (int i = 0; i < ram->nblocks && !r; i++)
		r = mark_extents(s, &ram->block[i], e, err);
	if (!r)
		r = gw_source_section(s, GW_ITEM_SECTION_PART, err);
	if (r)
		return r;
	s->now->remaining = gw_ram_dirty_pages(ram) * GW_PAGE_SIZE;
	return gw_source_pass_send(s, err);
}

/* --- verification ------------------------------------------------------- */

static int verify_block(struct gw_source *s, struct gw_ramblock *b,
			struct gw_error *err)
{
	uint64_t npages = gw_ramblock_npages(b), start, len;
	uint64_t hash[GW_VERIFY_CHUNK];

	for (uint64_t page = 0; page < npages; page += GW_VERIFY_CHUNK) {
		uint32_t n = npages - page < GW_VERIFY_CHUNK ?
				     (uint32_t)(npages - page) :
				     GW_VERIFY_CHUNK;
		bool any;
		int r = gw_page_hash_range(b, page, n, hash, &any, err);

		if (r)
			return r;
		if (any) {
			gw_record_put_verify(&s->out, b, page, hash, n);
			r = gw_source_flush(s, err);
		} else { /* jump over holes */
			r = gw_extent_next(b, page << GW_PAGE_BITS, &start,
					   &len, err);
			if (!len)
				page = npages;
			else if (start >> GW_PAGE_BITS > page + n)
				page = (start >> GW_PAGE_BITS) /
					       GW_VERIFY_CHUNK *
					       GW_VERIFY_CHUNK -
				       GW_VERIFY_CHUNK;
		}
		if (r)
			return r;
	}
	return 0;
}

int gw_source_verify(struct gw_source *s, struct gw_error *err)
{
	struct gw_ram *ram = &s->c.vm->ram;
	int r = 0;

	for (int i = 0; i < ram->nblocks && !r; i++)
		r = verify_block(s, &ram->block[i], err);
	if (r)
		return r;
	gw_record_put(&s->out, GW_RECORD_VERIFY_END, true, 0);
	r = gw_source_flush_question(s, err);
	if (!r)
		r = gw_source_peer_wait(s, GW_RECORD_VERIFY_END, -1,
					"compare the RAM", err);
	if (!r)
		s->now->verified = ram->total >> GW_PAGE_BITS;
	return r;
}
