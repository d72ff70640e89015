/* SPDX-License-Identifier: BSD-3-Clause */
/* pause.c - see pause.h. */
#include "base/pause.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In the order in which one migration comes by, each side for itself; the
 * standby's in that of one checkpoint. */
static const char *const names[GW_PAUSE_POINTS] = {
	[GW_PAUSE_SOURCE_SETUP] = "source:setup",
	[GW_PAUSE_SOURCE_DISKS] = "source:disks",
	[GW_PAUSE_SOURCE_BULK] = "source:bulk",
	[GW_PAUSE_SOURCE_PASS] = "source:pass",
	[GW_PAUSE_SOURCE_SAVING] = "source:saving",
	[GW_PAUSE_SOURCE_STOPPED] = "source:stopped",
	[GW_PAUSE_SOURCE_DISKS_STOPPED] = "source:disks-stopped",
	[GW_PAUSE_SOURCE_DEVICE] = "source:device",
	[GW_PAUSE_SOURCE_READY] = "source:ready",
	[GW_PAUSE_SOURCE_COMMITTED] = "source:committed",
	[GW_PAUSE_SOURCE_GO] = "source:go",
	[GW_PAUSE_SOURCE_CHECKPOINT_STOPPED] = "source:checkpoint-stopped",
	[GW_PAUSE_SOURCE_CHECKPOINT_COPIED] = "source:checkpoint-copied",
	[GW_PAUSE_SOURCE_CHECKPOINT_SENT] = "source:checkpoint-sent",
	[GW_PAUSE_SOURCE_CHECKPOINT_ACKED] = "source:checkpoint-acked",
	[GW_PAUSE_DEST_SETUP] = "dest:setup",
	[GW_PAUSE_DEST_DISKS] = "dest:disks",
	[GW_PAUSE_DEST_BULK] = "dest:bulk",
	[GW_PAUSE_DEST_RAM_COMPLETE] = "dest:ram-complete",
	[GW_PAUSE_DEST_LOADED] = "dest:loaded",
	[GW_PAUSE_DEST_READY] = "dest:ready",
	[GW_PAUSE_DEST_GO] = "dest:go",
	[GW_PAUSE_DEST_RUNNING] = "dest:running",
	[GW_PAUSE_STANDBY_RECEIVED] = "standby:received",
	[GW_PAUSE_STANDBY_APPLYING] = "standby:applying",
	[GW_PAUSE_STANDBY_COPIED] = "standby:copied",
	[GW_PAUSE_STANDBY_DONE] = "standby:done",
};

unsigned int gw_pause_wanted;
static unsigned long left[GW_PAUSE_POINTS]; /* times to come by until then */

static int unknown(const char *name, size_t n, struct gw_error *err)
{
	char all[512] = "";

	for (int i = 0; i < GW_PAUSE_POINTS; i++) {
		size_t used = strlen(all);

		snprintf(all + used, sizeof(all) - used, "%s%s",
			 i ? ", " : "", names[i]);
	}
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "'%.*s' is no point to pause at; there are %s",
			  (int)n, name, all);
}

/* [@name, @name + @n), without @N. Return: which; GW_PAUSE_POINTS: none. */
static int find(const char *name, size_t n)
{
	int i = 0;

	while (i < GW_PAUSE_POINTS &&
	       (strlen(names[i]) != n || memcmp(names[i], name, n)))
		i++;
	return i;
}

/* "@N" at @p, or nothing. Return: what is behind it; NULL: not that. */
static const char *count(const char *p, unsigned long *n)
{
	char *end = (char *)p;

	*n = 1;
	if (*p == '@')
		*n = strtoul(p + 1, &end, 10);
	return *n && (!*end || *end == ',') ? end : NULL;
}

int gw_pause_configure(const char *points, struct gw_error *err)
{
	unsigned int wanted = 0;

	for (const char *p = points ? points : ""; *p;) {
		size_t n = strcspn(p, ",@");
		int i = find(p, n);
		const char *end =
			i < GW_PAUSE_POINTS ? count(p + n, &left[i]) : NULL;

		if (!end)
			return unknown(p, strcspn(p, ","), err);
		wanted |= 1u << i;
		p = end + (*end == ',');
	}
	gw_pause_wanted = wanted;
	return 0;
}

void gw_pause_now(enum gw_pause_point p)
{
	char line[64];
	int n;

	if (!(gw_pause_wanted & 1u << p) || --left[p])
		return;
	gw_pause_wanted &= ~(1u << p);
	n = snprintf(line, sizeof(line), "paused at %s\n", names[p]);
	if (write(STDERR_FILENO, line, (size_t)n) == n)
		raise(SIGSTOP);
}
