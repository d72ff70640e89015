/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * channel.h - one connection of channels.h: from its bytes to pages in their
 * places. Shared by channel.c and channels.c only.
 */
#ifndef GW_DEST_CHANNEL_H
#define GW_DEST_CHANNEL_H

#include "dest/channels.h"

struct gw_inflate;

struct gw_channel {
	/* set once */
	struct gw_channels *all;
	struct gw_chan *chan;
	unsigned int id;
	pthread_t thread;
	uint8_t *payload; /* GW_MULTIFD_MAX_PAYLOAD */
	uint8_t *pages;	  /* a packet's, those that are not read in place */
	/* its thread's */
	uint8_t head[GW_MULTIFD_PACKET_SIZE];
	size_t nhead; /* bytes of the next header that are there */
	struct gw_multifd_packet p;
	int block; /* of p */
	struct gw_inflate *zlib, *zstd;
	uint8_t *page[GW_MULTIFD_PAGES]; /* where p's normal pages go */
	struct iovec iov[GW_MULTIFD_PAGES];
	bool lost;    /* its connection, that is why it fails */
	bool moved;   /* atomic: it had something to say since the last release */
	bool ended;   /* in good order */
	bool started; /* the main thread's */
	/* guarded by all->lock */
	bool waiting;
	uint64_t last; /* the highest number of a packet */
	/* atomic: taken away by gw_channels_count() */
	uint64_t normal, zero, deltas, delta_bytes, packed, packed_in,
		packed_out;
	const char *method; /* atomic: of compression */
};

/* The next packet's header into ch->p. Return: 0; 1: the end, where a packet
 * could begin; -errno. */
int gw_channel_get(struct gw_channel *ch, struct gw_error *err) GW_MUST_CHECK;

/* QEMU before 9.0 also sends packets with nothing at all. */
static inline bool gw_channel_empty(const struct gw_channel *ch)
{
	return !(ch->p.flags & GW_MULTIFD_SYNC) && !(ch->p.normal + ch->p.zero);
}

/* Read what belongs to the pages of ch->p and put them into their places. */
int gw_channel_place(struct gw_channel *ch, struct gw_error *err) GW_MUST_CHECK;

/* channels.c: as gw_chan_readv(), but idle is only who is idle with all the
 * others. */
ssize_t gw_channels_readv(struct gw_channels *c, struct gw_chan *chan,
			  const struct iovec *iov, int niov,
			  struct gw_error *err) GW_MUST_CHECK;

#endif
