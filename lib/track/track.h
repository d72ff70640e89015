/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * track.h - find out which guest pages changed since we last asked.
 *
 * A tracker only ever *adds* bits to the blocks' dirty bitmaps, it never
 * clears them: clearing is the sender's decision. scan() may be called while
 * vCPUs run; a write that races with it is reported by this scan or by the
 * next one, never lost. "Reported" means: the page is in the bitmap when scan
 * returns, or a later scan will add it; a page copied after the scan that
 * reported it is either final or reported again.
 *
 * Writes through another process's mapping and I/O that pinned a page before
 * the scan are outside of what any tracker here sees: the VM driver refuses
 * the first and drains the second (docs/internals/data-flow.md).
 *
 * A page that the VM discards (balloon, free-page reporting) becomes zero
 * without being written; trackers may or may not report it. What the guest
 * wrote before is never lost by it.
 *
 * open() to close() belong to one thread, but for gw_track_mark().
 */
#ifndef GW_TRACK_TRACK_H
#define GW_TRACK_TRACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "ram/block.h"

/* What a userfaultfd is wanted for; also a label kept by the agent. */
enum gw_uffd_purpose {
	GW_UFFD_TRACK_ASYNC = 1, /* WP_ASYNC: never blocks the guest */
	/* Write-protect faults wait for us. Must be made without
	 * UFFD_USER_MODE_ONLY, or the kernel's own writes fail (KVM, read(2)).
	 */
	GW_UFFD_TRACK_SYNC = 2,
};

/*
 * How to get a userfaultfd that lives in the VM's process. @get returns an fd
 * (the caller owns it), O_NONBLOCK, *@used tells whether UFFDIO_API was
 * already done on it by an earlier owner (then it has the features of the
 * same purpose and may still have ranges registered). @release: tracking is
 * over and every range unregistered, whoever keeps duplicates may drop them.
 */
struct gw_uffd_source {
	int (*get)(void *arg, enum gw_uffd_purpose purpose, int *fd, bool *used,
		   struct gw_error *err);
	void (*release)(void *arg, enum gw_uffd_purpose purpose);
	void *arg;
};

struct gw_track_config {
	struct gw_ram *ram; /* dirty bitmaps to fill; peer_addr to look at */
	pid_t pid;	    /* the VM's process */
	struct gw_uffd_source uffd;
};

struct gw_track;

struct gw_track_ops {
	const char *name; /* as in the `tracker` parameter */
	/* Would it work here? The reason why not is in @err. */
	int (*probe)(const struct gw_track_config *c, struct gw_error *err);
	int (*open)(struct gw_track *t, struct gw_error *err);
	/* All pages clean from here on (the bitmaps are not touched). Undoes
	 * itself when it fails. */
	int (*start)(struct gw_track *t, struct gw_error *err);
	/* OR the pages written since start or the last scan into the bitmaps,
	 * count them in t->pages_reported, and watch them again. */
	int (*scan)(struct gw_track *t, struct gw_error *err);
	/* Optional: the same for pages [@first, @first + @n) of block @block
	 * alone, as far as they are watched. What it finds is as true as what
	 * scan() finds, only a scan() finds all. */
	int (*scan_range)(struct gw_track *t, int block, uint64_t first,
			  uint64_t n, struct gw_error *err);
	/* Stop watching; the guest pays nothing any more. Once per start. */
	void (*stop)(struct gw_track *t);
	void (*close)(struct gw_track *t); /* when stopped; frees t->priv */
};

struct gw_track {
	const struct gw_track_ops *ops;
	struct gw_track_config config;
	void *priv;
	/* statistics, owned by the scanning thread */
	uint64_t scans, pages_reported;
	int64_t scan_ns;
	bool started;
};

/*
 * @config is copied; its ram, with the block table as it is now, must outlive
 * the tracker, and the blocks must stay mapped in the VM until stop.
 *
 * Choose by @kind: "auto" probes pagemap-scan, then uffd-wp, and logs the
 * choice and the reason; a name forces it (an error if it does not work
 * here). "manual" is for tests and embedders that know what they wrote.
 */
int gw_track_open(const char *kind, const struct gw_track_config *config,
		  struct gw_track **out, struct gw_error *err) GW_MUST_CHECK;

/* May follow a stop; a tracker that runs is stopped first. */
int gw_track_start(struct gw_track *t, struct gw_error *err) GW_MUST_CHECK;

/* -ESRCH: the VM's process ended. After an error what was reported is valid,
 * but the set is not complete: the migration cannot go on. */
int gw_track_scan(struct gw_track *t, struct gw_error *err) GW_MUST_CHECK;

/*
 * What was written in pages [@first, @first + @n) of block @block, before they
 * are sent: then that need not be found, and sent, again. A tracker may find
 * nothing here; errors as above.
 */
int gw_track_scan_range(struct gw_track *t, int block, uint64_t first,
			uint64_t n, struct gw_error *err) GW_MUST_CHECK;

void gw_track_stop(struct gw_track *t); /* idempotent; NULL is fine */
void gw_track_close(struct gw_track *t); /* stops too; NULL is fine */

/* What a user may ask for, NULL terminated, "auto" first. Not "manual": it
 * knows only what its embedder marks. */
extern const char *const gw_track_names[];

/* Has this kernel what pagemap-scan takes? */
bool gw_track_can_scan_pagemap(void);

/* The manual tracker: bytes [@start, @start + @len) of @b were written. Any
 * thread. Only for a tracker opened as "manual". */
void gw_track_mark(struct gw_track *t, struct gw_ramblock *b, uint64_t start,
		   uint64_t len);

#endif
