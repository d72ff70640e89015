/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * accept.h - a connection has come: look at its first bytes and let the right
 * engine go on with it.
 *
 *	"GODWIT\r\n"	a godwit source: dest.h, or into a file: refused
 *	"QEVM"		a plain QEMU: stream_in.h
 *	11 22 33 44	a channel of its multifd, before its main connection:
 *			kept, and the next one is waited for
 *	anything else	refused
 */
#ifndef GW_DEST_ACCEPT_H
#define GW_DEST_ACCEPT_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/progress.h"
#include "chan/chan.h"
#include "image/sink.h"
#include "vm/vm.h"

struct gw_accept {
	struct gw_vm *vm; /* into it, or NULL: into @sink */
	/* A file. Taken over, and NULL then, when a stream comes for it. */
	struct gw_sink *sink;
	const char *path; /* of the file, for messages */
	struct gw_listener *listener;
	const struct godwit_params *params;
	const struct gw_cancel *cancel; /* may be NULL */
	struct gw_progress *progress;
};

/*
 * Everything that comes over @chan, which is taken over, and what belongs to
 * it. Return: 0 when the VM (or file) is there; -EAGAIN without @err: this was
 * only a question, or nobody, wait for the next connection; -errno with @err.
 */
int gw_accept_run(struct gw_accept *a, struct gw_chan *chan,
		  struct gw_error *err) GW_MUST_CHECK;

#endif
