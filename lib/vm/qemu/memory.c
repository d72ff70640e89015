/* SPDX-License-Identifier: BSD-3-Clause */
/* memory.c - see memory.h. */
#include "vm/qemu/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/scope.h"
#include "base/units.h"
#include "track/track.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

const struct gw_hugepages_kind gw_hugepages_kinds[] = {
	[GW_HUGEPAGES_NONE] = { "none", "", "" },
	[GW_HUGEPAGES_RESERVED] = { "reserved", " on huge pages", "" },
	[GW_HUGEPAGES_TRANSPARENT] = {
		"transparent", " on transparent huge pages",
		" (a tmpfs with huge=always, which root may mount)" },
	[GW_HUGEPAGES_AUTO] = { "auto", "", "" },
};

enum gw_hugepages gw_hugepages_find(const char *name)
{
	for (int i = 0; i <= GW_HUGEPAGES_AUTO; i++)
		if (!strcmp(gw_hugepages_kinds[i].name, name))
			return (enum gw_hugepages)i;
	return GW_HUGEPAGES_NONE;
}

/* --- reserved huge pages -------------------------------------------------- */

static uint64_t default_huge_size(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Hugepagesize: %llu kB", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib << 10;
}

/* The size of the reserved huge pages of block @b; 0: it is not on them. */
static uint64_t huge_size(const struct gw_cmdline_block *b)
{
	struct statfs s;

	if (b->like_path && !statfs(b->like_path, &s) &&
	    s.f_type == HUGETLBFS_MAGIC)
		return (uint64_t)s.f_bsize;
	if (b->hugepages != GW_HUGEPAGES_RESERVED)
		return 0;
	return b->huge_size ? b->huge_size : default_huge_size();
}

/* --- a file --------------------------------------------------------------- */

/* Never executable, which sysctl vm.memfd_noexec may demand and kernels
 * before 6.3 do not know. */
static int make_memfd(const char *name, unsigned int flags)
{
	int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);

	return fd < 0 && errno == EINVAL ? memfd_create(name, flags) : fd;
}

/* A tmpfs of any size; it ends with the last of its files. */
static int mount_huge_tmpfs(void)
{
	gw_autoclose int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);

	if (fs < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "huge", "always", 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "size", "0", 0) ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -1;
	return fsmount(fs, FSMOUNT_CLOEXEC,
		       MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			       MOUNT_ATTR_NOEXEC);
}

/* @name is what /proc/PID/maps shows, as of a memfd. */
static int make_transparent(const char *name)
{
	gw_autoclose int mount = mount_huge_tmpfs();

	return mount < 0 ? -1 :
			   openat(mount, name,
				  O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
}

bool gw_memory_can_be_transparent(void)
{
	gw_autoclose int fd = make_transparent("probe");

	return fd >= 0 && gw_track_can_scan_pagemap();
}

static int make_file(const struct gw_cmdline_block *b, struct gw_error *err)
{
	uint64_t huge = huge_size(b);
	unsigned int flags = MFD_CLOEXEC;
	enum gw_hugepages how = huge ? GW_HUGEPAGES_RESERVED : b->hugepages;
	gw_autoclose int fd = -1;
	char name[64], size[32];

	if (huge & (huge - 1) || (huge && b->size % huge))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "RAM block '%s' of %llu bytes is no multiple of a huge page of %s: change its size",
				  b->id, (unsigned long long)b->size,
				  gw_format_size(size, sizeof(size), huge));
	if (huge)
		flags |= MFD_HUGETLB | (unsigned int)__builtin_ctzll(huge)
					       << MFD_HUGE_SHIFT;
	snprintf(name, sizeof(name), "godwit-%.48s", b->id);
	for (char *c = name; *c; c++)
		if (*c == '/') /* QEMU will refuse such an id */
			*c = '_';
	fd = how == GW_HUGEPAGES_TRANSPARENT ? make_transparent(name) :
					       make_memfd(name, flags);
	if (fd < 0 || ftruncate(fd, (off_t)b->size))
		return gw_fail_errno(err, errno,
				     "cannot make RAM block '%s' of %llu bytes%s%s",
				     b->id, (unsigned long long)b->size,
				     gw_hugepages_kinds[how].on,
				     gw_hugepages_kinds[how].takes);
	/* without close-on-exec: QEMU opens it as /proc/self/fd/N */
	if (fcntl(fd, F_DUPFD, b->fd) != b->fd)
		return gw_fail(err, EMFILE,
			       "file descriptor %d, wanted for RAM block '%s', is not free (ulimit -n?)",
			       b->fd, b->id);
	return 0;
}

int gw_memory_make(const struct gw_cmdline *c, struct gw_error *err)
{
	for (int i = 0; i < c->nblocks; i++) {
		int r = c->block[i].fd >= 0 ? make_file(&c->block[i], err) : 0;

		if (r)
			return r;
	}
	return 0;
}
