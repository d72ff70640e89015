/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * store.h - the RAM cache of a standby: the last complete checkpoint, and
 * beside it the pages of the one that is coming, in one sparse file (or memfd)
 * that is mapped. The VM's RAM is never touched by what is not complete.
 *
 *	head		magic, version, geometry, name of the VM (journal.h)
 *	slots		two slots of the journal, written in turn
 *	map		which pages are in `next`, and which became zero
 *	states		two areas for device state, used in turn
 *	committed	the RAM of the last complete checkpoint
 *	next		pages that came since
 *
 * A slot is {serial, checkpoint, phase, lengths and hashes of device state and
 * map, hash of the slot}; the one with the higher serial counts:
 *
 *	APPLYING n	checkpoint n is complete: `committed` may be between
 *			n - 1 and n, and is n when `next` was copied over it
 *	DONE n		`committed` is n; what is in `next` is worth nothing
 *
 * commit = device state, map, slot APPLYING (this is the point at which n
 * counts), copy, slot DONE. Opening a file in phase APPLYING copies again,
 * which may be done any number of times. The map is not written before, so
 * what came of a checkpoint that never was is not there for anybody.
 *
 * The death of this process at any instruction is harmless; so is that of the
 * host with @sync, which waits for the disk before and after each slot: what
 * the slot speaks of is there before it, and what it allows to be overwritten
 * stays until it is there. Twice before n counts, twice after.
 *
 * The first checkpoint has none before it that would have to be kept: its
 * pages go to `committed` at once, and nothing is APPLYING.
 *
 * Memory is asked for before it is written to, so a full disk or memory is an
 * error and no SIGBUS, and commit() finds out before n counts. A page that
 * never came, or became zero in a long run, takes none.
 *
 * room() and zeros(): any thread, each with pages of its own. The rest: one
 * thread, while nobody places.
 */
#ifndef GW_COLO_STORE_H
#define GW_COLO_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo/flush.h"
#include "ram/block.h"

struct gw_store;

struct gw_store_config {
	const char *path; /* NULL: memory */
	const char *name; /* of the VM; a file of another is refused */
	const char *machine;
	const struct gw_ram *ram; /* the VM's: names and lengths are copied;
				   * a block here is its index in it */
	unsigned int threads;	  /* of copying, > 0 */
	bool sync;
};

/* Create, or open what is there and bring it to its last complete checkpoint.
 * A file that is in use (lock), of another VM or geometry, or damaged is an
 * error that names it and the remedy. NULL with @err. */
struct gw_store *gw_store_open(const struct gw_store_config *c,
			       struct gw_error *err);
/* The file stays, memory goes. NULL is fine. */
void gw_store_close(struct gw_store *s);

/* The last complete one; 0: none. Its device state and flags. */
uint64_t gw_store_seq(const struct gw_store *s);
const void *gw_store_state(const struct gw_store *s, size_t *len);
uint32_t gw_store_flags(const struct gw_store *s); /* the caller's own bits */

/* A primary begins anew: there is no checkpoint any more, all is zero. */
int gw_store_reset(struct gw_store *s, struct gw_error *err) GW_MUST_CHECK;
/* What came since the last commit is dropped. */
int gw_store_drop(struct gw_store *s, struct gw_error *err) GW_MUST_CHECK;

/* Pages [@first, @first + @n) of block @block are going to be written at the
 * address in *@host, and hold there what came last (for deltas). */
int gw_store_room(struct gw_store *s, int block, uint64_t first, uint32_t n,
		  uint8_t **host, struct gw_error *err) GW_MUST_CHECK;
int gw_store_zeros(struct gw_store *s, int block, uint64_t first, uint64_t n,
		   struct gw_error *err) GW_MUST_CHECK;

/*
 * What came is checkpoint @seq, with @state (in two pieces, of which the first
 * may be empty). On failure the one before counts still, and what came is
 * dropped. Then it is copied into `committed` and, if @ram, into @ram's memory
 * too: the union of what came and of what @own says was written there (may be
 * NULL: a VM that did not run; as many bitmaps as blocks, cleared). With the
 * first one all of @ram is filled, as by gw_store_fill().
 *
 * A failure that leaves open which one counts on the disk (gw_store_seq() is
 * the last that surely does), or that comes after one counts, is what every
 * call returns from then on: open the file anew. If @ram alone failed,
 * gw_store_seq() is @seq.
 */
struct gw_store_commit {
	uint64_t seq;
	const void *base, *part;
	size_t nbase, npart;
	uint32_t flags;
	struct gw_ram *ram; /* mapped writable */
	struct gw_bitmap *own;
};
int gw_store_commit(struct gw_store *s, const struct gw_store_commit *c,
		    struct gw_error *err) GW_MUST_CHECK;

/* All of `committed` into @ram, whose memory may hold anything: what is a hole
 * here becomes one there. For a VMM that came later. */
int gw_store_fill(struct gw_store *s, struct gw_ram *ram,
		  struct gw_error *err) GW_MUST_CHECK;

/* Read access, for tests and a copy: the committed page, NULL: a hole. */
const uint8_t *gw_store_page(struct gw_store *s, int block, uint64_t page);

/* Bytes of memory or disk that it takes now. */
uint64_t gw_store_bytes(const struct gw_store *s);

#endif
