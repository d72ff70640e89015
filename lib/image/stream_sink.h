/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_sink.h - the sink that writes a standard QEMU stream, to whatever
 * takes bytes in order: a file, a pipe, a peer that is plain QEMU. What is
 * written, by call:
 *
 *	begin	header configuration [OPEN_RETURN_PATH PING 1] START table
 *	pages, zeros, delta		PART, opened by the first record
 *	pass	the end of PART; last: END (with nothing in it)
 *		with channels: a PART also if there is nothing in it
 *	device	the device sections, verbatim
 *	ready	file: EOF VMDESCRIPTION	 peer: [PING 2]
 *	finish				 peer: EOF VMDESCRIPTION
 *
 * Who reads EOF runs the VM, so a peer gets it last.
 */
#ifndef GW_IMAGE_STREAM_SINK_H
#define GW_IMAGE_STREAM_SINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/writer.h"
#include "image/sink.h"

/*
 * What PING of begin and ready carry; the peer answers with the same PONG. QEMU
 * takes any value. PING_READY comes among the device sections, which have no
 * lengths: a receiver that does not understand those (ours) finds it by its
 * value, which therefore is none that occurs by chance.
 */
#define GW_STREAM_PING_BEGIN 0x676f6477u
#define GW_STREAM_PING_READY 0x676f6478u

/*
 * Where a stream goes. All but flush may be NULL. Each is called from the
 * thread that uses the sink, after everything before was flushed.
 */
struct gw_stream_out {
	const char *name; /* of the sink, "stream" when NULL */
	gw_flush_fn flush;
	bool runs_it;	  /* a peer: EOF waits for finish() */
	bool return_path; /* a peer that answers: see above */
	bool channels;	  /* multifd: gw_sink.channels, and every section of
			     the RAM ends in a place to wait at */

	/* In ready(): all but the last word is out (a file: all). Wait until
	 * it is safe: fsync; PONG 2. */
	int (*ready)(void *arg, struct gw_error *err);
	/* In finish(): @said: the last word, EOF, may have been heard even if
	 * writing it failed; that failure is in @err then (@r) and this may
	 * make it GW_FAULT_UNCERTAIN. Else wait for SHUT; name the file. */
	int (*finish)(void *arg, int r, struct gw_error *err);
	/* gw_sink_ops.check */
	int (*check)(void *arg, struct gw_error *err);
	/* Frees @arg. */
	void (*close)(void *arg);
};

/*
 * @out is copied; @arg is taken over, also on failure. Nothing is written
 * before begin().
 */
struct gw_sink *gw_sink_stream(const struct gw_stream_out *out, void *arg,
			       struct gw_error *err);

#endif
