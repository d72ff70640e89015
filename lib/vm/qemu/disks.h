/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disks.h - disks are copied by QEMU itself: at the source one mirror job per
 * disk into an NBD client node, at the destination QEMU's NBD server with a
 * writable export per disk. Both speak to a socket of godwit's
 * (docs/internals/disks.md).
 *
 * Jobs, nodes and exports are called "godwit-diskN", so that what a godwit
 * that was killed left is known by its name.
 */
#ifndef GW_VM_QEMU_DISKS_H
#define GW_VM_QEMU_DISKS_H

#include "vm/qemu/rundir.h"
#include "vm/vm.h"

struct gw_qemu_disks {
	struct gw_disks list;
	char node[GW_DISKS_MAX][64]; /* source: the root node of each */
	bool incremental;
	uint32_t started; /* source: there may be something to take down */
	bool completing;
	/* destination */
	bool serving;
	char path[GW_SUN_PATH_SIZE];   /* of the server's socket, "" none */
	char folder[GW_SUN_PATH_SIZE]; /* made for it, "" none */
};

extern const struct gw_vm_disk_ops gw_qemu_disk_ops;

#endif
