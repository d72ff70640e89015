/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * protect.h - the primary: after the bulk of a migration (source.c: setup,
 * passes) the VM stays and sends checkpoint after checkpoint.
 *
 *	speculate	passes over what changed, while it runs: scan, drain,
 *			send
 *	stop		the VM stands
 *	copy		scan; what changed is copied into a shadow of the RAM;
 *			meanwhile the VMM writes its device state
 *	cont		it runs on: the pause is over
 *	send		the shadow, the device state, CHECKPOINT
 *	ACK		it counts; output is released; the next may begin
 *
 * The lease (chan/lease.h) says until when the VM may run at all; a process of
 * its own keeps to that (vm.h). The thread of the migration, and the lease's.
 */
#ifndef GW_SOURCE_PROTECT_H
#define GW_SOURCE_PROTECT_H

#include "source/source.h"

/* gw_source_config with .protect: gw_source_run() returns 0 when the standby
 * took over in an orderly way (status completed) or the protection was
 * cancelled and ended in an orderly way (status cancelled). */

#endif
