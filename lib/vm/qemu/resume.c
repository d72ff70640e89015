/* SPDX-License-Identifier: BSD-3-Clause */
/* resume.c - see resume.h. */
#include "vm/qemu/resume.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define GW_LOG_MODULE "vm"
#include "base/log.h"

#define TIMEOUT_MS 30000 /* QEMU answers at once, however busy the host */

int gw_qemu_query_status(struct gw_qmp *q, char status[32],
			 struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q, TIMEOUT_MS, err, "query-status", NULL);
	const char *s = json_string_value(json_object_get(v, "status"));

	if (!v)
		return err ? -err->code : -EREMOTEIO;
	snprintf(status, 32, "%s", s ? s : "?");
	json_decref(v);
	return 0;
}

int gw_qemu_query_migrate(struct gw_qmp *q, char status[32],
			  struct gw_error *why, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q, TIMEOUT_MS, err, "query-migrate", NULL);
	const char *s, *d;

	if (!v)
		return err ? -err->code : -EREMOTEIO;
	s = json_string_value(json_object_get(v, "status"));
	d = json_string_value(json_object_get(v, "error-desc"));
	snprintf(status, 32, "%s", s && strcmp(s, "none") ? s : "");
	if (why)
		gw_fail(why, EREMOTEIO, "%s", d ? d : "QEMU gives no reason");
	json_decref(v);
	return 0;
}

static bool is_over(const char *status)
{
	return !status[0] || !strcmp(status, "failed") ||
	       !strcmp(status, "cancelled") || !strcmp(status, "completed");
}

/*
 * `failing` and `cancelling` are not over yet: QEMU still resumes the VM. It
 * may do so a moment after it said `cancelled`; until then `cont` is refused.
 */
static int is_settled(struct gw_qmp *q, bool *settled, char status[32],
		      struct gw_error *err)
{
	int r = gw_qemu_query_migrate(q, status, NULL, err);

	*settled = false;
	if (r || !is_over(status))
		return r;
	r = gw_qemu_query_status(q, status, err);
	*settled = !r && strcmp(status, "finish-migrate");
	return r;
}

int gw_qemu_end_migration(struct gw_qmp *q, int timeout_ms,
			  struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);
	struct timespec step = { 0, 2 * GW_NS_PER_MS };
	bool asked = false, settled;
	char status[32] = "";

	while (gw_deadline_left_ms(deadline) > 0) {
		int r = is_settled(q, &settled, status, err);

		if (r || settled)
			return r;
		if (!asked) {
			struct gw_error ignored;

			/* It may have ended meanwhile: then this fails. */
			asked = true;
			if (gw_qmp_do(q, TIMEOUT_MS, &ignored,
				      "migrate_cancel", NULL))
				gw_debug("%s", ignored.msg);
		}
		nanosleep(&step, NULL);
	}
	return gw_fail(err, ETIMEDOUT, "QEMU's migration is still '%s'",
		       status);
}

int gw_qemu_cont(struct gw_qmp *q, struct gw_error *err)
{
	char status[32];
	int r = gw_qemu_query_status(q, status, err);

	if (r || !strcmp(status, "running"))
		return r;
	r = gw_qmp_do(q, TIMEOUT_MS, err, "cont", NULL);
	if (!r)
		r = gw_qemu_query_status(q, status, err);
	if (!r && strcmp(status, "running"))
		r = gw_fail(err, EREMOTEIO, "QEMU is in state '%s'", status);
	return r;
}
