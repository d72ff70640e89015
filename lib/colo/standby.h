/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * standby.h - the other host: receive checkpoints (dest/), keep the last
 * complete one (store.h), and run the VM from it when the primary is gone.
 *
 *	listening	no primary yet, or the store has one from before
 *	receiving	the first copy comes
 *	protected	there is a checkpoint
 *	taking over	the lease has expired (or FAILOVER, GO came): the
 *			arbiter is asked, device state loaded, the VM run
 *
 * A VMM that ended while it waited, or that does not like the state it is
 * given, is replaced by a fresh one (vm.h replace()), whose RAM is filled from
 * the store.
 *
 * A control socket in the VM's folder (standby.sock) takes one line, "status"
 * or "failover", and answers with one line of JSON.
 *
 * The caller's thread; one for the control socket, one for the lease, those of
 * the channels and of the flush.
 */
#ifndef GW_COLO_STANDBY_H
#define GW_COLO_STANDBY_H

#include "base/cancel.h"
#include "base/progress.h"
#include "chan/chan.h"
#include "godwit.h"
#include "vm/vm.h"

struct gw_standby_config {
	struct gw_vm *vm; /* waits for a migration */
	struct gw_listener *listener;
	const char *control; /* path of the control socket; NULL: none */
	const struct godwit_params *params;
	const struct gw_cancel *cancel;
	struct gw_progress *progress;
	void (*event)(const char *what, const char *detail, void *data);
	void *data;
};

/* Return: 0 with *@took_over: the VM runs here; 0 without: the primary ended
 * its protection, the VM is there; -errno with @err. */
int gw_standby_run(const struct gw_standby_config *c, bool *took_over,
		   struct gw_error *err) GW_MUST_CHECK;

/* The other end of the control socket at @path. @command: "status",
 * "failover". The answer is the caller's to free; NULL with @err. */
char *gw_standby_ask(const char *path, const char *command, int64_t timeout_ms,
		     struct gw_error *err);

#endif
