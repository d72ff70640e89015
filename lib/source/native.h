/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * native.h - give a VM away in QEMU's own stream: QEMU produces all of it, and
 * godwit carries it (carry.h) to a plain QEMU with -incoming, or to a godwit
 * that takes such a stream. docs/internals/native.md.
 *
 *	active		QEMU sends RAM; the VM runs
 *	pre-switchover	QEMU stopped the VM and waits. The last moment for Ctrl-C
 *	device		migrate-continue was given: rest of RAM, device state.
 *			All of it carried: the destination may run the VM
 *	completed	the destination's SHUT 0 was carried back
 *
 * Up to migrate-continue every failure leaves the VM running here. After it:
 *
 *	SHUT 0			the destination has it
 *	SHUT 1, or the peer	it does not: QEMU runs the VM on here
 *	ended the connection
 *	silence			nobody knows. QEMU is told SHUT 0 in the
 *				destination's place, so that the VM stands
 *				still here; an operator decides (exit 8)
 */
#ifndef GW_SOURCE_NATIVE_H
#define GW_SOURCE_NATIVE_H

#include "source/source.h"

/* The VM must be one of QEMU's (vm/qemu/vm.h). Return: 0 when the destination
 * said that it has the VM, -errno with @err. */
int gw_native_run(const struct gw_source_config *c,
		  struct gw_error *err) GW_MUST_CHECK;

#endif
