/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * peer_sink.h - a plain QEMU (-incoming) as a sink: a standard stream over a
 * channel, with a return path that QEMU always answers on.
 *
 *	begin	header, configuration, OPEN_RETURN_PATH, PING 1; a QEMU that
 *		refuses the machine type closes, which later calls report
 *	ready	all but the end of the stream, then PING 2: its PONG says that
 *		every device section was taken in
 *	finish	EOF: QEMU now runs the VM, and SHUT 0 says so
 *
 * QEMU's own migration sends EOF without asking and believes its peer only
 * afterwards; asking first means that a destination which does not like a
 * device is found out while the source can still go on.
 */
#ifndef GW_IMAGE_PEER_SINK_H
#define GW_IMAGE_PEER_SINK_H

#include "base/cancel.h"
#include "chan/chan.h"
#include "godwit.h"
#include "image/sink.h"

/* @chan is taken over, also on failure. @channels: it has multifd, and its
 * channels are the caller's (gw_sink.channels). */
struct gw_sink *gw_sink_peer(struct gw_chan *chan, bool channels,
			     const struct godwit_params *params,
			     const struct gw_cancel *cancel,
			     struct gw_error *err);

#endif
