/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * dest.h - the side that takes a VM in.
 *
 *	setup		greeting, block table; all RAM is made zero
 *	active		pages are placed straight into the VM's memory
 *	device		RAM is complete: the device state is loaded
 *	completed	READY was said, GO came, the VM runs
 *
 * dest.c is the state machine, load.c what arrives, put.c how it is
 * written, join.c and channels.c further connections, handover.c the end.
 * (What does not come from a godwit: accept.h, stream_in.h, vm_sink.h.) The
 * caller's thread, and one per channel. Before READY any
 * failure leaves the waiting VMM as it was; between READY and GO a lost
 * connection leaves the VM paused and says so.
 *
 * With a keeper checkpoints come instead (checkpoint.h, keep.c), and the VM is
 * not touched.
 */
#ifndef GW_DEST_DEST_H
#define GW_DEST_DEST_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/progress.h"
#include "base/reader.h"
#include "chan/chan.h"
#include "dest/checkpoint.h"
#include "vm/vm.h"

/* Read-ahead: many pages per read, and it stays in the processor's cache. */
#define GW_DEST_READ_BUFFER (256u << 10)

struct gw_dest_config {
	struct gw_vm *vm;
	struct gw_chan *chan; /* accepted; stays the caller's */
	/* Where further connections come; NULL: there will be none. */
	struct gw_listener *listener;
	const struct godwit_params *params;
	const struct gw_cancel *cancel; /* may be NULL */
	struct gw_progress *progress;
	struct gw_reader *in; /* over @chan, its bytes not consumed yet; taken
				 over. NULL: made here */
	struct gw_dest_keeper *keeper; /* checkpoint.h; NULL: a migration */
	enum gw_dest_kept *kept;       /* with a keeper: how it ended */
};

/* Return: 0 when the VM runs here (with a keeper: what *@kept says); -EAGAIN
 * without @err: somebody only asked
 * whether it would work, wait for the next connection; -errno with @err. */
int gw_dest_run(const struct gw_dest_config *c,
		struct gw_error *err) GW_MUST_CHECK;

#endif
