/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * channels.h - the connections of a migration that carry pages beside the main
 * one, a thread each. A channel's packets (wire/multifd.h) go straight to where
 * their pages belong.
 *
 * Passes do not mix. A channel that has read SYNC reads no further until the
 * main connection has come to its own mark: there the main thread waits for
 * all (hold), and nobody places anything until it lets them go (release).
 *
 *	main	  ... hold             release ...
 *	channel 0  page page SYNC............. page ...
 *	channel 1  page SYNC.................. page ...
 *
 * The first failure ends everything: it wakes the main thread out of its read
 * (gw_channels_refill()) or out of hold(), and all the other channels.
 */
#ifndef GW_DEST_CHANNELS_H
#define GW_DEST_CHANNELS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"
#include "base/progress.h"
#include "chan/chan.h"
#include "dest/place.h"
#include "wire/multifd.h"

struct gw_channel; /* one of them: channels.c */

struct gw_channels {
	/* set by the caller; zero: no channels, and every call does nothing */
	struct gw_chan *main; /* the main connection */
	struct gw_place *place;
	struct gw_progress *progress;
	const struct gw_cancel *cancel; /* may be NULL */
	int64_t idle_ms; /* no byte on any connection for so long: given up */
	bool deltas;	 /* GW_MULTIFD_DELTA was agreed on */
	bool numbered;	 /* packets are numbered over all channels, from 0, and
			    the first ones are syncs, as QEMU does: so a
			    channel that is missing shows */
	bool explains;	 /* a source that closes channels says why on the main
			    connection: listen for that a moment, after a
			    channel was lost */
	/* set by gw_channels_start() */
	unsigned int n;
	struct gw_channel *channel;
	struct gw_cancel stop; /* ends the reads of all of them */
	uint64_t past; /* bytes of channels that are stopped */
	int64_t grace; /* the main thread's: how long to listen for a reason */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t arrived, released;
	unsigned int nwaiting; /* channels that have read SYNC */
	unsigned int nended;   /* that were closed, in good order */
	uint64_t round;	       /* releases so far */
	bool quit; /* also read without the lock: atomic */
	struct gw_error failed; /* the first one; valid once `broken` */
	bool lost;		/* and it was the connection */
	bool broken;		/* atomic */
};

/*
 * Serve @chan[0..@n); they stay the caller's and must outlive
 * gw_channels_stop(). Return: 0, or -errno with @err and nothing started.
 */
int gw_channels_start(struct gw_channels *c, struct gw_chan *const *chan,
		      unsigned int n, struct gw_error *err) GW_MUST_CHECK;

/* Wait until every channel has read SYNC: then all pages they carried before
 * are in their places, and none of the later ones. */
int gw_channels_hold(struct gw_channels *c, struct gw_error *err) GW_MUST_CHECK;
void gw_channels_release(struct gw_channels *c);
int gw_channels_sync(struct gw_channels *c, struct gw_error *err) GW_MUST_CHECK;

/* After a sync: has nothing come since? Return: 0 or -errno with @err. Never
 * waits. */
int gw_channels_rest(struct gw_channels *c, struct gw_error *err) GW_MUST_CHECK;

/*
 * RAM is complete, the last sync is over: no thread is left, and nothing will
 * be placed. Return: 0, or -errno with @err when a channel has more.
 */
int gw_channels_finish(struct gw_channels *c,
		       struct gw_error *err) GW_MUST_CHECK;

/* Wherever they are: end the threads, free. Idempotent. */
void gw_channels_stop(struct gw_channels *c);

/* Has one of them failed? Return: 0 or -errno with @err. */
int gw_channels_check(struct gw_channels *c,
		      struct gw_error *err) GW_MUST_CHECK;

/* The main connection's bytes, for a reader; @arg a struct gw_channels. Ends
 * at a channel's failure, and is not idle while one of them moves. */
ssize_t gw_channels_refill(void *arg, const struct iovec *iov, int niov,
			   struct gw_error *err);

/* Main thread: bring progress->now up to date. */
void gw_channels_count(struct gw_channels *c);

#endif
