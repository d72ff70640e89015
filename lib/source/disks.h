/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disks.h - the VM's disks go too (parameter disks; docs/internals/disks.md).
 * The VMM copies them while the VM runs; here its bytes are carried over a
 * connection per disk, and the destination is told what is to come.
 *
 *	list		before the greeting: which disks there are
 *	join		after it: a connection for each
 *	copy		they are copied, until all follow what the guest writes
 *	(passes over RAM)
 *	settle		the VM is about to stop: leave little for then
 *	(the VM stands)
 *	complete	copy what is left, while the last pages go
 *	end		they are whole; nothing of the copying is left here
 *
 * Everything in the migration thread but for the pumps. A source without
 * disks to copy has none of this: every call does nothing then.
 */
#ifndef GW_SOURCE_DISKS_H
#define GW_SOURCE_DISKS_H

#include <stdint.h>

#include "base/error.h"

struct gw_source;

int gw_source_disks_list(struct gw_source *s,
			 struct gw_error *err) GW_MUST_CHECK;
int gw_source_disks_join(struct gw_source *s, const uint8_t *session,
			 uint32_t first, struct gw_error *err) GW_MUST_CHECK;
int gw_source_disks_copy(struct gw_source *s,
			 struct gw_error *err) GW_MUST_CHECK;
/* Now and then: has a copy failed? Never waits. */
int gw_source_disks_check(struct gw_source *s,
			  struct gw_error *err) GW_MUST_CHECK;
int gw_source_disks_settle(struct gw_source *s,
			   struct gw_error *err) GW_MUST_CHECK;
int gw_source_disks_complete(struct gw_source *s,
			     struct gw_error *err) GW_MUST_CHECK;
int gw_source_disks_end(struct gw_source *s,
			struct gw_error *err) GW_MUST_CHECK;

/* Of the VM: how many connections to announce. */
uint32_t gw_source_disks_count(const struct gw_source *s);

/* No byte more: the VM must not wait for the destination. */
void gw_source_disks_cut(struct gw_source *s);
/* Take down what is there. Idempotent. */
void gw_source_disks_free(struct gw_source *s);

#endif
