/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vm.h - a VM in an unmodified QEMU, as a struct gw_vm: QMP for what QEMU
 * does, the agent for its memory. Works for 7.2 to 11.1.
 */
#ifndef GW_VM_QEMU_VM_H
#define GW_VM_QEMU_VM_H

#include "vm/qemu/rundir.h"
#include "vm/vm.h"

/*
 * Attach to the QEMU @ref names. Takes its move lock, its QMP monitor and its
 * agent until gw_vm_close(). NULL with @err.
 */
struct gw_vm *gw_qemu_open(const struct gw_vmref *ref,
			   const struct gw_cancel *cancel,
			   struct gw_error *err);

/* The folder of a VM that gw_qemu_open() gave; "": it has none. */
const char *gw_qemu_folder(struct gw_vm *vm);

#endif
