/* SPDX-License-Identifier: BSD-3-Clause */
/* foreign.c - see foreign.h. The first row that matches counts. */
#include "vm/qemu/foreign.h"

#include <stddef.h>
#include <string.h>

#define PROCESS                                                             \
	"another process writes guest memory, which cannot be tracked from here"
#define DMA                                                                 \
	"it writes guest memory by DMA, which cannot be tracked from here"
#define KERNEL                                                              \
	"the kernel's vhost writes guest memory, and it is not proven that all of that is tracked"

static const struct gw_foreign devices[] = {
	{ "vhost-user-vga", PROCESS, "use virtio-vga" },
	{ "vhost-user-blk*", PROCESS, "use virtio-blk-pci with a -blockdev" },
	{ "vhost-user-scsi*", PROCESS, "use virtio-scsi-pci with a -blockdev" },
	{ "vhost-user-*", PROCESS,
	  "use the virtio device that QEMU itself emulates, or leave it out" },
	{ "vhost-vdpa*", DMA, "use the virtio device that QEMU itself emulates" },
	{ "vhost-vsock*", KERNEL, "leave it out, or use a virtio-serial port" },
	{ "vhost-scsi*", KERNEL, "use virtio-scsi-pci with a -blockdev" },
	{ "vfio-*", DMA, "leave it out, or use a virtio device" },
	{ "x-vfio-user*", PROCESS, "use a device that QEMU itself emulates" },
	{ "x-pci-proxy-dev", PROCESS, "use a device that QEMU itself emulates" },
	{ "pvrdma", DMA, "use virtio-net-pci" },
	{ "ivshmem*", PROCESS, "leave it out" },
	{ "virtio-mem*", "its plugging of memory is not followed yet",
	  "use pc-dimm, or a virtio-balloon to give memory back" },
	{ NULL, NULL, NULL },
};

static const struct gw_foreign netdevs[] = {
	{ "vhost-user", PROCESS,
	  "use tap,vhost=off or another backend inside QEMU, such as stream" },
	{ "vhost-vdpa", DMA, "use tap,vhost=off" },
	{ "vhost", KERNEL, "write vhost=off" },
	{ NULL, NULL, NULL },
};

static const struct gw_foreign blockdevs[] = {
	{ "nvme", DMA, "use host_device with the host's /dev/nvme..." },
	{ "virtio-blk-vfio-pci", DMA, "use host_device or file" },
	{ "virtio-blk-vhost-vdpa", DMA, "use host_device or file" },
	{ "virtio-blk-vhost-user", PROCESS, "use host_device or file" },
	{ NULL, NULL, NULL },
};

static const struct gw_foreign *find(const struct gw_foreign *f,
				     const char *name)
{
	for (; f->name; f++) {
		size_t n = strcspn(f->name, "*");

		if (!strncmp(f->name, name, n) && (f->name[n] || !name[n]))
			return f;
	}
	return NULL;
}

const struct gw_foreign *gw_foreign_device(const char *type)
{
	return find(devices, type);
}

const struct gw_foreign *gw_foreign_netdev(const char *type)
{
	return find(netdevs, type);
}

const struct gw_foreign *gw_foreign_blockdev(const char *driver)
{
	return find(blockdevs, driver);
}
