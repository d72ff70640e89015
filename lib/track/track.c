/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * track.c - chooses a tracker and counts what it does. How pages are found
 * dirty is in pagemap_scan.c, uffd_wp.c and manual.c.
 */
#include "track/track.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GW_LOG_MODULE "track"
#include "base/clock.h"
#include "base/log.h"
#include "track/internal.h"

static const struct gw_track_ops *const trackers[] = {
	&gw_track_pagemap_scan,
	&gw_track_uffd_wp,
	&gw_track_manual,
};
#define NTRACKERS (sizeof(trackers) / sizeof(trackers[0]))

const char *const gw_track_names[] = { "auto", "pagemap-scan", "uffd-wp",
				       NULL };

static int probe_and_open(struct gw_track *t, const struct gw_track_ops *ops,
			  struct gw_error *err)
{
	int r = ops->probe(&t->config, err);

	if (r)
		return r;
	t->ops = ops;
	r = ops->open(t, err);
	if (r)
		t->ops = NULL;
	return r;
}

static int open_auto(struct gw_track *t, struct gw_error *err)
{
	struct gw_error why = { 0 }, why2 = { 0 };
	int r = probe_and_open(t, &gw_track_pagemap_scan, &why);

	if (!r) {
		gw_info("tracker %s: works here and never stops the guest",
			t->ops->name);
		return 0;
	}
	if (r == -ESRCH) { /* nothing else would find the process either */
		if (err)
			*err = why;
		return r;
	}
	r = probe_and_open(t, &gw_track_uffd_wp, &why2);
	if (!r) {
		gw_warn("tracker %s, which slows the guest's writes, because: %s",
			t->ops->name, why.msg);
		return 0;
	}
	return gw_fail_as(err, why2.fault, why2.code,
			  "no way to track the VM's writes: %s; %s", why.msg,
			  why2.msg);
}

static int open_named(struct gw_track *t, const char *kind,
		      struct gw_error *err)
{
	for (size_t i = 0; i < NTRACKERS; i++)
		if (!strcmp(trackers[i]->name, kind))
			return probe_and_open(t, trackers[i], err);
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "there is no tracker '%s': auto, pagemap-scan, uffd-wp or manual",
			  kind);
}

int gw_track_open(const char *kind, const struct gw_track_config *config,
		  struct gw_track **out, struct gw_error *err)
{
	struct gw_track *t = calloc(1, sizeof(*t));
	int r;

	*out = NULL;
	if (!t)
		return gw_fail(err, ENOMEM, "no memory for a tracker");
	t->config = *config;
	if (!strcmp(kind, "auto"))
		r = open_auto(t, err);
	else
		r = open_named(t, kind, err);
	if (r) {
		free(t);
		return r;
	}
	*out = t;
	return 0;
}

int gw_track_start(struct gw_track *t, struct gw_error *err)
{
	int64_t begin = gw_now_ns();
	int r;

	gw_track_stop(t);
	r = t->ops->start(t, err);
	if (r)
		return r;
	t->started = true;
	gw_debug("%s: watching %d RAM blocks, %llu bytes, after %lld us",
		 t->ops->name, t->config.ram->nblocks,
		 (unsigned long long)t->config.ram->total,
		 (long long)(gw_now_ns() - begin) / 1000);
	return 0;
}

int gw_track_scan(struct gw_track *t, struct gw_error *err)
{
	int64_t begin = gw_now_ns();
	int r;

	if (!t->started)
		return gw_fail(err, EINVAL, "a scan without a started tracker");
	r = t->ops->scan(t, err);
	t->scans++;
	t->scan_ns += gw_now_ns() - begin;
	return r;
}

int gw_track_scan_range(struct gw_track *t, int block, uint64_t first,
			uint64_t n, struct gw_error *err)
{
	int64_t begin = gw_now_ns();
	int r;

	if (!t->started)
		return gw_fail(err, EINVAL, "a scan without a started tracker");
	if (!t->ops->scan_range)
		return 0;
	r = t->ops->scan_range(t, block, first, n, err);
	t->scan_ns += gw_now_ns() - begin;
	return r;
}

void gw_track_stop(struct gw_track *t)
{
	if (!t || !t->started)
		return;
	t->started = false;
	t->ops->stop(t);
	gw_debug("%s: %llu scans reported %llu pages in %lld us", t->ops->name,
		 (unsigned long long)t->scans,
		 (unsigned long long)t->pages_reported,
		 (long long)t->scan_ns / 1000);
}

void gw_track_close(struct gw_track *t)
{
	if (!t)
		return;
	gw_track_stop(t);
	t->ops->close(t);
	free(t);
}
