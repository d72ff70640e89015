/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * resume.h - run a VM on in the QEMU where it is, from whatever state a
 * migration that came to nothing left that QEMU in.
 */
#ifndef GW_VM_QEMU_RESUME_H
#define GW_VM_QEMU_RESUME_H

#include "vm/qemu/qmp.h"

/* "running", "paused", ... into @status[32]. */
int gw_qemu_query_status(struct gw_qmp *q, char status[32],
			 struct gw_error *err) GW_MUST_CHECK;

/* Status of query-migrate ("" if none) and its error-desc in @why (may be
 * NULL). */
int gw_qemu_query_migrate(struct gw_qmp *q, char status[32],
			  struct gw_error *why,
			  struct gw_error *err) GW_MUST_CHECK;

/* Cancel an outgoing migration if there is one, and wait until it is over:
 * QEMU may itself set the VM going again. */
int gw_qemu_end_migration(struct gw_qmp *q, int timeout_ms,
			  struct gw_error *err) GW_MUST_CHECK;

/* Run the VM unless it runs. Return: 0 when QEMU confirmed it. */
int gw_qemu_cont(struct gw_qmp *q, struct gw_error *err) GW_MUST_CHECK;

/* Switch off what only godwit switches on (settings.c), when the godwit that
 * knew what was there before is gone. No-op where nothing was left. */
void gw_qemu_settings_clean(struct gw_qmp *q);

#endif
