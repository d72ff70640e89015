/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what store.c and commit.c share. Not for other folders. */
#ifndef GW_COLO_INTERNAL_H
#define GW_COLO_INTERNAL_H

#include <xxhash.h>

#include "colo/journal.h"
#include "colo/store.h"

/* Of the pages of one block. Bits: any thread. */
struct gw_store_pages {
	uint64_t npages;
	uint8_t *committed, *next;
	struct gw_bitmap data;	  /* came, is in `next` */
	struct gw_bitmap zero;	  /* became zero */
	struct gw_bitmap present; /* `committed` has memory; else: a hole */
	struct gw_bitmap backed;  /* `next` has */
};

struct gw_store {
	/* set once */
	char *path;  /* for messages too. Owned */
	bool memory; /* nothing is at that path */
	bool sync;
	int fd;
	uint8_t *map; /* of the whole file */
	struct gw_store_head head;
	struct gw_store_layout layout;
	struct gw_store_pages pages[GW_RAM_MAX_BLOCKS];
	struct gw_flush *flush;
	XXH3_state_t *hash; /* of the one thread */
	/* the one thread's */
	struct gw_store_slot slot; /* that counts */
	struct gw_error broken;	   /* code != 0: only opening it anew helps */
};

/* store.c */
/* 0, or why not any more. */
int gw_store_usable(const struct gw_store *s, struct gw_error *err);
/* Memory for pages of @mem, some of which are in @have: all of them then.
 * Without it a full disk would be a SIGBUS. */
int gw_store_back(struct gw_store *s, uint8_t *mem, struct gw_bitmap *have,
		  uint64_t first, uint64_t n, struct gw_error *err);
/* [@from, @from + @len) of the file reads as zero and takes nothing. */
int gw_store_punch(struct gw_store *s, uint64_t from, uint64_t len,
		   struct gw_error *err);

/* The next run of @b in [*@at, @end): *@at is its start. 0: none. */
uint64_t gw_store_run(const struct gw_bitmap *b, uint64_t *at, uint64_t end);

/* commit.c */
/* Wait for the disk, if that was asked for. */
int gw_store_sync(struct gw_store *s, struct gw_error *err);
int gw_store_pwrite(struct gw_store *s, const void *data, size_t len,
		    uint64_t at, struct gw_error *err);
/* What a dead process was about when it died: checked, and done again. */
int gw_store_resume(struct gw_store *s, struct gw_error *err);

#endif
