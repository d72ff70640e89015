/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.c - see stats.h. */
#include "control/stats.h"

#include <string.h>

#include "base/clock.h"
#include "ram/block.h"

static json_int_t ms(int64_t ns)
{
	return (json_int_t)((ns + GW_NS_PER_MS / 2) / GW_NS_PER_MS);
}

static void put(json_t *j, const char *name, uint64_t v)
{
	json_object_set_new(j, name, json_integer((json_int_t)v));
}

static double mbps(const struct godwit_stats *s)
{
	double seconds = (double)(s->total_ns - s->setup_ns) / 1e9;

	return s->status == GODWIT_STATUS_COMPLETED && seconds > 0 ?
		       (double)s->transferred * 8 / seconds / 1e6 :
		       (double)s->bandwidth * 8 / 1e6;
}

static json_t *ram_json(const struct godwit_stats *s)
{
	json_t *j = json_object();

	put(j, "transferred", s->transferred);
	put(j, "total", s->total);
	put(j, "remaining", s->remaining);
	put(j, "duplicate", s->duplicate);
	put(j, "skipped", s->skipped);
	put(j, "normal", s->normal);
	put(j, "normal-bytes", s->normal * GW_PAGE_SIZE);
	put(j, "dirty-pages-rate", s->dirty_pages_rate);
	json_object_set_new(j, "mbps", json_real(mbps(s)));
	put(j, "dirty-sync-count", s->pass);
	put(j, "page-size", GW_PAGE_SIZE);
	put(j, "multifd-bytes", s->multifd_bytes);
	put(j, "pages-per-second", s->pages_per_second);
	put(j, "precopy-bytes", s->precopy_bytes);
	put(j, "downtime-bytes", s->downtime_bytes);
	/* what godwit does not do */
	put(j, "postcopy-bytes", 0);
	put(j, "postcopy-requests", 0);
	put(j, "dirty-sync-missed-zero-copy", 0);
	return j;
}

static json_t *xbzrle_json(const struct godwit_stats *s)
{
	json_t *j = json_object();

	put(j, "cache-size", s->xbzrle_cache_size);
	put(j, "bytes", s->xbzrle_bytes);
	put(j, "pages", s->xbzrle_pages);
	put(j, "same", s->xbzrle_same);
	put(j, "cache-miss", s->xbzrle_cache_miss);
	json_object_set_new(j, "cache-miss-rate",
			    json_real(s->xbzrle_cache_miss_rate));
	json_object_set_new(j, "encoding-rate",
			    json_real(s->xbzrle_encoding_rate));
	put(j, "overflow", s->xbzrle_overflow);
	return j;
}

static json_t *compress_json(const struct godwit_stats *s)
{
	json_t *j = json_pack("{s:s, s:s}", "method", s->compress, "reason",
			      s->compress_why);

	put(j, "pages", s->compress_pages);
	put(j, "bytes", s->compress_in);
	put(j, "compressed-bytes", s->compress_out);
	return j;
}

static void add_downtime(json_t *j, const struct godwit_stats *s)
{
	if (s->status == GODWIT_STATUS_COMPLETED && s->downtime_ns) {
		json_object_set_new(j, "downtime",
				    json_integer(ms(s->downtime_ns)));
		put(j, "downtime-us", (uint64_t)s->downtime_ns / 1000);
	} else if (s->expected_downtime_ns >= 0) {
		json_object_set_new(j, "expected-downtime",
				    json_integer(ms(s->expected_downtime_ns)));
	}
	if (s->eta_ns >= 0 && s->status != GODWIT_STATUS_COMPLETED)
		json_object_set_new(j, "eta-ms", json_integer(ms(s->eta_ns)));
}

static json_t *disk_json(const struct godwit_stats *s)
{
	uint64_t left = s->disk_total > s->disk_done ?
				s->disk_total - s->disk_done :
				0;

	return json_pack("{s:I, s:I, s:I}", "transferred",
			 (json_int_t)s->disk_transferred, "remaining",
			 (json_int_t)left, "total",
			 (json_int_t)s->disk_total);
}

void gw_stats_saved(const struct godwit_stats *s, uint64_t *nbytes, int64_t *ns)
{
	uint64_t npages = s->unpopulated + s->given_back + s->skipped +
			  s->duplicate + s->hinted;
	int64_t busy = s->total_ns - s->setup_ns;

	*nbytes = npages * GW_PAGE_SIZE;
	*ns = s->transferred && busy > 0 ?
		      (int64_t)((double)*nbytes / (double)s->transferred *
				(double)busy) :
		      0;
}

static void put_saved(json_t *j, const struct godwit_stats *s)
{
	uint64_t nbytes;
	int64_t ns;

	gw_stats_saved(s, &nbytes, &ns);
	json_object_set_new(j, "unpopulated",
			    json_integer((json_int_t)s->unpopulated));
	json_object_set_new(j, "given-back",
			    json_integer((json_int_t)s->given_back));
	json_object_set_new(j, "saved-bytes", json_integer((json_int_t)nbytes));
	json_object_set_new(j, "saved-time", json_integer(ms(ns)));
}

/* Pages; refused counts ranges. */
static json_t *hints_json(const struct godwit_stats *s)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "accepted",
			 (json_int_t)s->hinted, "late",
			 (json_int_t)s->hinted_late, "stale",
			 (json_int_t)s->hinted_stale, "refused",
			 (json_int_t)s->hinted_refused, "not-compared",
			 (json_int_t)s->hinted_absent);
}

static json_int_t us(int64_t ns)
{
	return (json_int_t)((ns + 500) / 1000);
}

/* The last checkpoint; times in us: a pause is a few ms. */
static json_t *colo_json(const struct godwit_stats *s)
{
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		"checkpoint", (json_int_t)s->checkpoint, "pages",
		(json_int_t)s->checkpoint_pages, "paused-pages",
		(json_int_t)s->checkpoint_paused_pages, "bytes",
		(json_int_t)s->checkpoint_bytes, "pause-us",
		us(s->checkpoint_pause_ns), "pause-p50-us",
		us(s->checkpoint_pause_p50_ns), "pause-p99-us",
		us(s->checkpoint_pause_p99_ns), "pause-max-us",
		us(s->checkpoint_pause_max_ns), "interval-us",
		us(s->checkpoint_interval_ns), "lag-us",
		us(s->checkpoint_lag_ns), "flush-us",
		us(s->checkpoint_flush_ns), "late",
		(json_int_t)s->checkpoints_late);
}

json_t *gw_stats_json(const struct godwit_stats *s, const struct gw_error *err)
{
	json_t *j = json_pack("{s:s, s:I, s:I, s:o}", "status",
			      godwit_status_name(s->status), "total-time",
			      ms(s->total_ns), "setup-time", ms(s->setup_ns),
			      "ram", ram_json(s));

	if (!j)
		return NULL;
	add_downtime(j, s);
	put(j, "device-state-bytes", s->device_bytes);
	put(j, "populated-bytes", s->populated);
	put_saved(j, s);
	if (s->disk_total)
		json_object_set_new(j, "disk", disk_json(s));
	if (s->tracker)
		json_object_set_new(j, "tracker", json_string(s->tracker));
	if (s->channels)
		put(j, "channels", s->channels);
	if (s->compress)
		json_object_set_new(j, "compress", compress_json(s));
	if (s->xbzrle_cache_size)
		json_object_set_new(j, "xbzrle-cache", xbzrle_json(s));
	if (s->cpu_throttle_percentage)
		put(j, "cpu-throttle-percentage", s->cpu_throttle_percentage);
	if (s->verified)
		put(j, "verified-pages", s->verified);
	if (s->checkpoint)
		json_object_set_new(j, "colo", colo_json(s));
	if (s->hint_asked)
		json_object_set_new(j, "free-page-hint", hints_json(s));
	if (gw_error_is_set(err)) {
		json_object_set_new(j, "error-desc", json_string(err->msg));
		put(j, "exit-code", (uint64_t)err->fault);
	}
	return j;
}

json_t *gw_stats_query(const struct godwit_stats *s, const char *status,
		       bool source, const struct gw_error *err)
{
	static const char *const bare[] = { "setup", "failed", "cancelled" };
	json_t *j = json_object();

	for (size_t i = 0; i < sizeof(bare) / sizeof(*bare); i++)
		source = source && strcmp(status, bare[i]);
	if (source) {
		json_decref(j);
		j = gw_stats_json(s, NULL);
		/* QEMU always has one of the two */
		if (!json_object_get(j, "downtime") &&
		    !json_object_get(j, "expected-downtime"))
			put(j, strcmp(status, "completed") ?
				       "expected-downtime" :
				       "downtime",
			    0);
	}
	json_object_set_new(j, "status", json_string(status));
	if (!strcmp(status, "failed") && gw_error_is_set(err))
		json_object_set_new(j, "error-desc", json_string(err->msg));
	return j;
}

/* --- for people ---------------------------------------------------------- */

/* A line of `info migrate`: where its number is, and what it is called. */
struct line {
	const char *object; /* "" : top level */
	const char *key, *label, *unit;
	int shift; /* bytes to kbytes: 10 */
	bool if_any; /* only when it is not 0 */
};

static const struct line lines[] = {
	{ "", "total-time", "total time", " ms", 0, false },
	{ "", "expected-downtime", "expected downtime", " ms", 0, false },
	{ "", "downtime", "downtime", " ms", 0, false },
	{ "", "setup-time", "setup", " ms", 0, false },
	{ "", "eta-ms", "estimated time left", " ms", 0, false },
	{ "ram", "transferred", "transferred ram", " kbytes", 10, false },
	{ "ram", "mbps", "throughput", " mbps", 0, false },
	{ "ram", "remaining", "remaining ram", " kbytes", 10, false },
	{ "ram", "total", "total ram", " kbytes", 10, false },
	{ "ram", "duplicate", "duplicate", " pages", 0, false },
	{ "ram", "skipped", "skipped", " pages", 0, true },
	{ "ram", "normal", "normal", " pages", 0, false },
	{ "ram", "normal-bytes", "normal bytes", " kbytes", 10, false },
	{ "ram", "dirty-sync-count", "dirty sync count", "", 0, false },
	{ "ram", "page-size", "page size", " kbytes", 10, false },
	{ "ram", "multifd-bytes", "multifd bytes", " kbytes", 10, false },
	{ "ram", "pages-per-second", "pages-per-second", "", 0, false },
	{ "ram", "dirty-pages-rate", "dirty pages rate", " pages", 0, true },
	{ "ram", "precopy-bytes", "precopy ram", " kbytes", 10, true },
	{ "ram", "downtime-bytes", "downtime ram", " kbytes", 10, true },
	{ "xbzrle-cache", "cache-size", "cache size", " bytes", 0, false },
	{ "xbzrle-cache", "bytes", "xbzrle transferred", " kbytes", 10,
	  false },
	{ "xbzrle-cache", "pages", "xbzrle pages", " pages", 0, false },
	{ "xbzrle-cache", "same", "xbzrle unchanged", " pages", 0, false },
	{ "xbzrle-cache", "cache-miss", "xbzrle cache miss", " pages", 0,
	  false },
	{ "xbzrle-cache", "cache-miss-rate", "xbzrle cache miss rate", "", 0,
	  false },
	{ "xbzrle-cache", "encoding-rate", "xbzrle encoding rate", "", 0,
	  false },
	{ "xbzrle-cache", "overflow", "xbzrle overflow", "", 0, false },
	{ "", "cpu-throttle-percentage", "cpu throttle percentage", "", 0,
	  false },
	{ "", "channels", "channels", "", 0, false },
	{ "compress", "pages", "compressed", " pages", 0, false },
	{ "compress", "bytes", "compressed from", " kbytes", 10, false },
	{ "compress", "compressed-bytes", "compressed to", " kbytes", 10,
	  false },
	{ "", "device-state-bytes", "device state", " kbytes", 10, true },
};

static void print_line(const struct line *l, const json_t *j, FILE *out)
{
	const json_t *v;

	if (*l->object)
		j = json_object_get(j, l->object);
	v = json_object_get(j, l->key);
	if (!v || (l->if_any && !json_number_value(v)))
		return;
	if (json_is_real(v))
		fprintf(out, "%s: %0.2f%s\n", l->label, json_real_value(v),
			l->unit);
	else
		fprintf(out, "%s: %llu%s\n", l->label,
			(unsigned long long)json_integer_value(v) >> l->shift,
			l->unit);
}

static const char *text_of(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static void print_addresses(const json_t *list, FILE *out)
{
	const json_t *a;
	size_t i;

	if (!list)
		return;
	fprintf(out, "socket address: [\n");
	json_array_foreach(list, i, a) {
		if (!strcmp(text_of(a, "type"), "unix"))
			fprintf(out, "\tunix:%s\n", text_of(a, "path"));
		else
			fprintf(out, "\ttcp:%s:%s\n", text_of(a, "host"),
				text_of(a, "port"));
	}
	fprintf(out, "]\n");
}

void gw_stats_print(const json_t *j, FILE *out)
{
	const json_t *reasons = json_object_get(j, "blocked-reasons");
	const char *status = text_of(j, "status");
	const char *why = text_of(j, "error-desc");
	const json_t *c = json_object_get(j, "compress");
	const json_t *v;
	size_t i;

	json_array_foreach(reasons, i, v)
		fprintf(out, "Migration blocked: %s\n", json_string_value(v));
	if (!*status)
		return;
	if (*why)
		fprintf(out, "Migration status: %s (%s)\n", status, why);
	else
		fprintf(out, "Migration status: %s\n", status);
	for (i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		print_line(&lines[i], j, out);
	if (c)
		fprintf(out, "compression: %s%s%s\n", text_of(c, "method"),
			*text_of(c, "reason") ? ", " : "",
			text_of(c, "reason"));
	print_addresses(json_object_get(j, "socket-address"), out);
}
