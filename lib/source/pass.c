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
#include "ram/extents.h"
#include "source/internal.h"

/* Between two scans while the VM runs: each makes the guest fault again. */
#define MIN_SCAN_PERIOD_NS (50 * GW_NS_PER_MS)

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
		r = s->to->check(s, err);
		if (r)
			return r;
		gw_progress_tick(s->c.progress);
	}
	return 0;
}

int gw_source_moved(struct gw_source *s, int64_t since_ns,
		    struct gw_error *err)
{
	uint64_t before = s->now->transferred;
	int r;

	s->now->transferred = s->to->nbytes(s);
	gw_encode_stats(&s->encode, s->now);
	gw_source_hints_account(s);
	r = throttle(s, s->now->transferred - before, err);
	s->pass_bytes += s->now->transferred - before;
	s->pass_ns += gw_now_ns() - since_ns;
	if (!r)
		r = s->to->check(s, err);
	gw_progress_tick(s->c.progress);
	return r;
}

int gw_source_pass_scan(struct gw_source *s, struct gw_error *err)
{
	int r = gw_track_scan(s->track, err);

	s->last_scan_ns = gw_now_ns();
	if (s->now->hinted)
		gw_hint_reported(s->c.hint);
	s->now->remaining = gw_ram_dirty_pages(&s->c.vm->ram) * GW_PAGE_SIZE;
	GW_TRACE2(scan, s->now->pass, s->now->remaining);
	return r;
}

int gw_source_pass_pace(struct gw_source *s, struct gw_error *err)
{
	int64_t wait = s->last_scan_ns + MIN_SCAN_PERIOD_NS - gw_now_ns();

	if (wait > 0)
		rest(s, wait);
	return s->to->check(s, err);
}

/* --- sending ------------------------------------------------------------ */

static int send_block(struct gw_source *s, int block, struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t at = 0, first, n;
	int r = 0;

	while (!r && (n = gw_bitmap_take_run(&b->dirty, at, &first))) {
		r = s->to->pages(s, block, first, (uint32_t)n, err);
		at = first + n;
		s->now->remaining -= n * GW_PAGE_SIZE;
	}
	return r;
}

/* Zero at the destination what was sent of the hole [@at, @end), unread. */
static int send_hole(struct gw_source *s, int block, uint64_t at, uint64_t end,
		     struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t first, n;
	int r = 0;

	while (!r && at < end &&
	       (n = gw_bitmap_next_run(&b->placed, at, 64, &first)) &&
	       first < end) {
		at = first + n < end ? first + n : end;
		for (uint64_t page = first; page < at; page++)
			if (gw_bitmap_clear(&b->dirty, page))
				s->now->remaining -= GW_PAGE_SIZE;
		gw_encode_zeros(&s->encode, block, first, at - first);
		r = s->to->zeros(s, block, first, at - first, err);
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
				r = send_hole(s, i, at >> GW_PAGE_BITS,
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

/* Send what the bitmaps hold. */
int gw_source_pass_send(struct gw_source *s, bool last, struct gw_error *err)
{
	int r = 0;

	s->pass_bytes = 0;
	s->pass_ns = 0;
	for (int i = 0; i < s->c.vm->ram.nblocks && !r; i++)
		r = send_block(s, i, err);
	if (!r)
		r = s->to->pass_end(s, last, err);
	if (!r)
		measure(s);
	return r;
}

/* What a scan found while the VM runs: drain, then send it as one PART. */
int gw_source_pass_part(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	int r = vm->info.direct_io ? vm->ops->drain(vm, err) : 0;

	gw_encode_pass(&s->encode);
	if (!r)
		r = s->to->pass_begin(s, false, err);
	return r ? r : gw_source_pass_send(s, false, err);
}

/* --- the bulk pass ------------------------------------------------------ */

/*
 * Mark what is populated as dirty and say what is coming; count the rest, and
 * say which it is where the other side needs to hear that.
 */
static int mark_extents(struct gw_source *s, int block, struct gw_extent *e,
			struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t at = 0, populated = 0, start, len;
	uint32_t n = 0;
	int r = 0;

	do {
		r = gw_extent_next(b, at, &start, &len, err);
		if (r)
			return r;
		if (!len)
			start = b->used_length;
		if (start > at)
			r = s->to->hole(s, block, at >> GW_PAGE_BITS,
					(start - at) >> GW_PAGE_BITS, err);
		if (!r && n && (!len || n == GW_RECORD_MAX_EXTENTS)) {
			r = s->to->extents(s, block, e, n, err);
			n = 0;
		}
		e[n++] = (struct gw_extent){ start, len };
		gw_bitmap_set_range(&b->dirty, start >> GW_PAGE_BITS,
				    len >> GW_PAGE_BITS);
		populated += len;
		at = start + len;
	} while (!r && len);
	s->now->populated += populated;
	s->now->skipped += (b->used_length - populated) >> GW_PAGE_BITS;
	return r;
}

/*
 * Every data extent of the file, not what a first scan reports: parts of a
 * VM's RAM that godwit placed (it arrived by migration) are unknown to QEMU's
 * page tables, and no scan reports them.
 */
int gw_source_pass_mark(struct gw_source *s, struct gw_error *err)
{
	gw_autofree struct gw_extent *e =
		calloc(GW_RECORD_MAX_EXTENTS, sizeof(*e));
	struct gw_ram *ram = &s->c.vm->ram;
	int r = 0;

	if (!e)
		return gw_fail(err, ENOMEM, "no memory for a list of extents");
	s->now->pass = 1;
	for (int i = 0; i < ram->nblocks && !r; i++)
		r = mark_extents(s, i, e, err);
	s->now->remaining = gw_ram_dirty_pages(ram) * GW_PAGE_SIZE;
	return r;
}

int gw_source_pass_first(struct gw_source *s, struct gw_error *err)
{
	int r = gw_track_start(s->track, err);

	s->last_scan_ns = gw_now_ns();
	if (!r && s->c.vm->info.direct_io)
		r = s->c.vm->ops->drain(s->c.vm, err);
	if (!r)
		r = gw_source_pass_mark(s, err);
	if (!r)
		r = s->to->pass_begin(s, false, err);
	if (!r)
		gw_source_hints_open(s);
	if (!r)
		r = gw_source_pass_send(s, false, err);
	/* Before any scan adds to the bitmaps (hint/hint.h). */
	return r ? r : gw_source_hints_close(s, err);
}
