/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sender.h - channels: each is a connection of its own with a thread that
 * takes tasks from the one queue (workers.h), looks for zero pages and deltas,
 * compresses and writes multifd packets: mostly one per task; deltas have their
 * own, and so has what is compressed among what is not. What was not copied for
 * a delta or to be compressed goes out straight from the guest's RAM, over a
 * unix socket by reference. At the end of a pass every channel says SYNC.
 *
 * A page is in at most one packet between two SYNCs, which is what the passes
 * are made of; so no packet overtakes another that matters. The first error,
 * on any channel, is the migration's.
 */
#ifndef GW_SOURCE_SENDER_H
#define GW_SOURCE_SENDER_H

#include "source/internal.h"

struct gw_senders_plan {
	unsigned int n;		/* channels, > 0 */
	const uint8_t *session; /* for the hello; NULL: zeros */
	const char *method;	/* "zlib", "zstd"; NULL: not compressed */
	uint32_t level;
	bool choose; /* compress only what is worth it (choice.h) */
	/* Pages may change until the peer has read them: the VM does not go on
	 * here after a success, as it does after a checkpoint or a save. */
	bool refer;
	bool encode; /* zero pages and deltas are found here (encode.h) and go
		      * in packets; else pages go as they are */
};

/* Connect the channels to s->c.uri and start them. s->senders is set also on
 * failure: gw_senders_stop(). */
int gw_senders_start(struct gw_source *s, const struct gw_senders_plan *p,
		     struct gw_error *err) GW_MUST_CHECK;

/* @n pages of block @block (of vm->ram) from page @first; @zero: known to be.
 * Waits for room; limits, cancel and the peer are looked at. */
int gw_senders_add(struct gw_source *s, int block, uint64_t first, uint64_t n,
		   bool zero, struct gw_error *err) GW_MUST_CHECK;

/* All that was added is written, and SYNC on every channel. */
int gw_senders_sync(struct gw_source *s, struct gw_error *err) GW_MUST_CHECK;

/* Bytes written on all channels; NULL: none. Any thread. */
uint64_t gw_senders_nbytes(const struct gw_senders *ss);

/* Cut the channels, end the threads. Frees; NULL is fine. */
void gw_senders_stop(struct gw_senders *ss);

#endif
