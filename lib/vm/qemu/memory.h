/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * memory.h - the files behind the RAM of a VM that is about to be started.
 *
 * Each has no name, is shared, and is open under the number that the command
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

/* All blocks of @c that have a number. Return: 0; -ENOMEM (too few reserved
 * pages), -EPERM (transparent ones take CAP_SYS_ADMIN), another -errno. */
int gw_memory_make(const struct gw_cmdline *c,
		   struct gw_error *err) GW_MUST_CHECK;

#endif
