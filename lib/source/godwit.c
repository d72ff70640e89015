/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * godwit.c - the VM goes to another godwit: greeting, then `ram` sections with
 * records between them, over one channel; with channels (sender.h) the pages go
 * over those. What is said besides RAM is in peer.c, the end in handover.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/pause.h"
#include "page/hash.h"
#include "ram/extents.h"
#include "source/sender.h"
#include "wire/section.h"

#define RAM_SECTION_ID 1u
#define RUN_PAGES      64 /* at most, from the bitmaps */
#define STAGE	       (2 * RUN_PAGES * GW_PAGE_SIZE)

/* --- the channel --------------------------------------------------------- */

static uint64_t nbytes(struct gw_source *s)
{
	return gw_chan_bytes_written(s->c.chan) +
	       gw_senders_nbytes(s->senders);
}

/* The last word before an answer, which may be here before we look. */
int gw_source_flush_question(struct gw_source *s, struct gw_error *err)
{
	if (gw_write_flush(&s->out, err)) {
		gw_source_peer_reason(s, err);
		return -err->code;
	}
	s->now->transferred = nbytes(s);
	return 0;
}

int gw_source_flush(struct gw_source *s, struct gw_error *err)
{
	int64_t t0 = gw_now_ns();

	if (gw_write_flush(&s->out, err)) {
		gw_source_peer_reason(s, err);
		return -err->code;
	}
	s->staged = 0;
	return gw_source_moved(s, t0, err);
}

/* --- sections ------------------------------------------------------------ */

static int section(struct gw_source *s, enum gw_item item,
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

static int pass_begin(struct gw_source *s, bool last, struct gw_error *err)
{
	return section(s, last ? GW_ITEM_SECTION_END : GW_ITEM_SECTION_PART,
		       err);
}

/* A channel broke: the reason may wait on the main one. */
static int channels(struct gw_source *s, int r, struct gw_error *err)
{
	if (r)
		gw_source_peer_reason(s, err);
	return r ? -err->code : 0;
}

static int pass_end(struct gw_source *s, bool last, struct gw_error *err)
{
	int r = s->senders ? channels(s, gw_senders_sync(s, err), err) : 0;

	if (r)
		return r;
	if (s->senders)
		gw_ram_put_flush(&s->out);
	gw_source_section_end(s);
	return gw_source_flush(s, err);
}

/* --- pages --------------------------------------------------------------- */

/*
 * A running guest may change the page between the test and the write to the
 * channel: then it is dirty again and will be sent again. What the cache
 * knows goes out from the stage, as it was copied.
 */
static void put_page(struct gw_source *s, int block, uint64_t page)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
	uint64_t addr = page << GW_PAGE_BITS;
	uint8_t *copy = s->stage + s->staged, delta[GW_PAGE_SIZE];
	const uint8_t *p = gw_source_host(s, block) + addr;
	enum gw_encoded what;
	int len;

	what = gw_encode_page(&s->encode, block, page, p, copy, delta, &len);
	switch (what) {
	case GW_ENCODED_ZERO:
		gw_ram_put_zero(&s->out, &s->encoder, b->idstr, addr);
		s->now->duplicate++;
		break;
	case GW_ENCODED_SAME:
		break;
	case GW_ENCODED_FILL:
		gw_ram_put_fill(&s->out, &s->encoder, b->idstr, addr,
				(uint8_t)len);
		s->now->duplicate++;
		break;
	case GW_ENCODED_DELTA:
		gw_ram_put_delta(&s->out, &s->encoder, b->idstr, addr,
				 memcpy(copy, delta, (size_t)len),
				 (uint16_t)len);
		s->staged += (size_t)len;
		break;
	case GW_ENCODED_COPY:
	case GW_ENCODED_OVERFLOW:
		s->staged += GW_PAGE_SIZE;
		p = copy;
		/* fall through */
	case GW_ENCODED_WHOLE:
		gw_ram_put_page(&s->out, &s->encoder, b->idstr, addr, p);
		s->now->normal++;
	}
}

/* A run is at most 64 pages: flush before the iovecs or the stage are full, so
 * that limiter, cancel and the peer are looked at. */
static int flush_if_full(struct gw_source *s, struct gw_error *err)
{
	int r;

	if (s->out.niov <= GW_WRITER_IOV - 2 * RUN_PAGES - 2 &&
	    s->out.used <= GW_WRITER_HEAD / 2 &&
	    s->staged <= STAGE - RUN_PAGES * GW_PAGE_SIZE)
		return 0;
	r = gw_source_flush(s, err);
	if (!r)
		gw_pause_at(GW_PAUSE_SOURCE_BULK);
	return r;
}

static int pages(struct gw_source *s, int block, uint64_t first, uint32_t n,
		 struct gw_error *err)
{
	int r;

	if (s->senders) {
		r = gw_senders_add(s, block, first, n, false, err);
		gw_pause_at(GW_PAUSE_SOURCE_BULK);
		return channels(s, r, err);
	}
	for (uint32_t i = 0; i < n; i++)
		put_page(s, block, first + i);
	return flush_if_full(s, err);
}

static int zeros(struct gw_source *s, int block, uint64_t first, uint64_t n,
		 struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];

	if (s->senders)
		return channels(s, gw_senders_add(s, block, first, n, true, err),
				err);
	for (uint64_t page = first; page < first + n; page++)
		gw_ram_put_zero(&s->out, &s->encoder, b->idstr,
				page << GW_PAGE_BITS);
	s->now->duplicate += n;
	return flush_if_full(s, err);
}

static int extents(struct gw_source *s, int block, const struct gw_extent *e,
		   uint32_t n, struct gw_error *err)
{
	gw_record_put_extents(&s->out, &s->c.vm->ram.block[block], e, n);
	return gw_write_check(&s->out, err);
}

/* The destination made its RAM empty: what never was need not be said. */
static int hole(struct gw_source *s, int block, uint64_t first, uint64_t n,
		struct gw_error *err)
{
	return 0;
}

/* --- setup ---------------------------------------------------------------- */

static int open_channels(struct gw_source *s, const uint8_t *session,
			 struct gw_error *err)
{
	const struct godwit_params *p = s->c.params;
	struct gw_senders_plan plan = { .n = gw_source_channels(p),
					.session = session,
					.level = p->compress_level,
					.choose = !strcmp(p->compress, "auto"),
					.encode = true };

	/* What goes by reference is not timed, which a choice is made of. */
	plan.refer = !s->protect && !plan.choose;
	if (strcmp(p->compress, "none"))
		plan.method = plan.choose ? "zstd" : p->compress;
	return plan.n ? channels(s, gw_senders_start(s, &plan, err), err) : 0;
}

static int setup(struct gw_source *s, struct gw_error *err)
{
	struct gw_hello theirs;
	int r = s->protect ? gw_source_protect_setup(s, err) :
			     gw_source_disks_list(s, err);

	if (!r)
		r = gw_source_greet(s, false, &theirs, err);
	if (r)
		return r;
	gw_hello_fini(&theirs);
	r = open_channels(s, theirs.session, err);
	if (!r)
		r = gw_source_disks_join(s, theirs.session,
					 gw_source_channels(s->c.params), err);
	if (!r && s->protect)
		r = gw_source_protect_join(s, &theirs, err);
	if (r)
		return r;
	s->stage = malloc(STAGE);
	return s->stage ? 0 :
			  gw_fail(err, ENOMEM,
				  "no memory for %u bytes of pages", STAGE);
}

/* Has the other side, the user or a copy of a disk given up? */
static int check(struct gw_source *s, struct gw_error *err)
{
	int r = gw_source_peer_check(s, err);

	if (!r && s->protect)
		r = gw_source_protect_check(s, err);
	return r ? r : gw_source_disks_check(s, err);
}

static int begin(struct gw_source *s, struct gw_error *err)
{
	int r = section(s, GW_ITEM_SECTION_START, err);

	if (r)
		return r;
	gw_ram_put_table(&s->out, &s->c.vm->ram);
	gw_source_section_end(s);
	return gw_source_flush(s, err);
}

/* --- device state --------------------------------------------------------- */

static int device(void *arg, const void *p, size_t len, struct gw_error *err)
{
	struct gw_source *s = arg;
	const uint8_t *b = p;

	while (len) {
		uint32_t n = len < GW_RECORD_MAX_DEVICE ? (uint32_t)len :
							  GW_RECORD_MAX_DEVICE;
		int r;

		gw_record_put(&s->out, GW_RECORD_DEVICE, true, n);
		gw_write_ref(&s->out, b, n);
		r = gw_source_flush(s, err);
		if (r)
			return r;
		s->now->device_bytes += n;
		XXH3_64bits_update(s->device_hash, b, n);
		b += n;
		len -= n;
	}
	return 0;
}

const struct gw_target_ops gw_target_godwit = {
	.setup = setup,
	.begin = begin,
	.pass_begin = pass_begin,
	.pages = pages,
	.zeros = zeros,
	.extents = extents,
	.hole = hole,
	.pass_end = pass_end,
	.check = check,
	.device = device,
	.hand_over = gw_source_hand_over,
	.tell = gw_source_peer_tell,
	.nbytes = nbytes,
};

/* --- verification ------------------------------------------------------- */

static int verify_block(struct gw_source *s, int block, struct gw_error *err)
{
	struct gw_ramblock *b = &s->c.vm->ram.block[block];
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
		gw_source_hints_hide(s, block, page, n, hash, &any);
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

	if (s->now->hinted)
		s->now->hinted_absent = gw_hint_nabsent(s->c.hint);
	for (int i = 0; i < ram->nblocks && !r; i++)
		r = verify_block(s, i, err);
	if (r)
		return r;
	gw_record_put(&s->out, GW_RECORD_VERIFY_END, true, 0);
	r = gw_source_flush_question(s, err);
	if (!r)
		r = gw_source_peer_wait(s, GW_RECORD_VERIFY_END, -1,
					"compare the RAM", err);
	if (!r)
		s->now->verified = (ram->total >> GW_PAGE_BITS) -
				   s->now->hinted_absent;
	return r;
}
