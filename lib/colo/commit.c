/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * commit.c - what came becomes the checkpoint that counts, or is dropped. The
 * order of writes is that of store.h; whatever is between two of them may be
 * the last thing this process did.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/pause.h"
#include "colo/internal.h"
#include "dest/empty.h"
#include "ram/extents.h"

/* Memory of `next` that is kept for the checkpoints to come. */
#define KEEP_PAGES (64ULL << 20 >> GW_PAGE_BITS)

/* A run of zeros that is worth a hole; shorter ones are written. */
#define HOLE_PAGES 32

#define ENTRIES 128 /* of the map, written at once */

/* --- the file ------------------------------------------------------------- */

int gw_store_pwrite(struct gw_store *s, const void *data, size_t len,
		    uint64_t at, struct gw_error *err)
{
	const uint8_t *p = data;

	while (len) {
		ssize_t n = pwrite(s->fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return gw_fail_errno(err, n ? errno : EIO,
					     "writing %zu bytes at %llu of %s",
					     len, (unsigned long long)at,
					     s->path);
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int gw_store_sync(struct gw_store *s, struct gw_error *err)
{
	if (s->memory || !s->sync || !fdatasync(s->fd))
		return 0;
	return gw_fail_errno(err, errno, "writing %s to its disk", s->path);
}

/* Whatever happened may have happened on the disk or not: who opens the file
 * anew sees. Return: its code. */
static int fail_for_good(struct gw_store *s, const struct gw_error *why,
			 struct gw_error *err)
{
	s->broken = *why;
	if (err)
		*err = *why;
	return -why->code;
}

/* @next is the slot that counts from here on. */
static int put_slot(struct gw_store *s, struct gw_store_slot *next,
		    struct gw_error *err)
{
	struct gw_error why = { 0 };
	uint8_t buf[GW_STORE_SLOT];
	int r;

	next->serial = s->slot.serial + 1;
	gw_store_slot_put(next, buf);
	r = gw_store_pwrite(s, buf, sizeof(buf),
			    s->layout.slot[next->serial % 2], &why);
	if (!r)
		r = gw_store_sync(s, &why);
	if (r)
		return fail_for_good(s, &why, err);
	s->slot = *next;
	return 0;
}

/* --- giving memory back --------------------------------------------------- */

static int wipe_committed(struct gw_store *s, struct gw_error *err)
{
	uint64_t from = s->layout.committed[0];

	for (int i = 0; i < s->head.nblocks; i++)
		gw_bitmap_clear_all(&s->pages[i].present);
	return gw_store_punch(s, from, s->layout.next[0] - from, err);
}

static int wipe_next(struct gw_store *s, struct gw_error *err)
{
	uint64_t from = s->layout.next[0];

	for (int i = 0; i < s->head.nblocks; i++) {
		gw_bitmap_clear_all(&s->pages[i].data);
		gw_bitmap_clear_all(&s->pages[i].zero);
		gw_bitmap_clear_all(&s->pages[i].backed);
	}
	return gw_store_punch(s, from, s->layout.total - from, err);
}

/* Pages of @p->next beyond the first *@keep that have memory. */
static int trim(struct gw_store *s, int block, uint64_t *keep,
		struct gw_error *err)
{
	struct gw_store_pages *p = &s->pages[block];
	uint64_t at = 0, n, from;

	for (; (n = gw_store_run(&p->backed, &at, p->npages)); at += n) {
		if (n > *keep)
			break;
		*keep -= n;
	}
	if (!n)
		return 0;
	from = at + *keep;
	*keep = 0;
	for (at = from; (n = gw_store_run(&p->backed, &at, p->npages)); at += n)
		for (uint64_t i = at; i < at + n; i++)
			gw_bitmap_clear(&p->backed, i);
	return gw_store_punch(s, s->layout.next[block] + (from << GW_PAGE_BITS),
			      (p->npages - from) << GW_PAGE_BITS, err);
}

/* --- what came is not wanted ---------------------------------------------- */

/* Seldom, and perhaps because there is no room: all of it is given back.
 * s->broken says whether it worked. */
static void drop(struct gw_store *s)
{
	struct gw_error why = { 0 };
	int r = wipe_next(s, &why);

	if (!r && !s->slot.seq)
		r = wipe_committed(s, &why);
	if (r)
		fail_for_good(s, &why, NULL);
}

int gw_store_drop(struct gw_store *s, struct gw_error *err)
{
	if (!s->broken.code)
		drop(s);
	return gw_store_usable(s, err);
}

int gw_store_reset(struct gw_store *s, struct gw_error *err)
{
	struct gw_store_slot none = { .phase = GW_STORE_DONE,
				      .area = s->slot.area };
	struct gw_error why = { 0 };
	int r = gw_store_usable(s, err);

	if (!r && s->slot.seq)
		r = put_slot(s, &none, err);
	if (r)
		return r;
	if (wipe_committed(s, &why) || wipe_next(s, &why))
		return fail_for_good(s, &why, err);
	return 0;
}

/* --- before it counts ----------------------------------------------------- */

static int check(struct gw_store *s, const struct gw_store_commit *c,
		 struct gw_error *err)
{
	if (c->seq <= s->slot.seq)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "checkpoint %llu comes after checkpoint %llu",
				  (unsigned long long)c->seq,
				  (unsigned long long)s->slot.seq);
	if (c->nbase > GW_STORE_STATE_MAX ||
	    c->npart > GW_STORE_STATE_MAX - c->nbase)
		return gw_fail_as(err, GW_FAULT_INPUT, EMSGSIZE,
				  "checkpoint %llu has %zu and %zu bytes of "
				  "device state, %llu MiB are possible",
				  (unsigned long long)c->seq, c->nbase,
				  c->npart, GW_STORE_STATE_MAX >> 20);
	for (int i = 0; c->ram && i < s->head.nblocks; i++)
		if (c->ram->nblocks != s->head.nblocks ||
		    c->ram->block[i].used_length !=
			    s->head.block[i].used_length)
			return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
					  "the VM's RAM is not the one that %s "
					  "was made for",
					  s->path);
	return 0;
}

static int write_state(struct gw_store *s, const struct gw_store_commit *c,
		       struct gw_store_slot *slot, struct gw_error *err)
{
	uint64_t at = s->layout.state[slot->area];
	int r;

	XXH3_64bits_reset(s->hash);
	XXH3_64bits_update(s->hash, c->base, c->nbase);
	XXH3_64bits_update(s->hash, c->part, c->npart);
	slot->nstate = c->nbase + c->npart;
	slot->state_hash = XXH3_64bits_digest(s->hash);
	r = gw_store_pwrite(s, c->base, c->nbase, at, err);
	return r ? r
		 : gw_store_pwrite(s, c->part, c->npart, at + c->nbase, err);
}

struct map_writer {
	struct gw_store *s;
	uint8_t buf[ENTRIES * GW_STORE_ENTRY];
	size_t used;
	uint64_t written; /* bytes, before buf */
};

static int flush_map(struct map_writer *m, struct gw_error *err)
{
	int r = gw_store_pwrite(m->s, m->buf, m->used,
				m->s->layout.map + m->written, err);

	XXH3_64bits_update(m->s->hash, m->buf, m->used);
	m->written += m->used;
	m->used = 0;
	return r;
}

static int put_bitmap(struct map_writer *m, const struct gw_bitmap *b,
		      uint32_t block, bool zero, struct gw_error *err)
{
	struct gw_store_entry e = { .block = block, .zero = zero };
	int r = 0;

	for (; !r &&
	       (e.bits = gw_bitmap_next_word(b, &e.word, gw_bitmap_words(b)));
	     e.word++) {
		gw_store_entry_put(&e, m->buf + m->used);
		m->used += GW_STORE_ENTRY;
		if (m->used == sizeof(m->buf))
			r = flush_map(m, err);
	}
	return r;
}

static int write_map(struct gw_store *s, struct gw_store_slot *slot,
		     struct gw_error *err)
{
	struct map_writer m = { .s = s };
	int r = 0;

	XXH3_64bits_reset(s->hash);
	for (int i = 0; i < s->head.nblocks && !r; i++) {
		r = put_bitmap(&m, &s->pages[i].data, (uint32_t)i, false, err);
		if (!r)
			r = put_bitmap(&m, &s->pages[i].zero, (uint32_t)i, true,
				       err);
	}
	if (!r)
		r = flush_map(&m, err);
	slot->nmap = m.written;
	slot->map_hash = XXH3_64bits_digest(s->hash);
	return r;
}

/* `committed` has memory for all that came: copying cannot fail then. */
static int back_committed(struct gw_store *s, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < s->head.nblocks && !r; i++) {
		struct gw_store_pages *p = &s->pages[i];
		uint64_t n;

		for (uint64_t at = 0;
		     !r && (n = gw_store_run(&p->data, &at, p->npages));
		     at += n)
			r = gw_store_back(s, p->committed, &p->present, at, n,
					  err);
	}
	return r;
}

static int prepare(struct gw_store *s, const struct gw_store_commit *c,
		   struct gw_store_slot *slot, struct gw_error *err)
{
	int r = check(s, c, err);

	if (!r)
		r = write_state(s, c, slot, err);
	if (!r && s->slot.seq)
		r = back_committed(s, err);
	if (!r && s->slot.seq)
		r = write_map(s, slot, err);
	return r ? r : gw_store_sync(s, err);
}

/* --- once it counts ------------------------------------------------------- */

/* A page that the VM here wrote, and that is a hole in `committed`: it is zero
 * and not read. */
static void own_holes(struct gw_store_pages *p, struct gw_bitmap *own)
{
	uint64_t words = gw_bitmap_words(own), bits;

	for (uint64_t w = 0; (bits = gw_bitmap_next_word(own, &w, words));
	     w++) {
		bits &= ~gw_bitmap_word(&p->present, w) &
			~gw_bitmap_word(&p->data, w);
		if (bits)
			gw_bitmap_set_word(&p->zero, w, bits);
	}
	gw_bitmap_subtract(own, &p->zero);
}

static void copy_pages(struct gw_store *s, struct gw_ram *ram,
		       struct gw_bitmap *own)
{
	struct gw_flush_block b[GW_RAM_MAX_BLOCKS];

	for (int i = 0; i < s->head.nblocks; i++) {
		struct gw_store_pages *p = &s->pages[i];

		if (own)
			own_holes(p, &own[i]);
		b[i] = (struct gw_flush_block){
			.bits = &p->data,
			.own = own ? &own[i] : NULL,
			.src = p->next,
			.base = p->committed,
			.dst1 = p->committed,
			.dst2 = ram ? ram->block[i].host : NULL,
		};
	}
	gw_flush_run(s->flush, b, s->head.nblocks, GW_FLUSH_QUEUE, true);
}

/* What is a hole is zero and stays one. */
static void zero_committed(struct gw_store *s, int block, uint64_t first,
			   uint64_t n)
{
	struct gw_store_pages *p = &s->pages[block];
	uint64_t end = first + n, len;
	bool hole = n >= HOLE_PAGES &&
		    !gw_store_punch(s,
				    s->layout.committed[block] +
					    (first << GW_PAGE_BITS),
				    n << GW_PAGE_BITS, NULL);

	for (uint64_t at = first; (len = gw_store_run(&p->present, &at, end));
	     at += len)
		if (!hole)
			memset(p->committed + (at << GW_PAGE_BITS), 0,
			       len << GW_PAGE_BITS);
		else
			for (uint64_t i = at; i < at + len; i++)
				gw_bitmap_clear(&p->present, i);
}

static int zero_ram(struct gw_ramblock *b, uint64_t first, uint64_t n,
		    struct gw_error *err)
{
	uint64_t end = first + n, len;
	bool hole;

	if (n >= HOLE_PAGES && !b->keep && b->page_size == GW_PAGE_SIZE &&
	    !gw_extent_punch(b, first, n, NULL))
		return 0;
	for (uint64_t at = first; at < end; at += len) {
		int r = gw_extent_alike(b, at, end - at, &len, &hole, err);

		if (r)
			return r;
		if (!hole)
			memset(b->host + (at << GW_PAGE_BITS), 0,
			       len << GW_PAGE_BITS);
	}
	return 0;
}

/* All of `committed`, whatever becomes of @ram: its failure is the first. */
static int zero_pages(struct gw_store *s, struct gw_ram *ram,
		      struct gw_error *err)
{
	int failed = 0;

	for (int i = 0; i < s->head.nblocks; i++) {
		struct gw_store_pages *p = &s->pages[i];
		uint64_t n;

		for (uint64_t at = 0;
		     (n = gw_store_run(&p->zero, &at, p->npages)); at += n) {
			zero_committed(s, i, at, n);
			if (ram && !failed)
				failed = zero_ram(&ram->block[i], at, n, err);
		}
		gw_bitmap_clear_all(&p->zero);
	}
	return failed;
}

/* `committed` is the checkpoint of the slot: say so. That it does not get
 * there costs nothing now, the copy is done again by who opens the file. */
static void finish(struct gw_store *s)
{
	struct gw_store_slot done = s->slot;
	struct gw_error why = { 0 };
	uint64_t keep = KEEP_PAGES;
	int r;

	done.phase = GW_STORE_DONE;
	gw_pause_at(GW_PAUSE_STANDBY_COPIED);
	r = gw_store_sync(s, &why);
	if (r)
		fail_for_good(s, &why, NULL);
	else
		r = put_slot(s, &done, NULL);
	gw_pause_at(GW_PAUSE_STANDBY_DONE);
	for (int i = 0; i < s->head.nblocks && !r; i++)
		r = trim(s, i, &keep, &why);
	if (r && !s->broken.code)
		fail_for_good(s, &why, NULL);
}

static int fill_first(struct gw_store *s, const struct gw_store_commit *c,
		      struct gw_error *err)
{
	for (int i = 0; c->own && i < s->head.nblocks; i++)
		gw_bitmap_clear_all(&c->own[i]);
	return gw_store_fill(s, c->ram, err);
}

int gw_store_commit(struct gw_store *s, const struct gw_store_commit *c,
		    struct gw_error *err)
{
	bool first = !s->slot.seq;
	struct gw_store_slot slot = {
		.seq = c->seq,
		.phase = first ? GW_STORE_DONE : GW_STORE_APPLYING,
		.flags = c->flags,
		.area = !s->slot.area,
	};
	int r = gw_store_usable(s, err);

	if (r)
		return r;
	r = prepare(s, c, &slot, err);
	if (r) {
		drop(s);
		return r;
	}
	gw_pause_at(GW_PAUSE_STANDBY_RECEIVED);
	r = put_slot(s, &slot, err);
	if (r)
		return r;
	if (first)
		return c->ram ? fill_first(s, c, err) : 0;
	gw_pause_at(GW_PAUSE_STANDBY_APPLYING);
	copy_pages(s, c->ram, c->own);
	r = zero_pages(s, c->ram, err);
	finish(s);
	return r;
}

int gw_store_fill(struct gw_store *s, struct gw_ram *ram, struct gw_error *err)
{
	struct gw_flush_block b[GW_RAM_MAX_BLOCKS] = { 0 };
	int r = gw_dest_empty_ram(ram, err);

	if (r || !s->slot.seq) /* what came of the first does not count */
		return r;
	for (int i = 0; i < s->head.nblocks; i++) {
		b[i].bits = &s->pages[i].present;
		b[i].src = s->pages[i].committed;
		b[i].dst2 = ram->block[i].host;
	}
	gw_flush_run(s->flush, b, s->head.nblocks, GW_FLUSH_QUEUE, false);
	return 0;
}

/* --- a process before this one -------------------------------------------- */

static int find_present(struct gw_store *s, int block, struct gw_error *err)
{
	struct gw_store_pages *p = &s->pages[block];
	struct gw_ramblock b = { .fd = s->fd,
				 .fd_offset = s->layout.committed[block],
				 .used_length = p->npages << GW_PAGE_BITS };
	uint64_t at = 0, start, len;
	int r;

	memcpy(b.idstr, s->head.block[block].idstr, sizeof(b.idstr));
	do {
		r = gw_extent_next(&b, at, &start, &len, err);
		if (r)
			return r;
		gw_bitmap_set_range(&p->present, start >> GW_PAGE_BITS,
				    len >> GW_PAGE_BITS);
		at = start + len;
	} while (len);
	return 0;
}

static int damaged(const char *what, struct gw_store *s, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "%s of checkpoint %llu is damaged (hash)", what,
			  (unsigned long long)s->slot.seq);
}

static int read_map(struct gw_store *s, struct gw_error *err)
{
	const uint8_t *map = s->map + s->layout.map;

	if (XXH3_64bits(map, s->slot.nmap) != s->slot.map_hash)
		return damaged("the map of pages", s, err);
	for (uint64_t at = 0; at < s->slot.nmap; at += GW_STORE_ENTRY) {
		struct gw_store_entry e;
		int r = gw_store_entry_get(&e, map + at, &s->head, err);

		if (r)
			return r;
		gw_bitmap_set_word(e.zero ? &s->pages[e.block].zero
					  : &s->pages[e.block].data,
				   e.word, e.bits);
	}
	return 0;
}

/* Checkpoint s->slot is complete, and perhaps in part copied already. */
static int apply_again(struct gw_store *s, struct gw_error *err)
{
	int r = read_map(s, err);

	if (!r)
		r = back_committed(s, err);
	if (r)
		return r;
	copy_pages(s, NULL, NULL);
	r = zero_pages(s, NULL, err);
	finish(s);
	return r ? r : gw_store_usable(s, err);
}

int gw_store_resume(struct gw_store *s, struct gw_error *err)
{
	int r = gw_store_slot_newest(&s->slot, s->map + s->layout.slot[0],
				     s->map + s->layout.slot[1], &s->layout,
				     err);

	if (!r &&
	    XXH3_64bits(s->map + s->layout.state[s->slot.area],
			s->slot.nstate) != s->slot.state_hash &&
	    s->slot.seq)
		r = damaged("the device state", s, err);
	for (int i = 0; i < s->head.nblocks && !r && s->slot.seq; i++)
		r = find_present(s, i, err);
	if (!r && !s->slot.seq)
		r = wipe_committed(s, err);
	if (!r && s->slot.phase == GW_STORE_APPLYING)
		r = apply_again(s, err);
	return r ? r : wipe_next(s, err);
}
