/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * disks.h - disks that come along with a VM (docs/internals/disks.md): our
 * VMM serves them, each over a connection of its own that is carried here.
 * In the migration thread but for the pumps.
 */
#ifndef GW_DEST_DISKS_H
#define GW_DEST_DISKS_H

#include <stdbool.h>

#include "base/error.h"
#include "wire/record.h"

struct gw_dest;

/* DISKS came: does each fit? Serve them and say so. */
int gw_dest_disks_serve(struct gw_dest *d, const struct gw_record *rec,
			struct gw_error *err) GW_MUST_CHECK;
int gw_dest_disks_progress(struct gw_dest *d, const struct gw_record *rec,
			   struct gw_error *err) GW_MUST_CHECK;

/* DISKS_END came: nothing of it is left in our VMM when this returns. */
int gw_dest_disks_end(struct gw_dest *d, struct gw_error *err) GW_MUST_CHECK;

/* Before the VM is loaded: is what was announced here? */
int gw_dest_disks_check(const struct gw_dest *d,
			struct gw_error *err) GW_MUST_CHECK;

/* Were some of their images written to? */
bool gw_dest_disks_touched(const struct gw_dest *d);

/* Take down what is there. Idempotent. */
void gw_dest_disks_free(struct gw_dest *d);

#endif
