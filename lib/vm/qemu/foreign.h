/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * foreign.h - the QEMU devices and backends whose guest memory is written by
 * somebody other than QEMU's own process, so that no tracker in here sees it.
 * Tables only: the command line (cmdline.c) and a running VM (vm.c) are
 * checked against the same ones.
 */
#ifndef GW_VM_QEMU_FOREIGN_H
#define GW_VM_QEMU_FOREIGN_H

struct gw_foreign {
	const char *name;   /* a '*' at the end stands for any ending */
	const char *why;    /* "another process writes guest memory, ..." */
	const char *remedy; /* "use virtio-vga" */
};

/* By QOM type ("vfio-pci"), network backend type ("vhost-user"; "vhost" is a
 * tap with the kernel's vhost), block driver. NULL: nothing against it. */
const struct gw_foreign *gw_foreign_device(const char *type);
const struct gw_foreign *gw_foreign_netdev(const char *type);
const struct gw_foreign *gw_foreign_blockdev(const char *driver);

#endif
