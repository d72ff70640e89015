/* SPDX-License-Identifier: BSD-3-Clause */
/* params.c - see params.h. */
#include "control/params.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "track/track.h"

/* What gw_sink_file() writes and gw_image_open() reads. */
static const char *const formats[] = { "mapped-ram", "stream", NULL };
static const char *const methods[] = { "none", "zlib", "zstd", "auto", NULL };
static const char *const hints[] = { "none", "agent", NULL };
static const char *const disks[] = { "none", "full", "incremental", NULL };

#define AT(field) offsetof(struct godwit_params, field)

#define COLO  (GW_USE_PROTECT | GW_USE_STANDBY)
#define PEERS (GW_USE_MIGRATE | GW_USE_RECEIVE | GW_USE_SEND | COLO)
#define LIVE  (GW_USE_MIGRATE | GW_USE_SAVE)
#define MOVES (GW_USE_MIGRATE | GW_USE_PROTECT)
#define NOW   GW_USE_NOW

const struct gw_param gw_params[] = {
	{ "max-bandwidth", GW_PARAM_RATE, AT(max_bandwidth), "0", NULL, NULL,
	  NULL, LIVE | GW_USE_PROTECT | NOW, "bytes per second sent while the VM runs; 0: no limit" },
	{ "downtime-limit", GW_PARAM_TIME, AT(downtime_limit_ns), "300ms",
	  "0", "2000s", NULL, LIVE | NOW,
	  "switch over when what is left fits in this" },
	{ "handover-timeout", GW_PARAM_TIME, AT(handover_timeout_ns), "5s",
	  "100ms", "1h", NULL, PEERS,
	  "how long the destination may take to load the device state" },
	{ "connect-timeout", GW_PARAM_TIME, AT(connect_timeout_ns), "10s",
	  "1ms", "1h", NULL, PEERS,
	  "how long connecting and greeting may take" },
	{ "idle-timeout", GW_PARAM_TIME, AT(idle_timeout_ns), "30s", "100ms",
	  "1h", NULL, PEERS, "a peer that is silent for so long is gone" },
	{ "max-passes", GW_PARAM_COUNT, AT(max_passes), "0", "0", "1000000",
	  NULL, LIVE | GW_USE_PROTECT, "give up after so many passes; 0: no limit" },
	{ "stall-passes", GW_PARAM_COUNT, AT(stall_passes), "10", "0",
	  "1000000", NULL, LIVE | GW_USE_PROTECT,
	  "give up after so many passes that lowered nothing; 0: never" },
	{ "verify", GW_PARAM_BOOL, AT(verify), "off", NULL, NULL, NULL,
	  GW_USE_MIGRATE | GW_USE_RECEIVE,
	  "compare a hash of every page while the VM stands still" },
	{ "native", GW_PARAM_BOOL, AT(native), "off", NULL, NULL, NULL,
	  GW_USE_MIGRATE,
	  "QEMU sends the VM itself, godwit carries it; no agent needed" },
	{ "paused", GW_PARAM_BOOL, AT(paused), "off", NULL, NULL, NULL,
	  GW_USE_RECEIVE | GW_USE_RESTORE,
	  "leave the VM that comes paused" },
	{ "switchover-ack", GW_PARAM_BOOL, AT(switchover_ack), "off", NULL,
	  NULL, NULL, GW_USE_RECEIVE,
	  "the plain QEMU that sends has capability switchover-ack" },
	{ "tracker", GW_PARAM_NAME, AT(tracker), "auto", NULL, NULL,
	  gw_track_names, LIVE | GW_USE_PROTECT,
	  "how to find out which pages the guest writes" },
	{ "to-qemu", GW_PARAM_BOOL, AT(to_qemu), "off", NULL, NULL, NULL,
	  GW_USE_MIGRATE,
	  "a plain QEMU waits there (-incoming), not godwit" },
	{ "live", GW_PARAM_BOOL, AT(live), "off", NULL, NULL, NULL,
	  GW_USE_SAVE, "the VM runs on while it is saved" },
	{ "stop", GW_PARAM_BOOL, AT(stop), "off", NULL, NULL, NULL,
	  GW_USE_SAVE, "the VM stays stopped after it was saved" },
	{ "quit", GW_PARAM_BOOL, AT(quit), "off", NULL, NULL, NULL,
	  GW_USE_SAVE, "QEMU ends after the VM was saved" },
	{ "format", GW_PARAM_NAME, AT(format), "mapped-ram", NULL, NULL,
	  formats, GW_USE_SAVE, "what to write" },
	{ "channels", GW_PARAM_COUNT, AT(channels), "0", "0", "64", NULL,
	  GW_USE_ALL | GW_USE_PROTECT,
	  "connections or threads that carry pages; 0: as suits" },
	{ "direct-io", GW_PARAM_BOOL, AT(direct_io), "off", NULL, NULL, NULL,
	  GW_USE_SAVE | GW_USE_RESTORE,
	  "write or read pages past the page cache (O_DIRECT)" },
	{ "xbzrle", GW_PARAM_BOOL, AT(xbzrle), "off", NULL, NULL, NULL,
	  MOVES, "send pages again as differences" },
	{ "cache-size", GW_PARAM_SIZE, AT(cache_size), "64M", "32k", "1T",
	  NULL, MOVES | NOW, "bytes of pages that xbzrle remembers" },
	{ "skip-zero-pages", GW_PARAM_BOOL, AT(skip_zero_pages), "on", NULL,
	  NULL, NULL, MOVES | GW_USE_RECEIVE | GW_USE_STANDBY,
	  "leave zero pages out of the first pass if both sides agree" },
	{ "compress", GW_PARAM_METHOD, AT(compress), "none", "0", "22",
	  methods, MOVES | GW_USE_RECEIVE | GW_USE_STANDBY,
	  "compress pages: none, zlib, zstd or auto, with :LEVEL" },
	{ "auto-converge", GW_PARAM_BOOL, AT(auto_converge), "off", NULL,
	  NULL, NULL, LIVE | GW_USE_PROTECT, "slow the guest's CPUs down if it must be" },
	{ "cpu-throttle-initial", GW_PARAM_COUNT, AT(cpu_throttle_initial),
	  "20", "1", "99", NULL, LIVE | GW_USE_PROTECT | NOW,
	  "percent of CPU time that auto-converge takes first" },
	{ "cpu-throttle-increment", GW_PARAM_COUNT, AT(cpu_throttle_increment),
	  "10", "1", "99", NULL, LIVE | GW_USE_PROTECT | NOW, "percent more in each step" },
	{ "max-cpu-throttle", GW_PARAM_COUNT, AT(max_cpu_throttle), "99", "1",
	  "99", NULL, LIVE | GW_USE_PROTECT | NOW, "percent at most" },
	{ "throttle-trigger-threshold", GW_PARAM_COUNT,
	  AT(throttle_trigger_threshold), "50", "1", "100", NULL, LIVE | GW_USE_PROTECT | NOW,
	  "percent of what was sent, dirtied again, that calls for it" },
	{ "max-downtime", GW_PARAM_TIME, AT(max_downtime_ns), "0", "0",
	  "2000s", NULL, LIVE | NOW,
	  "switch over at the least that is left, not give up; 0: no" },
	{ "disks", GW_PARAM_NAME, AT(disks), "none", NULL, NULL, disks,
	  GW_USE_MIGRATE, "copy disks too: none, full or incremental" },
	{ "free-page-hint", GW_PARAM_NAME, AT(free_page_hint), "none", NULL,
	  NULL, hints, GW_USE_MIGRATE,
	  "do not send what the guest has free: none, or ask its agent" },
	{ "interval", GW_PARAM_TIME, AT(interval_ns), "100ms", "1ms", "1h",
	  NULL, GW_USE_PROTECT | NOW, "from one checkpoint to the next" },
	{ "fence-after", GW_PARAM_TIME, AT(fence_after_ns), "0", "0", "1h",
	  NULL, GW_USE_PROTECT,
	  "the standby is silent so long: stop it; 0: 60 % of its timeout" },
	{ "fence", GW_PARAM_BOOL, AT(fence), "on", NULL, NULL, NULL,
	  GW_USE_PROTECT,
	  "stop the VM then; off: it runs on, and may run twice" },
	{ "hold-network", GW_PARAM_BOOL, AT(hold_network), "off", NULL, NULL,
	  NULL, GW_USE_PROTECT,
	  "what the guest sends waits until a checkpoint is safe" },
	{ "timeout", GW_PARAM_TIME, AT(timeout_ns), "1s", "50ms", "1h", NULL,
	  GW_USE_STANDBY, "take over when the primary is silent for so long" },
	{ "cache", GW_PARAM_TEXT, AT(cache), "", NULL, NULL, NULL,
	  GW_USE_STANDBY, "keep the checkpoint in this file, not in memory" },
	{ "cache-sync", GW_PARAM_BOOL, AT(cache_sync), "off", NULL, NULL, NULL,
	  GW_USE_STANDBY,
	  "wait for the disk: it outlives a power failure" },
	{ "flush-threads", GW_PARAM_COUNT, AT(flush_threads), "0", "0", "64",
	  NULL, GW_USE_STANDBY,
	  "threads that copy a checkpoint into the RAM; 0: one per CPU" },
	{ "arbiter", GW_PARAM_TEXT, AT(arbiter), "", NULL, NULL, NULL,
	  GW_USE_PROTECT | GW_USE_STANDBY,
	  "a command that decides who may run the VM" },
};
const size_t gw_nparams = sizeof(gw_params) / sizeof(gw_params[0]);

const struct gw_param *gw_param_find(const char *name)
{
	for (size_t i = 0; i < gw_nparams; i++)
		if (!strcmp(gw_params[i].name, name))
			return &gw_params[i];
	return NULL;
}

static int parse_count(const char *name, const char *s, uint64_t *v,
		       struct gw_error *err)
{
	char *end;

	errno = 0;
	*v = strtoull(s, &end, 10);
	if (errno || !*s || *end || *s == '-')
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s '%s' is not a whole number", name, s);
	return 0;
}

/* Any numeric value in its smallest unit. */
static int parse(const struct gw_param *d, const char *s, int64_t *v,
		 struct gw_error *err)
{
	uint64_t u = 0;
	int r;

	if (d->type == GW_PARAM_TIME)
		return gw_parse_time(d->name, s, v, err);
	r = d->type == GW_PARAM_COUNT ? parse_count(d->name, s, &u, err) :
					gw_parse_size(d->name, s, &u, err);
	*v = (int64_t)u;
	return r;
}

static int set_number(void *field, const struct gw_param *d, const char *value,
		      struct gw_error *err)
{
	int64_t v, min = 0, max = INT64_MAX;
	int r = parse(d, value, &v, err);

	if (!r && d->min)
		r = parse(d, d->min, &min, err);
	if (!r && d->max)
		r = parse(d, d->max, &max, err);
	if (r)
		return r;
	if (v < min || v > max)
		return gw_fail_as(err, GW_FAULT_USAGE, ERANGE,
				  "%s %s is out of range: %s to %s is possible",
				  d->name, value, d->min ? d->min : "0",
				  d->max ? d->max : "any");
	if (d->type == GW_PARAM_TIME)
		*(int64_t *)field = v;
	else if (d->type == GW_PARAM_COUNT)
		*(uint32_t *)field = (uint32_t)v;
	else
		*(uint64_t *)field = (uint64_t)v;
	return 0;
}

static int set_bool(bool *field, const struct gw_param *d, const char *value,
		    struct gw_error *err)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s '%s' is neither on nor off", d->name,
				  value);
	*field = !strcmp(value, "on");
	return 0;
}

static int set_name(const char **field, const struct gw_param *d,
		    const char *value, struct gw_error *err)
{
	char list[256] = "";
	size_t n = 0;

	for (int i = 0; d->names[i]; i++) {
		if (!strcmp(d->names[i], value)) {
			*field = d->names[i];
			return 0;
		}
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s",
				      i ? ", " : "", d->names[i]);
		if (n >= sizeof(list))
			break;
	}
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "%s '%s' is unknown, possible are %s", d->name,
			  value, list);
}

/* "NAME[:LEVEL]" into a name and the number behind it. */
static int set_method(const char **field, const struct gw_param *d,
		      const char *value, struct gw_error *err)
{
	const char *colon = strchr(value, ':');
	uint32_t *level = (uint32_t *)(field + 1);
	uint64_t v = 0, max = 0;
	char name[32];
	int r;

	snprintf(name, sizeof(name), "%.*s",
		 colon ? (int)(colon - value) : (int)strlen(value), value);
	r = set_name(field, d, name, err);
	if (!r && colon)
		r = parse_count(d->name, colon + 1, &v, err);
	if (!r)
		r = parse_count(d->name, d->max, &max, err);
	if (r)
		return r;
	if (v > max)
		return gw_fail_as(err, GW_FAULT_USAGE, ERANGE,
				  "%s %s is out of range: levels are 1 to %s",
				  d->name, value, d->max);
	*level = (uint32_t)v;
	return 0;
}

int gw_param_set(struct godwit_params *p, const struct gw_param *d,
		 const char *value, struct gw_error *err)
{
	void *field = (char *)p + d->offset;

	if (d->type == GW_PARAM_BOOL)
		return set_bool(field, d, value, err);
	if (d->type == GW_PARAM_TEXT) {
		*(const char **)field = value;
		return 0;
	}
	if (d->type == GW_PARAM_NAME)
		return set_name(field, d, value, err);
	if (d->type == GW_PARAM_METHOD)
		return set_method(field, d, value, err);
	return set_number(field, d, value, err);
}

void gw_param_store(struct godwit_params *to, const struct godwit_params *from,
		    const struct gw_param *d)
{
	void *dst = (char *)to + d->offset;
	const void *src = (const char *)from + d->offset;

	if (d->type == GW_PARAM_COUNT)
		__atomic_store_n((uint32_t *)dst, *(const uint32_t *)src,
				 __ATOMIC_RELAXED);
	else
		__atomic_store_n((uint64_t *)dst, *(const uint64_t *)src,
				 __ATOMIC_RELAXED);
}

int64_t gw_param_number(const struct godwit_params *p,
			const struct gw_param *d)
{
	const void *field = (const char *)p + d->offset;

	switch (d->type) {
	case GW_PARAM_BOOL:
		return *(const bool *)field;
	case GW_PARAM_COUNT:
		return *(const uint32_t *)field;
	case GW_PARAM_SIZE:
	case GW_PARAM_RATE:
	case GW_PARAM_TIME:
		return *(const int64_t *)field;
	default:
		return 0;
	}
}

const char *gw_param_text(const struct godwit_params *p,
			  const struct gw_param *d, char buf[64])
{
	const char *const *field =
		(const void *)((const char *)p + d->offset);
	uint32_t level = 0;

	if (d->type == GW_PARAM_METHOD)
		level = *(const uint32_t *)(field + 1);
	if (level)
		snprintf(buf, 64, "%s:%u", *field, level);
	else
		snprintf(buf, 64, "%s", *field);
	return buf;
}

int gw_params_check(const struct godwit_params *p, struct gw_error *err)
{
	if (p->max_cpu_throttle < p->cpu_throttle_initial)
		return gw_fail_as(err, GW_FAULT_USAGE, ERANGE,
				  "max-cpu-throttle %u is out of range: cpu-throttle-initial (%u) to 99 is possible",
				  p->max_cpu_throttle, p->cpu_throttle_initial);
	if (!p->fence && p->fence_after_ns)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "fence-after says when the VM is stopped, and fence=off that it is not: leave one of them out");
	return 0;
}

int gw_param_assign(struct godwit_params *p, unsigned int use,
		    const char *assignment, struct gw_error *err)
{
	const char *eq = strchr(assignment, '=');
	char name[64], list[1024] = "";
	size_t n = 0;
	const struct gw_param *d;

	snprintf(name, sizeof(name), "%.*s",
		 eq ? (int)(eq - assignment) : (int)strlen(assignment),
		 assignment);
	d = gw_param_find(name);
	if (eq && d && d->uses & use)
		return gw_param_set(p, d, eq + 1, err);
	for (size_t i = 0; i < gw_nparams && n < sizeof(list); i++)
		if (gw_params[i].uses & use)
			n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s",
				      n ? ", " : "", gw_params[i].name);
	return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
			  "'%s' is not PARAMETER=VALUE; parameters are %s",
			  assignment, list);
}
