/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hint.h - which pages the guest says are free, and what that may be used for.
 * The rules are here, in one place; who asks the guest is not
 * (vm/qemu/hintagent.h, hint/balloon.h, godwit_hint_free()).
 *
 * A free page need not be sent in the bulk pass: its bit is taken out of the
 * dirty bitmap. What makes that sound (docs/internals/free-pages.md):
 *
 *	- a hint counts only in a window, from after tracking started to before
 *	  the first scan. Each window has an id. A hint says which window it
 *	  answers: the guest looked after it was asked, so after tracking
 *	  started, and what it writes from then on some scan reports;
 *	- closing waits for hints that are being applied. No scan runs in the
 *	  window, so no bit that a hint takes came from a scan.
 *
 *	source:		open  ...bulk pass...  close  scan  reported  ...  fini
 *	any thread:		free free free
 *
 * The destination has zeros where such a page is, unless the guest writes it
 * later: gw_hint_absent() tells which those are, for who compares memory.
 */
#ifndef GW_HINT_HINT_H
#define GW_HINT_HINT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

/* Pages, but for the last. */
struct gw_hint_stats {
	uint64_t accepted; /* taken out of the bulk pass */
	uint64_t late;	   /* sent before, or never populated */
	uint64_t stale;	   /* in answers to another window, or after it */
	uint64_t refused;  /* ranges outside of the VM's memory */
};

/* Hints are wanted from now on, as answers to @id; 0: no longer. From the
 * migration thread. */
typedef void (*gw_hint_wanted_fn)(uint32_t id, void *data);

struct gw_hint {
	pthread_mutex_t lock;
	struct gw_ram *ram; /* guarded by lock; NULL: no window was opened */
	uint32_t id;	    /* guarded by lock; 0: closed */
	uint32_t last_id;   /* guarded by lock: of the last window */
	bool closing;	    /* atomic: no new step, before the lock is had */
	struct gw_hint_stats stats; /* atomic */
	/* pages taken out and not reported written since; made by open */
	struct gw_bitmap absent[GW_RAM_MAX_BLOCKS];
	int nabsent;
	/* set before use */
	gw_hint_wanted_fn wanted;
	void *data;
};

void gw_hint_init(struct gw_hint *h);
void gw_hint_fini(struct gw_hint *h);

/*
 * Tracking has started and all that is populated is marked: @ram's dirty
 * bitmaps are the bulk pass. Return: 0 with the new *@id, never 0 or 1 and not
 * that of the window before; -ENOMEM.
 */
int gw_hint_open(struct gw_hint *h, struct gw_ram *ram, uint32_t *id,
		 struct gw_error *err) GW_MUST_CHECK;

/* Before the first scan. What arrives later is stale. Idempotent. */
void gw_hint_close(struct gw_hint *h);

/* A scan has added what was written to the dirty bitmaps: those pages are not
 * absent any more, they will be sent. */
void gw_hint_reported(struct gw_hint *h);

/* The same for pages [@first, @first + @n) of block @block. */
void gw_hint_reported_range(struct gw_hint *h, int block, uint64_t first,
			    uint64_t n);

/* No hint can come any more: forget the VM's memory. */
void gw_hint_end(struct gw_hint *h);

/*
 * Any thread: [@offset, @offset + @length) of block @block (its name) was free
 * when the guest looked, asked with @id. Rounded inwards to whole pages.
 * Return: 0, also for pages that were sent already; -ESTALE: @id is not the
 * open window, or it closed meanwhile; -EINVAL: no such memory.
 */
int gw_hint_free(struct gw_hint *h, uint32_t id, const char *block,
		 uint64_t offset, uint64_t length) GW_MUST_CHECK;

/* The same for a block by its index in the VM's table. */
int gw_hint_free_at(struct gw_hint *h, uint32_t id, int block, uint64_t offset,
		    uint64_t length) GW_MUST_CHECK;

/* Was the page hinted free, taken out, and not written since? Exact once the
 * last scan is merged. */
bool gw_hint_absent(const struct gw_hint *h, int block, uint64_t page);
uint64_t gw_hint_nabsent(const struct gw_hint *h);

/* A consistent-enough copy; any thread. */
void gw_hint_get_stats(const struct gw_hint *h, struct gw_hint_stats *stats);

#endif
