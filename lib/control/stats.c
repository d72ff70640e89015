/* SPDX-License-Identifier: BSD-3-Clause */
/* stats.c - see stats.h. */
#include "control/stats.h"

#include "base/clock.h"
#include "ram/block.h"

static json_int_t ms(int64_t ns)
{
	return (json_int_t)((ns + GW_NS_PER_MS / 2) / GW_NS_PER_MS);
}

static json_t *ram_json(const struct godwit_stats *s)
{
	double seconds = (double)(s->total_ns - s->setup_ns) / 1e9;
	double mbps = s->status == GODWIT_STATUS_COMPLETED && seconds > 0 ?
			      (double)s->transferred * 8 / seconds / 1e6 :
			      (double)s->bandwidth * 8 / 1e6;

	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I}",
		"transferred", (json_int_t)s->transferred, "total",
		(json_int_t)s->total, "remaining", (json_int_t)s->remaining,
		"duplicate", (json_int_t)s->duplicate, "skipped",
		(json_int_t)s->skipped, "normal", (json_int_t)s->normal,
		"normal-bytes", (json_int_t)(s->normal * GW_PAGE_SIZE),
		"dirty-pages-rate", (json_int_t)s->dirty_pages_rate, "mbps",
		mbps, "dirty-sync-count", (json_int_t)s->pass, "page-size",
		(json_int_t)GW_PAGE_SIZE);
}

void gw_stats_saved(const struct godwit_stats *s, uint64_t *nbytes, int64_t *ns)
{
	uint64_t npages = s->unpopulated + s->given_back + s->skipped +
			  s->duplicate;
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

json_t *gw_stats_json(const struct godwit_stats *s, const struct gw_error *err)
{
	json_t *j = json_pack("{s:s, s:I, s:I, s:o}", "status",
			      godwit_status_name(s->status), "total-time",
			      ms(s->total_ns), "setup-time", ms(s->setup_ns),
			      "ram", ram_json(s));

	if (!j)
		return NULL;
	if (s->status == GODWIT_STATUS_COMPLETED && s->downtime_ns) {
		json_object_set_new(j, "downtime",
				    json_integer(ms(s->downtime_ns)));
		json_object_set_new(j, "downtime-us",
				    json_integer(s->downtime_ns / 1000));
	} else if (s->expected_downtime_ns >= 0) {
		json_object_set_new(j, "expected-downtime",
				    json_integer(ms(s->expected_downtime_ns)));
	}
	json_object_set_new(j, "device-state-bytes",
			    json_integer((json_int_t)s->device_bytes));
	json_object_set_new(j, "populated-bytes",
			    json_integer((json_int_t)s->populated));
	put_saved(j, s);
	if (s->tracker)
		json_object_set_new(j, "tracker", json_string(s->tracker));
	if (s->verified)
		json_object_set_new(j, "verified-pages",
				    json_integer((json_int_t)s->verified));
	if (gw_error_is_set(err)) {
		json_object_set_new(j, "error-desc", json_string(err->msg));
		json_object_set_new(j, "exit-code",
				    json_integer((json_int_t)err->fault));
	}
	return j;
}
