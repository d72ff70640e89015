/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_in.h - an arriving QEMU stream fills a sink: a waiting VM or a file.
 * The other side is a plain QEMU, or whatever writes its format.
 *
 *	setup		configuration, block table
 *	active		pages
 *	device		device state up to its end, loaded
 *	completed	the VM runs here; the file is complete
 *
 * Who owns the VM. If the source opened a return path it stands still, without
 * a time limit, until it reads SHUT: 0 makes it give the VM up, 1 or the end of
 * the connection makes it run on. So SHUT 0 is said only when everything is
 * loaded (or on disk), and the VM runs here only after the source has closed
 * in good order with every byte of the SHUT delivered. Anything else after
 * SHUT 0 is uncertain (GW_FAULT_UNCERTAIN): loaded and paused here.
 * Without a return path the source gives the VM up when it has written its
 * last byte, whatever happens to it here; errors say so.
 * docs/internals/hand-over.md has the table.
 *
 * With multifd most pages come over channels (channels.h). How many, the stream
 * does not say; but a source sends the first sync over all of them before it
 * ends START. When a FLUSH record stands for that, every FLUSH is a sync; when
 * none does (machine types up to 8.0), every end of a RAM section is one.
 */
#ifndef GW_DEST_STREAM_IN_H
#define GW_DEST_STREAM_IN_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/reader.h"
#include "chan/chan.h"
#include "dest/join.h"
#include "image/sink.h"

struct gw_stream_in_config {
	struct gw_sink *sink; /* closed in any case */
	const char *name;     /* of the VM or file, for messages */
	struct gw_chan *chan; /* accepted; stays the caller's */
	struct gw_reader *in; /* over @chan; stays the caller's */
	/* The channels of multifd: those that came before this connection, and
	 * where the others will come. Stays the caller's. NULL: none. */
	struct gw_join *join;
	const struct godwit_params *params;
	const struct gw_cancel *cancel; /* may be NULL */
	struct gw_progress *progress;
};

/* Return: 0 when the sink has finished, or -errno with @err. */
int gw_stream_in_run(const struct gw_stream_in_config *c,
		     struct gw_error *err) GW_MUST_CHECK;

#endif
