/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * progress.h - the numbers of one operation: the engine's thread changes
 * `now` freely and publishes copies, at most ten a second and at every change
 * of status; any thread may take the last published copy. now.bandwidth and
 * now.pages_per_second are measured here, and what was transferred is divided
 * by whether the VM ran.
 */
#ifndef GW_BASE_PROGRESS_H
#define GW_BASE_PROGRESS_H

#include <pthread.h>

#include "godwit.h"

struct gw_progress {
	/* owned by the engine's thread */
	struct godwit_stats now;
	int64_t started_ns, last_ns;
	/* the window that is measured over */
	int64_t window_ns;
	uint64_t window_bytes, window_pages;
	/* set once */
	godwit_progress_fn fn;
	void *data;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct godwit_stats published;
};

void gw_progress_init(struct gw_progress *p, godwit_progress_fn fn,
		      void *data);
void gw_progress_fini(struct gw_progress *p);

/* Publish if 100 ms have passed. */
void gw_progress_tick(struct gw_progress *p);
/* The one place where a status changes. Publishes. */
void gw_progress_status(struct gw_progress *p, enum godwit_status s);
/* Any thread. */
void gw_progress_get(struct gw_progress *p, struct godwit_stats *out);

#endif
