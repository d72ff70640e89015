/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * manual.c - a tracker that is told: for embedders that know what they wrote,
 * and for tests. Looks at no memory itself.
 */
#include <errno.h>
#include <stdlib.h>

#include "track/internal.h"

struct manual {
	int nblocks; /* bitmaps in use */
	struct gw_bitmap marked[GW_RAM_MAX_BLOCKS]; /* any thread */
};

static int manual_probe(const struct gw_track_config *c, struct gw_error *err)
{
	return 0;
}

static void manual_close(struct gw_track *t)
{
	struct manual *m = t->priv;

	for (int i = 0; m && i < m->nblocks; i++)
		gw_bitmap_fini(&m->marked[i]);
	free(m);
	t->priv = NULL;
}

static int manual_open(struct gw_track *t, struct gw_error *err)
{
	struct manual *m = calloc(1, sizeof(*m));
	const struct gw_ram *ram = t->config.ram;

	t->priv = m;
	if (!m)
		return gw_fail(err, ENOMEM, "no memory for a tracker");
	for (; m->nblocks < ram->nblocks; m->nblocks++) {
		const struct gw_ramblock *b = &ram->block[m->nblocks];
		int r = gw_bitmap_init(&m->marked[m->nblocks],
				       gw_ramblock_npages(b), err);

		if (r) {
			manual_close(t);
			return r;
		}
	}
	return 0;
}

static int manual_start(struct gw_track *t, struct gw_error *err)
{
	struct manual *m = t->priv;

	for (int i = 0; i < m->nblocks; i++)
		gw_bitmap_clear_all(&m->marked[i]);
	return 0;
}

static int manual_scan(struct gw_track *t, struct gw_error *err)
{
	struct manual *m = t->priv;

	for (int i = 0; i < m->nblocks; i++) {
		struct gw_bitmap *marked = &m->marked[i];
		uint64_t first = 0, n;

		while ((n = gw_bitmap_take_run(marked, first, &first))) {
			gw_bitmap_set_range(&t->config.ram->block[i].dirty,
					    first, n);
			t->pages_reported += n;
		}
	}
	return 0;
}

static int manual_scan_range(struct gw_track *t, int block, uint64_t first,
			     uint64_t n, struct gw_error *err)
{
	struct manual *m = t->priv;

	t->pages_reported +=
		gw_bitmap_move_range(&t->config.ram->block[block].dirty,
				     &m->marked[block], first, n);
	return 0;
}

static void manual_stop(struct gw_track *t)
{
}

const struct gw_track_ops gw_track_manual = {
	.name = "manual",
	.probe = manual_probe,
	.open = manual_open,
	.start = manual_start,
	.scan = manual_scan,
	.scan_range = manual_scan_range,
	.stop = manual_stop,
	.close = manual_close,
};

void gw_track_mark(struct gw_track *t, struct gw_ramblock *b, uint64_t start,
		   uint64_t len)
{
	struct manual *m = t->priv;
	uint64_t end, first;

	if (t->ops != &gw_track_manual || !len || start >= b->used_length)
		return;
	end = len > b->used_length - start ? b->used_length : start + len;
	first = start >> GW_PAGE_BITS;
	/* A scan between the write and this sees it next time. */
	gw_bitmap_set_range(&m->marked[b - t->config.ram->block], first,
			    ((end - 1) >> GW_PAGE_BITS) - first + 1);
}
