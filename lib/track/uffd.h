/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uffd.h - a userfaultfd of the VM's process with all its RAM registered for
 * write-protection: what the two kernel trackers share. Knows nothing of who
 * resolves the faults.
 *
 * gw_uffd_protect() write-protects also pages that the VM's page tables do not
 * have yet: UFFDIO_WRITEPROTECT leaves markers for them, in page tables that
 * it allocates (2 MiB per GiB of RAM; parts.h says which of it). It splits
 * transparent huge pages, so that these are tracked by 4 KiB too; hugetlbfs is
 * tracked by its page size.
 */
#ifndef GW_TRACK_UFFD_H
#define GW_TRACK_UFFD_H

#include <stdbool.h>
#include <stdint.h>

#include "track/track.h"

struct gw_uffd {
	const struct gw_track_config *config;
	enum gw_uffd_purpose purpose;
	int fd; /* -1: not open */
};

/* The kernel's UFFD_FEATURE_*, asked in our own process. Return: 0 or -errno
 * (not allowed here, which says nothing about the VM's process). */
int gw_uffd_kernel_features(uint64_t *features);

/* A userfaultfd of our own process with @features. Return: fd or -errno. */
int gw_uffd_own(uint64_t features);

/* Can every block of @c be watched: an address, alignment, a process? */
int gw_uffd_check_config(const struct gw_track_config *c,
			 struct gw_error *err) GW_MUST_CHECK;

/*
 * Get a userfaultfd for @purpose from @c->uffd and enable @features on it, or
 * take over a used one after unregistering what its last owner left (which
 * wakes every guest thread blocked there). @needs: what to tell the user when
 * the kernel lacks @features.
 */
int gw_uffd_open(struct gw_uffd *u, const struct gw_track_config *c,
		 enum gw_uffd_purpose purpose, uint64_t features,
		 const char *needs, struct gw_error *err) GW_MUST_CHECK;

/* Register all RAM; nothing is protected yet. After a failure call _close. */
int gw_uffd_watch(struct gw_uffd *u, struct gw_error *err) GW_MUST_CHECK;

/* Bytes of @b as the kernel wants ranges: up to whole pages of its backing. */
static inline uint64_t gw_uffd_length(const struct gw_ramblock *b)
{
	return (b->used_length + b->page_size - 1) / b->page_size *
	       b->page_size;
}

/*
 * Write-protect [@addr, @addr + @len) of the VM's process, or allow writing
 * and wake who waits for that. Any thread. Return: 0 or -errno, e.g. -ESRCH
 * when the process is gone, -ENOENT when nothing is registered there.
 */
int gw_uffd_protect(const struct gw_uffd *u, uint64_t addr, uint64_t len,
		    bool protect) GW_MUST_CHECK;

/* Let threads that wait in the range try again. */
void gw_uffd_wake(const struct gw_uffd *u, uint64_t addr, uint64_t len);

/* Unregister all RAM: nothing is protected, nobody stays blocked. */
void gw_uffd_unwatch(const struct gw_uffd *u);

/* _unwatch, tell the source, close. Idempotent. */
void gw_uffd_close(struct gw_uffd *u);

#endif
