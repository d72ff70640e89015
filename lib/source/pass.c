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

#include "base/live.h"
#include "base/pause.h"
#include "base/scope.h"
#include "base/trace.h"
#include "ram/extents.h"
#include "source/internal.h"

#define RESCAN_PAGES 1024u

/* Sleep @ns, less if cancelled (the next peer_check finds out). */
static void rest(struct gw_source *s, int64_t ns)
{
	struct pollfd p = { .fd = gw_cancel_fd(s->c.cancel), .events = POLLIN };
	struct timespec t = { ns / GW_NS_PER_S, ns % GW_NS_PER_S };

	ppoll(&p, 1, &t, NULL);
}

/* Account for @nbytes just sent. Return: ns to wait, by the limit as it is
 * now: somebody may change it while we wait. */
static int64_t spend(struct gw_source *s, uint64_t nbytes)
{
	if (s->unlimited)
		return 0;
	gw_limit_set(&s->limit, GW_LIVE(s->c.params->max_bandwidth));
	return gw_limit_spend(&s->limit, nbytes);
}

/* Let the limiter hold us back for @nbytes just sent, answering the peer. */
static int keep_limit(struct gw_source *s, uint64_t nbytes,
		      struct gw_error *err)
{
	int64_t wait = spend(s, nbytes);

	while (wait > 0) {
		int r;

		rest(s, wait < 20 * GW_NS_PER_MS ? wait : 20 * GW_NS_PER_MS);
		r = s->to->check(s, err);
		if (r)
			return r;
		gw_progress_tick(s->c.progress);
		wait = spend(s, 0);
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
	r = keep_limit(s, s->now->transferred - before, err);
	s->pass_bytes += s->now->transferred - before;
	s->pass_ns += gw_now_ns() - since_ns;
	if (!r)
		r = s->to->check(s, err);
	gw_progress_tick(s->c.progress);
	return r;
}

int gw_source_tick(struct gw_source *s, struct gw_error *err)
{
	int r = gw_source_moved(s, s->tick_ns, err);

	s->tick_ns = gw_now_ns();
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
	int64_t wait = s->last_scan_ns + GW_SOURCE_SCAN_PERIOD_NS - gw_now_ns();

	if (wait > 0)
		rest(s, wait);
	return s->to->check(s, err);
}

/* --- sending ------------------------------------------------------------ */

/*
 * [@first, @first + @n) is a hole. What was sent of it becomes zeros at the
 * destination, the rest never was anything.
 */
int gw_source_send_hole(struct gw_source *s, int block, uint64_t first,
			uint64_t n, struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t end = first + n, len;
	int r = 0;

	s->now->given_back += n;
	for (; !r && first < end; first += len) {
		bool sent = gw_bitmap_clear(&b->placed, first);

		for (len = 1; first + len < end &&
			      gw_bitmap_test(&b->placed, first + len) == sent;
		     len++)
			gw_bitmap_clear(&b->placed, first + len);
		if (!sent) {
			s->count.holes += len;
			r = s->to->hole(s, block, first, len, err);
			continue;
		}
		gw_encode_zeros(&s->encode, block, first, len);
		r = s->to->zeros(s, block, first, len, err);
	}
	return r;
}

/* Pages of a copy were holes, or not, when they were copied; of a VM that stood
 * before it was looked at no data is given back. */
static int alike(struct gw_source *s, int block, uint64_t first, uint64_t n,
		 uint64_t *len, bool *hole, struct gw_error *err)
{
	*len = n;
	*hole = false;
	if (s->c.stopped)
		return 0;
	if (!s->shadow)
		return gw_extent_alike(&s->c.vm->ram.block[block], first, n,
				       len, hole, err);
	*len = gw_shadow_alike(s->shadow, block, first, n, hole);
	return 0;
}

/*
 * Pages that were dirty a moment ago, at most 64. A hole is not read: that
 * would allocate it. A page that is given back after this look is read as
 * zeros; one that is used again is dirty again.
 */
static int send_run(struct gw_source *s, int block, uint64_t first, uint64_t n,
		    struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t end = first + n, len;
	int r = 0;

	s->count.pages += n;
	for (; !r && first < end; first += len) {
		bool hole;

		r = alike(s, block, first, end - first, &len, &hole, err);
		if (r)
			break;
		if (hole) {
			r = gw_source_send_hole(s, block, first, len, err);
			continue;
		}
		gw_bitmap_set_range(&b->placed, first, len);
		r = s->to->pages(s, block, first, (uint32_t)len, err);
	}
	return r;
}

/*
 * A page that was written since the last scan and is not sent yet would be
 * sent twice: now, with what was written, and in the next pass, because of it.
 * So the next pages to be sent, up to *@until, are scanned again, if the last
 * scan is a while ago. What becomes dirty by it has its turn at once.
 */
static int rescan(struct gw_source *s, int block, uint64_t at, uint64_t *until,
		  struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t first, n, dirty;
	int r;

	if (gw_now_ns() - s->last_scan_ns < GW_SOURCE_RESCAN_NS ||
	    !gw_bitmap_next_run(&b->dirty, at, 1, &first) || first < *until)
		return 0;
	n = gw_ramblock_npages(b) - first;
	if (n > RESCAN_PAGES)
		n = RESCAN_PAGES;
	dirty = gw_bitmap_count_range(&b->dirty, first, n);
	r = gw_track_scan_range(s->track, block, first, n, err);
	dirty = gw_bitmap_count_range(&b->dirty, first, n) - dirty;
	s->now->remaining += dirty * GW_PAGE_SIZE;
	s->pass_ram += dirty * GW_PAGE_SIZE;
	if (s->now->hinted)
		gw_hint_reported_range(s->c.hint, block, first, n);
	*until = first + n;
	return r;
}

static int send_block(struct gw_source *s, int block, bool again,
		      struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t at = 0, until = 0, first, n;
	int r = 0;

	while (!r) {
		r = again ? rescan(s, block, at, &until, err) : 0;
		if (r)
			break;
		n = gw_bitmap_take_run(&b->dirty, at, &first);
		if (!n)
			break;
		r = send_run(s, block, first, n, err);
		at = first + n;
		s->now->remaining -= n * GW_PAGE_SIZE;
	}
	return r;
}

/*
 * A pass of a few pages says little: it only filled a socket buffer. Time that
 * is not spent in writing is not counted, but the limit counts it: on a busy
 * host that would look like more than the limit.
 */
static void measure(struct gw_source *s)
{
	uint64_t limit = GW_LIVE(s->c.params->max_bandwidth);

	if (s->pass_bytes && (!s->bandwidth || s->pass_ns > GW_NS_PER_MS))
		s->bandwidth = (uint64_t)((double)s->pass_bytes * 1e9 /
					  (double)(s->pass_ns + 1));
	if (limit && s->bandwidth > limit)
		s->bandwidth = limit;
	/* Deltas and compressed pages: a page is less than its bytes. In the
	 * first pass the zero pages would say so of all. */
	s->ram_rate = s->bandwidth;
	if (s->now->pass > 1 && s->pass_ns > GW_NS_PER_MS &&
	    (s->encode.active || s->now->compress_pages))
		s->ram_rate = (uint64_t)((double)s->pass_ram * 1e9 /
					 (double)s->pass_ns);
}

static uint64_t deltas(const struct godwit_stats *s)
{
	return s->xbzrle_pages - s->xbzrle_overflow;
}

/* The pass is out, or is being written by nobody any more. */
static void count(struct gw_source *s)
{
	struct godwit_stats *was = &s->counted, *now = s->now;
	struct gw_pass_count *c = &s->count;

	gw_encode_stats(&s->encode, now);
	c->pass = now->pass;
	c->normal = now->normal - was->normal;
	c->duplicate = now->duplicate - was->duplicate;
	c->skipped = now->skipped - was->skipped;
	c->deltas = deltas(now) - deltas(was);
	gw_debug("pass %u: %llu pages: %llu normal, %llu zero, %llu left out, %llu as differences, %llu given back",
		 c->pass, (unsigned long long)c->pages,
		 (unsigned long long)c->normal,
		 (unsigned long long)c->duplicate,
		 (unsigned long long)c->skipped, (unsigned long long)c->deltas,
		 (unsigned long long)c->holes);
	if (s->c.pass_done)
		s->c.pass_done(c, s->c.pass_arg);
	*was = *now;
	memset(c, 0, sizeof(*c));
}

/* Not where each scan has to wait for disks, nor of a copy, nor in the window
 * of hints, in which no scan may run (hint/hint.h). */
static bool may_rescan(const struct gw_source *s)
{
	return s->track && !s->c.vm->info.direct_io && !s->shadow &&
	       !s->hinting;
}

/* Send what the bitmaps hold. */
int gw_source_pass_send(struct gw_source *s, bool last, struct gw_error *err)
{
	bool again = !last && may_rescan(s);
	int r = 0;

	s->pass_bytes = 0;
	s->pass_ns = 0;
	s->tick_ns = gw_now_ns();
	s->pass_ram = s->now->remaining;
	for (int i = 0; i < s->c.vm->ram.nblocks && !r; i++)
		r = send_block(s, i, again, err);
	if (!r)
		r = s->to->pass_end(s, last, err);
	if (r)
		return r;
	measure(s);
	count(s);
	return 0;
}

/* What a scan found while the VM runs: drain, then send it as one PART. */
int gw_source_pass_part(struct gw_source *s, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;
	int r = vm->info.direct_io ? vm->ops->drain(vm, err) : 0;

	if (!r)
		r = gw_source_holes(s, false, err);
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
	s->now->unpopulated += (b->used_length - populated) >> GW_PAGE_BITS;
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
	r = gw_source_holes_init(s, err);
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
	if (!r)
		r = gw_source_hints_close(s, err);
	/* What was hinted did not have to be sent (converge.h). */
	if (!r && s->now->hinted * GW_PAGE_SIZE <= s->pass_ram)
		s->pass_ram -= s->now->hinted * GW_PAGE_SIZE;
	return r;
}
