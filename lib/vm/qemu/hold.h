/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hold.h - what the guest sends is kept in QEMU until a checkpoint is safe:
 * two of QEMU's filter-buffer objects on each network backend with a device.
 *
 *	guest -> near -> far -> network
 *
 * `near` has what was sent since the VM ran on; while the VM stands it is cut:
 * all of that goes to `far`. When the checkpoint is safe, `far` lets go. Both
 * are done by switching a filter off, which empties it, and on again. Packets
 * to the guest go by other queues and are not touched.
 *
 * (A packet from a device reaches a backend's "rx" filters from the last of the
 * list to the first, so `near` is the one that was added later. A filter-buffer
 * has to have an interval at which it lets go by itself: at most 71 minutes of
 * the guest's time, counted anew whenever it is switched on. One checkpoint
 * that takes longer than that lets its packets out before it is safe.)
 */
#ifndef GW_VM_QEMU_HOLD_H
#define GW_VM_QEMU_HOLD_H

#include "vm/qemu/qmp.h"

/* On every backend. Return: how many there are, or -errno, and none is left. */
int gw_hold_begin(struct gw_qmp *q, struct gw_error *err) GW_MUST_CHECK;

/* @n as returned by begin. */
int gw_hold_cut(struct gw_qmp *q, int n, struct gw_error *err) GW_MUST_CHECK;
int gw_hold_release(struct gw_qmp *q, int n,
		    struct gw_error *err) GW_MUST_CHECK;

/* Let everything out, in order, and take the filters away: also those that a
 * godwit which is gone has left. */
int gw_hold_end(struct gw_qmp *q, struct gw_error *err) GW_MUST_CHECK;

#endif
