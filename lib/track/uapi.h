/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uapi.h - what the kernel offers to trackers and older system headers lack
 * (Debian 12's are of Linux 6.1). Written from the kernel's documentation
 * (admin-guide/mm/pagemap, admin-guide/mm/userfaultfd) and ioctl numbers; no
 * policy here. Compiles with newer headers, which win.
 */
#ifndef GW_TRACK_UAPI_H
#define GW_TRACK_UAPI_H

#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

/* userfaultfd(2) */
#ifndef UFFD_USER_MODE_ONLY /* Linux 5.11 */
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1: on /dev/userfaultfd */
#define USERFAULTFD_IOC	    0xAA
#define USERFAULTFD_IOC_NEW _IO(USERFAULTFD_IOC, 0x00)
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM /* Linux 5.19 */
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED /* Linux 6.4 */
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC /* Linux 6.7 */
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* ioctl on /proc/PID/pagemap, Linux 6.7 */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)

/* categories of a page */
#define PAGE_IS_WPALLOWED  (1 << 0) /* watched by WP_ASYNC */
#define PAGE_IS_WRITTEN	   (1 << 1) /* not write-protected by it */
#define PAGE_IS_FILE	   (1 << 2)
#define PAGE_IS_PRESENT	   (1 << 3)
#define PAGE_IS_SWAPPED	   (1 << 4) /* also: only a marker is there */
#define PAGE_IS_PFNZERO	   (1 << 5)
#define PAGE_IS_HUGE	   (1 << 6)
#define PAGE_IS_SOFT_DIRTY (1 << 7)

struct page_region {
	__u64 start; /* addresses, end exclusive */
	__u64 end;
	__u64 categories;
};

/* pm_scan_arg.flags */
#define PM_SCAN_WP_MATCHING   (1 << 0) /* write-protect what matches */
#define PM_SCAN_CHECK_WPASYNC (1 << 1) /* EPERM where WP_ASYNC is not on */

/*
 * A page matches when, with the bits of category_inverted flipped, it has all
 * of category_mask and (if not 0) one of category_anyof_mask. walk_end says
 * how far the kernel came; the return value is the number of regions in vec.
 */
struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};
#endif

#endif
