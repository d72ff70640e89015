/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pause.h - named points where a test wants the engines to stand still, so
 * that it can kill a process exactly there. Inert unless gw_pause_configure()
 * was given points (the command line passes on GODWIT_TEST_PAUSE); then the
 * process says "paused at POINT" on stderr and stops itself (SIGSTOP) until
 * SIGCONT, once per point: the first time that it comes by, or with POINT@N
 * the Nth. What each point means: docs/internals/hand-over.md.
 */
#ifndef GW_BASE_PAUSE_H
#define GW_BASE_PAUSE_H

#include "base/error.h"

enum gw_pause_point {
	GW_PAUSE_SOURCE_SETUP,
	GW_PAUSE_SOURCE_DISKS,
	GW_PAUSE_SOURCE_BULK,
	GW_PAUSE_SOURCE_PASS,
	GW_PAUSE_SOURCE_SAVING,
	GW_PAUSE_SOURCE_STOPPED,
	GW_PAUSE_SOURCE_DISKS_STOPPED,
	GW_PAUSE_SOURCE_DEVICE,
	GW_PAUSE_SOURCE_READY,
	GW_PAUSE_SOURCE_COMMITTED,
	GW_PAUSE_SOURCE_GO,
	GW_PAUSE_SOURCE_CHECKPOINT_STOPPED,
	GW_PAUSE_SOURCE_CHECKPOINT_COPIED,
	GW_PAUSE_SOURCE_CHECKPOINT_SENT,
	GW_PAUSE_SOURCE_CHECKPOINT_ACKED,
	GW_PAUSE_DEST_SETUP,
	GW_PAUSE_DEST_DISKS,
	GW_PAUSE_DEST_BULK,
	GW_PAUSE_DEST_RAM_COMPLETE,
	GW_PAUSE_DEST_LOADED,
	GW_PAUSE_DEST_READY,
	GW_PAUSE_DEST_GO,
	GW_PAUSE_DEST_RUNNING,
	GW_PAUSE_STANDBY_RECEIVED,
	GW_PAUSE_STANDBY_APPLYING,
	GW_PAUSE_STANDBY_COPIED,
	GW_PAUSE_STANDBY_DONE,
	GW_PAUSE_POINTS,
};

extern unsigned int gw_pause_wanted; /* bit per point; set once at start */

/* @points: "source:ready" or "source:ready,standby:done@5"; NULL: none.
 * Return: 0, -EINVAL (GW_FAULT_USAGE) with the names there are. */
int gw_pause_configure(const char *points, struct gw_error *err) GW_MUST_CHECK;

void gw_pause_now(enum gw_pause_point p);

static inline void gw_pause_at(enum gw_pause_point p)
{
	if (__builtin_expect(gw_pause_wanted, 0))
		gw_pause_now(p);
}

#endif
