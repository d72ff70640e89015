/* SPDX-License-Identifier: BSD-3-Clause */
/* process.c - see process.h. */
#include "track/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int gw_process_open(pid_t pid, struct gw_error *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ESRCH))
		return gw_fail(err, ESRCH, "the VM's process %d does not exist",
			       (int)pid);
	if (fd < 0)
		return gw_fail_errno(err, errno, "%s", path);
	return fd;
}

int gw_process_check(int fd, pid_t pid, struct gw_error *err)
{
	char c = '0';
	ssize_t n;

	/*
	 * The first field is the size of the memory. It reads as 0 from the
	 * moment the process lets go of its memory, which is before the kernel
	 * begins to empty its page tables; once reaped, reading fails.
	 */
	n = pread(fd, &c, 1, 0);
	if (n != 1 || c == '0')
		return gw_fail(err, ESRCH, "the VM's process %d has ended",
			       (int)pid);
	return 0;
}
