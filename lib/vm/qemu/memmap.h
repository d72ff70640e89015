/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memmap.h - where in a VM's RAM blocks a guest physical address lies, as QEMU
 * itself says ("info mtree -f"): machine types, sizes, max-ram-below-4g and
 * plugged memory move it. Text of QEMU 7.2 to 11.1:
 *
 *	FlatView #0
 *	 AS "memory", root: system
 *	 Root memory region: system
 *	  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000 KVM
 *
 * Only plain RAM counts: what is read-only or a device is left out.
 */
#ifndef GW_VM_QEMU_MEMMAP_H
#define GW_VM_QEMU_MEMMAP_H

#include <stdint.h>

#include "ram/block.h"
#include "vm/qemu/qmp.h"

#define GW_MEMMAP_MAX 128

struct gw_memmap {
	int n;
	struct gw_memmap_part {
		uint64_t addr, len; /* guest physical */
		int block;	    /* index into the VM's table */
		uint64_t offset;    /* in the block */
	} part[GW_MEMMAP_MAX];
};

/* -EPROTO: there is no memory of @ram in it. */
int gw_memmap_parse(struct gw_memmap *m, const struct gw_ram *ram,
		    const char *text, struct gw_error *err) GW_MUST_CHECK;

/* Ask QEMU. */
int gw_memmap_read(struct gw_memmap *m, const struct gw_ram *ram,
		   struct gw_qmp *q, int timeout_ms,
		   struct gw_error *err) GW_MUST_CHECK;

/*
 * The first piece of RAM in [@addr, @addr + @len): *@skip bytes before it are
 * none. Return: its length, 0: there is none; *@block and *@offset.
 */
uint64_t gw_memmap_find(const struct gw_memmap *m, uint64_t addr, uint64_t len,
			uint64_t *skip, int *block, uint64_t *offset);

#endif
