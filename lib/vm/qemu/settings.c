/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * settings.c - the capabilities and parameters QEMU needs while godwit moves
 * a VM, and putting back what was there before.
 */
#include <errno.h>
#include <string.h>

#include "vm/qemu/internal.h"

/*
 * What must be on or off. A capability this QEMU does not know is off. Not
 * listed: left as the user has it (dirty-bitmaps, validate-uuid, ...).
 */
static const struct {
	const char *name;
	bool source, dest;
} capabilities[] = {
	{ "x-ignore-shared", true, true },
	{ "return-path", true, true },
	{ "events", true, true },
	{ "pause-before-switchover", true, false },
	{ "xbzrle", false, false },
	{ "auto-converge", false, false },
	{ "dirty-limit", false, false },
	{ "postcopy-ram", false, false },
	{ "postcopy-preempt", false, false },
	{ "postcopy-blocktime", false, false },
	{ "release-ram", false, false },
	{ "multifd", false, false },
	{ "zero-copy-send", false, false },
	{ "background-snapshot", false, false },
	{ "mapped-ram", false, false },
	{ "switchover-ack", false, false },
	{ "x-colo", false, false },
};

static const json_t *find(const json_t *list, const char *name)
{
	const json_t *c;
	size_t i;

	json_array_foreach(list, i, c) {
		const char *n = json_string_value(
			json_object_get(c, "capability"));

		if (n && !strcmp(n, name))
			return c;
	}
	return NULL;
}

static int set_capabilities(struct gw_qemu *q, bool source,
			    struct gw_error *err)
{
	json_t *list = json_array();
	int r;

	q->old_capabilities = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
					 "query-migrate-capabilities", NULL);
	if (!q->old_capabilities) {
		json_decref(list);
		return -EREMOTEIO;
	}
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities);
	     i++) {
		bool on = source ? capabilities[i].source :
				   capabilities[i].dest;

		if (on || find(q->old_capabilities, capabilities[i].name))
			json_array_append_new(
				list, json_pack("{s:s, s:b}", "capability",
						capabilities[i].name, "state",
						on));
	}
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
		      "migrate-set-capabilities", "{s:o}", "capabilities",
		      list);
	return r;
}

/*
 * What QEMU sends is only its device state, and when it starts we are ready
 * for it: it must neither pace nor wait for a better moment.
 */
static int set_parameters(struct gw_qemu *q, struct gw_error *err)
{
	json_int_t bandwidth = 0, downtime = 300;
	json_t *p = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
			       "query-migrate-parameters", NULL);

	if (!p)
		return -EREMOTEIO;
	json_unpack(p, "{s?I, s?I}", "max-bandwidth", &bandwidth,
		    "downtime-limit", &downtime);
	json_decref(p);
	q->old_parameters = json_pack("{s:I, s:I}", "max-bandwidth", bandwidth,
				      "downtime-limit", downtime);
	return gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			 "migrate-set-parameters", "{s:i, s:i}",
			 "max-bandwidth", 0, "downtime-limit", 2000000);
}

int gw_qemu_settings_set(struct gw_qemu *q, bool source, struct gw_error *err)
{
	int r = set_capabilities(q, source, err);

	if (!r && source)
		r = set_parameters(q, err);
	return r;
}

void gw_qemu_settings_restore(struct gw_qemu *q)
{
	struct gw_error err;
	json_t *list, *c;
	size_t i;

	if (q->old_parameters)
		json_decref(gw_qmp_cmd_json(q->qmp, GW_QMP_TIMEOUT_MS, -1,
					    "migrate-set-parameters",
					    q->old_parameters, &err));
	list = json_array();
	for (i = 0; i < sizeof(capabilities) / sizeof(*capabilities); i++) {
		c = (json_t *)(uintptr_t)find(q->old_capabilities,
					      capabilities[i].name);
		if (c)
			json_array_append(list, c);
	}
	if (json_array_size(list) &&
	    gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, &err,
		      "migrate-set-capabilities", "{s:O}", "capabilities",
		      list))
		gw_warn("QEMU's migration capabilities stay changed: %s",
			err.msg);
	json_decref(list);
	json_decref(q->old_parameters);
	json_decref(q->old_capabilities);
	q->old_parameters = q->old_capabilities = NULL;
}
