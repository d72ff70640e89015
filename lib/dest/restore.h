/* SPDX-License-Identifier: BSD-3-Clause */
/* restore.h - a stored VM goes into a waiting one. */
#ifndef GW_DEST_RESTORE_H
#define GW_DEST_RESTORE_H

#include "base/cancel.h"
#include "base/error.h"
#include "base/progress.h"
#include "vm/vm.h"

struct gw_restore_config {
	struct gw_vm *vm;
	const char *path; /* as in gw_image_open() */
	const struct godwit_params *params;
	const struct gw_cancel *cancel; /* may be NULL */
	struct gw_progress *progress;
};

/* Return: 0 when the VM is here, running if it ran when it was stored and the
 * parameter `paused` is off; -errno with @err. */
int gw_restore_run(const struct gw_restore_config *c,
		   struct gw_error *err) GW_MUST_CHECK;

#endif
