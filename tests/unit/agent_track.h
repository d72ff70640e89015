/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent_track.h - the least that shows a userfaultfd from the agent to work:
 * write-protect a range of another process and see its writes. Not the
 * trackers of lib/track, so that the agent's tests stand on their own.
 */
#ifndef GW_AGENT_TRACK_H
#define GW_AGENT_TRACK_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Linux 6.7; Debian 12's headers are older. Own names: no clash with newer. */
#define AT_WP_ASYNC	   (1u << 15)
#define AT_WP_SHMEM	   (1u << 12)
#define AT_WP_UNPOPULATED  (1u << 13)
#define AT_SCAN_WP_MATCHING 1u
#define AT_SCAN_CHECK_WPASYNC 2u
#define AT_PAGE_IS_WRITTEN (1u << 1)

struct at_region {
	uint64_t start, end, categories;
};

struct at_scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages,
		category_inverted, category_mask, category_anyof_mask,
		return_mask;
};

#define AT_PAGEMAP_SCAN _IOWR('f', 16, struct at_scan)

/* UFFDIO_API, unless @used. Return: 0 or -errno. */
static inline int at_api(int uffd, int used, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return used || ioctl(uffd, UFFDIO_API, &api) == 0 ? 0 : -errno;
}

#define AT_ASYNC (AT_WP_ASYNC | AT_WP_SHMEM | AT_WP_UNPOPULATED)
#define AT_SYNC	 (AT_WP_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP)

static inline int at_register(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_register r = { .range = { addr, len },
				     .mode = UFFDIO_REGISTER_MODE_WP };

	return ioctl(uffd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

static inline int at_unregister(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { addr, len };

	return ioctl(uffd, UFFDIO_UNREGISTER, &r) ? -errno : 0;
}

static inline int at_protect(int uffd, uint64_t addr, uint64_t len, int on)
{
	struct uffdio_writeprotect w = {
		.range = { addr, len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &w) ? -errno : 0;
}

/* Pages written since the last call, protected again; -errno: cannot. */
static inline long at_scan(int pid, uint64_t addr, uint64_t len)
{
	static struct at_region region[4096];
	char path[64];
	long pages = 0;
	int fd, n, i;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (uint64_t at = addr; at < addr + len;) {
		struct at_scan s = {
			.size = sizeof(s),
			.flags = AT_SCAN_WP_MATCHING | AT_SCAN_CHECK_WPASYNC,
			.start = at,
			.end = addr + len,
			.vec = (uint64_t)(uintptr_t)region,
			.vec_len = 4096,
			.category_mask = AT_PAGE_IS_WRITTEN,
			.return_mask = AT_PAGE_IS_WRITTEN,
		};

		n = ioctl(fd, AT_PAGEMAP_SCAN, &s);
		if (n < 0) {
			pages = -errno;
			break;
		}
		for (i = 0; i < n; i++)
			pages += (long)((region[i].end - region[i].start) >>
					12);
		at = s.walk_end;
	}
	close(fd);
	return pages;
}

#endif
