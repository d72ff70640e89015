/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory.h - the files behind the RAM of a VM that is about to be started.
 *
 * Each is in no folder, shared, and open under the number that the command
 * line has for it (/proc/self/fd/N), to be inherited by QEMU. Nothing of it is
 * left behind, whatever dies.
 *
 *	small pages	a memfd
 *	reserved	a memfd of hugetlbfs
 *	transparent	a file of a tmpfs with huge=always that is mounted
 *			nowhere: what a memfd gets is one setting for the whole
 *			host (shmem_enabled), and "never" as a rule
 */
#ifndef GW_VM_QEMU_MEMORY_H
#define GW_VM_QEMU_MEMORY_H

#include "base/error.h"
#include "vm/qemu/cmdline.h"

/* By enum gw_hugepages. */
struct gw_hugepages_kind {
	const char *name; /* in vm.json */
	const char *on;	  /* " on huge pages"; small ones: "" */
	const char *takes; /* to be made, behind that */
};
extern const struct gw_hugepages_kind gw_hugepages_kinds[];

/* The kind of @name; what nobody knows (an older vm.json): small pages. */
enum gw_hugepages gw_hugepages_find(const char *name);

/* RAM in transparent huge pages takes CAP_SYS_ADMIN to make, and pagemap-scan
 * to be tracked. */
bool gw_memory_can_be_transparent(void);

/* All blocks of @c that have a number. Return: 0; -ENOMEM (too few reserved
 * pages), -EPERM (transparent ones take CAP_SYS_ADMIN), another -errno. */
int gw_memory_make(const struct gw_cmdline *c,
		   struct gw_error *err) GW_MUST_CHECK;

#endif
