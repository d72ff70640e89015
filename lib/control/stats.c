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
	if (s->tracker)
		json_object_set_new(j, "tracker", json_string(s->tracker));
	if (s->verified)
		json_object_set_new(j, "verified-pages",
				    json_integer((json_int_t)s->verified));
	if (s->hint_asked)
		json_object_set_new(j, "free-page-hint", hints_json(s));
	if (gw_error_is_set(err)) {
		json_object_set_new(j, "error-desc", json_string(err->msg));
		json_object_set_new(j, "exit-code",
				    json_integer((json_int_t)err->fault));
	}
	return j;
}
