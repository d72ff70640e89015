/* SPDX-License-Identifier: BSD-3-Clause */
/* hold.c - see hold.h. */
#include "vm/qemu/hold.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS 30000 /* QEMU answers at once, however busy the host */
#define NEAR	   "godwit-hold-near-"
#define FAR	   "godwit-hold-far-"
#define LONGEST	   4294967295LL /* us, the most that QEMU takes */

static int add(struct gw_qmp *q, const char *which, int i, const char *netdev,
	       struct gw_error *err)
{
	char id[64];

	snprintf(id, sizeof(id), "%s%d", which, i);
	return gw_qmp_do(q, TIMEOUT_MS, err, "object-add",
			 "{s:s, s:s, s:s, s:s, s:I}", "qom-type",
			 "filter-buffer", "id", id, "netdev", netdev, "queue",
			 "rx", "interval", (json_int_t)LONGEST);
}

/* The order matters: see hold.h. */
static int hold(struct gw_qmp *q, int i, const char *netdev,
		struct gw_error *err)
{
	int r = add(q, FAR, i, netdev, err);

	if (!r)
		r = add(q, NEAR, i, netdev, err);
	if (r)
		gw_error_prefix(err,
				"what the guest sends over '%s' cannot be held back",
				netdev);
	return r;
}

/*
 * QMP has no list of network backends; HMP prints " \ NAME: index=0,type=..."
 * for one that has a device, and "hub0port1: NAME: ..." for one behind a hub.
 */
static bool is_backend(const char *line, char name[64])
{
	const char *at = strstr(line, ": index="), *from = at;
	char type[32] = "";

	if (strncmp(line, " \\ ", 3) || !at)
		return false;
	while (from[-1] != ' ')
		from--;
	snprintf(name, 64, "%.*s", (int)(at - from), from);
	sscanf(at, ": index=%*[^,],type=%31[^,\r\n]", type);
	return strcmp(type, "nic") && strcmp(type, "hubport");
}

static int hold_all(struct gw_qmp *q, const char *text, struct gw_error *err)
{
	char line[512], name[64];
	int n = 0, r = 0;

	while (*text && !r) {
		size_t len = strcspn(text, "\n");

		snprintf(line, sizeof(line), "%.*s", (int)len, text);
		if (is_backend(line, name))
			r = hold(q, n++, name, err);
		text += len + (text[len] == '\n');
	}
	return r ? r : n;
}

int gw_hold_begin(struct gw_qmp *q, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q, TIMEOUT_MS, err, "human-monitor-command",
			       "{s:s}", "command-line", "info network");
	const char *text = json_string_value(v);
	int r = v ? 0 : -EREMOTEIO;

	if (!r)
		r = hold_all(q, text ? text : "", err);
	if (r < 0 && gw_hold_end(q, NULL))
		gw_error_prefix(err, "(some filters stay)");
	json_decref(v);
	return r;
}

static int set_status(struct gw_qmp *q, const char *which, int i,
		      const char *status, struct gw_error *err)
{
	char path[80];

	snprintf(path, sizeof(path), "/objects/%s%d", which, i);
	return gw_qmp_do(q, TIMEOUT_MS, err, "qom-set", "{s:s, s:s, s:s}",
			 "path", path, "property", "status", "value", status);
}

static int empty(struct gw_qmp *q, const char *which, int n,
		 struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < n && !r; i++) {
		r = set_status(q, which, i, "off", err);
		if (!r)
			r = set_status(q, which, i, "on", err);
	}
	return r;
}

int gw_hold_cut(struct gw_qmp *q, int n, struct gw_error *err)
{
	return empty(q, NEAR, n, err);
}

int gw_hold_release(struct gw_qmp *q, int n, struct gw_error *err)
{
	return empty(q, FAR, n, err);
}

static int delete_all(struct gw_qmp *q, const json_t *objects,
		      const char *which, struct gw_error *err)
{
	const json_t *v;
	size_t i;
	int r = 0;

	json_array_foreach(objects, i, v) {
		const char *id = json_string_value(json_object_get(v, "name"));

		if (!r && id && !strncmp(id, which, strlen(which)))
			r = gw_qmp_do(q, TIMEOUT_MS, err, "object-del",
				      "{s:s}", "id", id);
	}
	return r;
}

int gw_hold_end(struct gw_qmp *q, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q, TIMEOUT_MS, err, "qom-list", "{s:s}", "path",
			       "/objects");
	int r = v ? 0 : -EREMOTEIO;

	/* What is in `near` goes to `far`, behind what is there. */
	if (!r)
		r = delete_all(q, v, NEAR, err);
	if (!r)
		r = delete_all(q, v, FAR, err);
	json_decref(v);
	return r;
}
