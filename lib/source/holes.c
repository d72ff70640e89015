/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * holes.c - pages that the guest gives back while it moves (balloon, free-page
 * reporting): the VMM punches them out of the file. No tracker reports that,
 * for nothing was written. The guest has no use for what they held, but nobody
 * may find it there: what was sent of them becomes zeros at the destination.
 * (What is dirty and a hole is seen by whoever is about to send it: pass.c.)
 *
 * A punched page is taken out of every mapping of the file, so it is not
 * mapped here any more (track/gone.h), unless it was read again:
 *
 * - by us, when it was punched out while it was being sent: half of what went
 *   out may be what it was, and the rest zeros. So what was read since the
 *   last look (`fresh`) is looked at once more; if it is zero now, it is sent
 *   again.
 * - by the guest: then it is zeros in the file and is sent again, as any page
 *   that is not mapped here though the file has it. (Should we have touched a
 *   neighbour meanwhile, the kernel may have mapped it again, and it stays
 *   what it was at the destination: memory that the guest gave away, reads
 *   without having written it, and may not count on.)
 *
 * Punching sets a file's mtime, at its end; writing through a mapping of tmpfs
 * does not. So a VM that gives nothing back costs one fstat() per block and
 * pass; `fresh` is kept until the next look, which may be for a page that was
 * being punched out during this one.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "page/zero.h"
#include "ram/extents.h"
#include "source/internal.h"
#include "track/gone.h"

/* Longer than a kernel's tick: the clock that mtime is taken from. */
#define TICK_NS (50 * GW_NS_PER_MS)

/*
 * May something have been punched out of the block's file since the last
 * call? One that was in the same tick as another is not told apart from it,
 * so a time that is not yet past counts as new again.
 */
static bool was_punched(struct gw_source *s, int block)
{
	const struct gw_ramblock *b = &s->c.vm->ram.block[block];
	struct timespec now, was = s->punched[block];
	struct stat st;
	int64_t age;

	if (b->fd < 0 || b->page_size > GW_PAGE_SIZE || fstat(b->fd, &st))
		return true;
	clock_gettime(CLOCK_REALTIME, &now);
	age = (now.tv_sec - st.st_mtim.tv_sec) * GW_NS_PER_S +
	      (now.tv_nsec - st.st_mtim.tv_nsec);
	s->punched[block] = st.st_mtim;
	if (age >= 0 && age < TICK_NS)
		s->punched[block].tv_nsec = -1; /* equals no time */
	return was.tv_sec != st.st_mtim.tv_sec ||
	       was.tv_nsec != st.st_mtim.tv_nsec;
}

int gw_source_holes_init(struct gw_source *s, struct gw_error *err)
{
	struct gw_ram *ram = &s->c.vm->ram;
	int r = 0;

	for (int i = 0; i < ram->nblocks && !r; i++) {
		r = gw_bitmap_init(&s->fresh[i],
				   gw_ramblock_npages(&ram->block[i]), err);
		/* What is a hole by now will not be sent. */
		(void)was_punched(s, i);
	}
	s->encode.fresh = s->fresh;
	return r;
}

void gw_source_holes_fini(struct gw_source *s)
{
	for (int i = 0; i < GW_RAM_MAX_BLOCKS; i++)
		gw_bitmap_fini(&s->fresh[i]);
}

/* What is dirty goes out in this pass anyway. */
static void send_again(struct gw_source *s, struct gw_ramblock *b,
		       uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		if (!gw_bitmap_set(&b->dirty, page))
			s->now->remaining += GW_PAGE_SIZE;
}

struct look {
	bool last;  /* the VM stands, and its last pass has begun */
	bool mark;  /* it stands, and nothing is sent before it runs on */
	bool begun; /* a pass, for zeros */
};

/* Zeros are a pass of their own while the VM runs; the last one has begun. */
static int begin_pass(struct gw_source *s, struct look *k,
		      struct gw_error *err)
{
	if (k->begun || k->last)
		return 0;
	k->begun = true;
	gw_encode_pass(&s->encode);
	return s->to->pass_begin(s, false, err);
}

/* Pages that were sent and are not mapped any more, all dirty or none. */
static int gone(struct gw_source *s, int block, uint64_t first, uint64_t n,
		struct look *k, struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t end = first + n, len;
	int r = 0;

	if (k->mark) {
		send_again(s, b, first, n);
		return 0;
	}
	for (; !r && first < end; first += len) {
		bool hole;

		r = gw_extent_alike(b, first, end - first, &len, &hole, err);
		if (r)
			break;
		if (!hole) {
			send_again(s, b, first, len);
			continue;
		}
		r = begin_pass(s, k, err);
		s->count.pages += len;
		if (!r)
			r = gw_source_send_hole(s, block, first, len, err);
	}
	return r;
}

/* Of [@first, @end): what was sent and is not dirty. */
static int gone_range(struct gw_source *s, int block, uint64_t first,
		      uint64_t end, struct look *k, struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t n, at;
	int r = 0;

	while (!r && first < end &&
	       (n = gw_bitmap_next_run(&b->placed, first, end - first, &at)) &&
	       at < end) {
		uint64_t stop = n < end - at ? at + n : end, len = 0;

		for (first = at; !r && first < stop; first += len + 1) {
			for (len = 0; first + len < stop &&
				      !gw_bitmap_test(&b->dirty, first + len);
			     len++)
				;
			if (len)
				r = gone(s, block, first, len, k, err);
		}
		first = stop;
	}
	return r;
}

/* Pages [@first, @end) are not looked at again: that would allocate them. */
static void forget(struct gw_bitmap *fresh, uint64_t first, uint64_t end)
{
	uint64_t at;

	while (first < end &&
	       gw_bitmap_next_run(fresh, first, 1, &at) && at < end) {
		gw_bitmap_clear(fresh, at);
		first = at + 1;
	}
}

static int look_for_gone(struct gw_source *s, int block, struct look *k,
			 struct gw_error *err)
{
	struct gw_gone g;
	uint64_t first, n;
	int r = gw_gone_begin(&g, &s->c.vm->ram.block[block], err);

	if (r)
		return r;
	while (!(r = gw_gone_next(&g, &first, &n, err)) && n) {
		forget(&s->fresh[block], first, first + n);
		r = gone_range(s, block, first, first + n, k, err);
		if (r)
			break;
	}
	gw_gone_end(&g);
	return r;
}

/* Was it punched out while it was read? Then all of it is zero now. */
static void look_again(struct gw_source *s, int block)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t at = 0, first, n;

	while ((n = gw_bitmap_take_run(&s->fresh[block], at, &first))) {
		for (at = first; at < first + n; at++)
			if (gw_page_is_zero(b->host + (at << GW_PAGE_BITS)))
				send_again(s, b, at, 1);
	}
}

/*
 * Between a scan and sending what it found. A page that is used again after
 * the look is dirty in the next scan, and what it then holds goes out after
 * the zeros, in another pass.
 */
int gw_source_holes(struct gw_source *s, bool last, struct gw_error *err)
{
	struct look k = { .last = last };
	int r = 0;

	for (int i = 0; i < s->c.vm->ram.nblocks && !r; i++) {
		if (!was_punched(s, i))
			continue;
		r = look_for_gone(s, i, &k, err);
		if (!r)
			look_again(s, i);
	}
	if (!r && k.begun)
		r = s->to->pass_end(s, false, err);
	return r;
}

/*
 * The same while the VM stands for a checkpoint: what is gone is marked dirty.
 * Whoever copies the dirty pages finds out which are holes. Nothing is being
 * punched out just now, so in a block that stayed as it was nothing was while
 * it was read.
 */
int gw_source_holes_mark(struct gw_source *s, struct gw_error *err)
{
	struct look k = { .mark = true };
	int r = 0;

	for (int i = 0; i < s->c.vm->ram.nblocks && !r; i++) {
		if (!was_punched(s, i)) {
			gw_bitmap_clear_all(&s->fresh[i]);
			continue;
		}
		r = look_for_gone(s, i, &k, err);
		if (!r)
			look_again(s, i);
	}
	return r;
}
