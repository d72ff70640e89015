/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * state.h - the device state of a VM that stands, again and again, in one of
 * two ways:
 *
 *	FULL	QMP migrate to a socket pair (save.c): ROMs, video RAM and
 *		devices. About 3 ms
 *	SMALL	QMP xen-save-devices-state to a memfd: devices alone. About
 *		1.5 ms
 *
 * SMALL is made what a QEMU loads by putting it behind the beginning of a FULL
 * one, up to its first device: file header, configuration, ROMs. That `base`
 * is right as long as the ROMs are: only where nothing but ROMs is outside of
 * the VM's RAM, and not when the guest was reset, since the firmware then
 * writes its tables anew. It is fetched again now and then in any case; it is
 * a new generation only if it differs.
 *
 * xen-save-devices-state with live=false has no side effects on a VM that
 * stands (live=true would take the disks away from it), but QEMU notes in the
 * state that the VM runs. It does not start by itself for that: load.c tells a
 * QEMU to stay stopped before it loads.
 */
#ifndef GW_VM_QEMU_STATE_H
#define GW_VM_QEMU_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/vm.h"

struct gw_qemu;

struct gw_qemu_state {
	bool open;
	bool full;   /* the method of the one under way */
	bool same;   /* the VM has not run since `last` was taken */
	bool rigid;  /* something outside RAM is not ROM: FULL always */
	int mem, fd; /* SMALL: the file, and what QEMU writes to */
	int64_t fdset;
	uint8_t *base;
	size_t nbase;
	uint64_t generation; /* of base, 0: none yet */
	int64_t base_ns;     /* when it was fetched */
	int64_t reset_ns;    /* the guest's last reset, 0: none */
	uint8_t *part;	     /* of SMALL */
	size_t cap;
	struct gw_vm_state last;
};

/* Migration settings are saved, or will be. */
int gw_qemu_state_open(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;

/*
 * As vm.h says. @ran: it runs on after this; otherwise QEMU is to stay in the
 * state in which it rests. (7.2 goes to `postmigrate` after FULL all the same,
 * from where it can only run; so a VM that rests is asked once.)
 */
int gw_qemu_state_begin(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;
int gw_qemu_state_end(struct gw_qemu *q, bool ran, struct gw_vm_state *s,
		      struct gw_error *err) GW_MUST_CHECK;

/* QEMU has nothing of ours any more. Idempotent. */
void gw_qemu_state_close(struct gw_qemu *q);
/* The same when QEMU need not be told. */
void gw_qemu_state_fini(struct gw_qemu *q);

#endif
