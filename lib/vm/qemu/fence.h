/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fence.h - a process that stops a protected VM when the godwit that protects
 * it dies or stands still: its standby may run the VM then.
 *
 * It is forked like a guardian (guardian.h), has a QMP connection of its own
 * from the beginning, and shares a page with its godwit:
 *
 *	until	the VM may run so long; moved on without waking anybody
 *	state	OPEN	the VM may run, its godwit may set it going
 *		CONT	its godwit is about to, or did so just now
 *		FENCED	the VM must not run here, unless somebody who knows
 *			vouches for it (gw_fence_end())
 *		OVER	it is not stopped any more
 *
 * Both change `state` by compare-and-swap. When the time is over, or its
 * godwit's end of the socket closes, the fence writes FENCED and then stops the
 * VM. cont of a stopped VM goes OPEN, CONT, QMP cont, OPEN: if FENCED came in
 * between, QEMU may have got `stop` first, so the last step fails and the
 * godwit itself stops the VM. If that died there, the fence does: it stops the
 * VM again at every RESUME, for a moment longer than its godwit lives.
 */
#ifndef GW_VM_QEMU_FENCE_H
#define GW_VM_QEMU_FENCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct gw_qemu;
struct gw_fence_page;

struct gw_fence {
	/* guarded by lock where lease() may come from another thread */
	pthread_mutex_t lock;
	struct gw_fence_page *page; /* NULL: none */
	int fd;			    /* socket to it */
};

/* Once, before all others. */
void gw_fence_init(struct gw_qemu *q);

/* No limit as yet. */
int gw_fence_start(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;

/* Any thread, also when there is none (any more): then it means nothing.
 * -EPERM: it is too late. -EPIPE: nobody would stop the VM any more. */
int gw_fence_lease(struct gw_qemu *q, int64_t until_ns,
		   struct gw_error *err) GW_MUST_CHECK;

/* Around QMP cont. -EPERM from either: it must not run, after the second one
 * it has to be stopped. Nothing without a fence. */
int gw_fence_enter(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;
int gw_fence_leave(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;

bool gw_fence_closed(const struct gw_qemu *q);

/* Somebody vouches for the VM here: it is not stopped any more, whatever was
 * before. Returns when the process has ended. *@stopped: it had stopped it. */
int gw_fence_end(struct gw_qemu *q, bool *stopped,
		 struct gw_error *err) GW_MUST_CHECK;
/* The VM stands, or is gone: it has nothing to do any more. Idempotent. */
void gw_fence_dismiss(struct gw_qemu *q);
/* Our end goes without a word: it stops the VM, unless it was dismissed. */
void gw_fence_fini(struct gw_qemu *q);

#endif
