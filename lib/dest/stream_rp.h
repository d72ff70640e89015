/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_rp.h - the return path of an arriving QEMU stream, and the hand-over
 * that goes over it. Shared by stream_in.c and stream_rp.c only.
 */
#ifndef GW_DEST_STREAM_RP_H
#define GW_DEST_STREAM_RP_H

#include "base/writer.h"
#include "dest/channels.h"
#include "dest/stream_in.h"
#include "wire/devstream.h"
#include "wire/stream.h"

#define GW_STREAM_IN_BATCH 256u /* pages: 1 MiB */

/* Every field belongs to the thread that runs the operation; `place` is also
 * used by the threads of the channels. */
struct gw_stream_in {
	struct gw_stream_in_config c;
	struct godwit_stats *now; /* = &c.progress->now */
	struct gw_stream s;
	struct gw_stream_event ev;
	struct gw_image_desc desc;
	struct gw_writer out; /* return path */
	struct gw_devstream tail;
	struct gw_place_sink place;
	struct gw_channels channels;
	/* consecutive pages, or zero pages, that the sink has not seen yet */
	uint8_t *batch;
	uint64_t batch_first, nbatch;
	int batch_block;
	bool batch_zero;
	/* how far it has come */
	bool begun;	/* the sink's begin() was called */
	bool joined;	/* channels were looked for */
	bool per_round; /* a FLUSH is their sync; not: the end of a section */
	bool last_pass; /* END came */
	size_t ready_at; /* loaded up to here, as the source asked; 0: not yet */
	bool whole;	/* the stream is here to its last byte */
	bool shut;	/* SHUT 0 was said: the source may give the VM up */
	bool gone;	/* and it did, or (no return path) does anyway */
};

/* OPEN_RETURN_PATH, PING... */
int gw_stream_rp_command(struct gw_stream_in *x,
			 const struct gw_command_record *c,
			 struct gw_error *err) GW_MUST_CHECK;

/*
 * A source that is no QEMU may ask, behind the last device section, whether all
 * of them were taken in, and give its VM up only then (peer_sink.h). @len bytes
 * of device state have come, without the question.
 */
int gw_stream_rp_asked(struct gw_stream_in *x, size_t len, uint32_t ping,
		       struct gw_error *err) GW_MUST_CHECK;

/* All is there: load it, settle with the source who has it, finish. */
int gw_stream_rp_hand_over(struct gw_stream_in *x,
			   struct gw_error *err) GW_MUST_CHECK;

/* After a failure: undo, close the sink, tell the source; @err then says what
 * became of the VM. */
void gw_stream_rp_fail(struct gw_stream_in *x, struct gw_error *err);

#endif
