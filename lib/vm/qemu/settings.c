/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * settings.c - the capabilities and parameters QEMU needs while godwit moves
 * a VM, and putting back what was there before.
 */
#include <errno.h>
#include <string.h>

#include "vm/qemu/internal.h"
#include "vm/qemu/native.h"
#include "vm/qemu/resume.h"

#define NO_LIMIT_MS 2000000 /* the most that QEMU takes */

/*
 * What must be on or off. A capability this QEMU does not know is off. Not
 * listed: left as the user has it (dirty-bitmaps, validate-uuid, ...).
 */
static const struct {
	const char *name;
	bool on[3]; /* GW_QEMU_SOURCE, GW_QEMU_DEST, GW_QEMU_CHECKPOINT */
} capabilities[] = {
	{ "x-ignore-shared", { true, true, true } },
	{ "return-path", { true, true, true } },
	{ "events", { true, true, true } },
	{ "pause-before-switchover", { true, false, false } },
	{ "xbzrle", { false } },
	{ "auto-converge", { false } },
	{ "dirty-limit", { false } },
	{ "postcopy-ram", { false } },
	{ "postcopy-preempt", { false } },
	{ "postcopy-blocktime", { false } },
	{ "release-ram", { false } },
	{ "multifd", { false } },
	{ "zero-copy-send", { false } },
	{ "background-snapshot", { false } },
	{ "mapped-ram", { false } },
	{ "switchover-ack", { false } },
	{ "x-colo", { false } },
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

static bool is_on(const json_t *list, const char *name)
{
	return json_is_true(json_object_get(find(list, name), "state"));
}

/*
 * A godwit and its guardian that were killed leave what they set. It is
 * recognised by x-ignore-shared, which others have no use for.
 */
static bool left_behind(const json_t *list)
{
	return is_on(list, "x-ignore-shared") && is_on(list, "return-path");
}

/*
 * QEMU reads its monitor byte by byte: a list of everything takes it 3 ms,
 * and some are set while the VM stands. So only what is to change is said.
 */
static void append(json_t *list, const char *name, bool on)
{
	json_array_append_new(list, json_pack("{s:s, s:b}", "capability", name,
					      "state", on));
}

/* Takes @list over; an empty one is not said at all. */
static int say(struct gw_qmp *q, json_t *list, struct gw_error *err)
{
	if (json_array_size(list))
		return gw_qmp_do(q, GW_QMP_TIMEOUT_MS, err,
				 "migrate-set-capabilities", "{s:o}",
				 "capabilities", list);
	json_decref(list);
	return 0;
}

static int set_capabilities(struct gw_qemu *q, enum gw_qemu_use use,
			    struct gw_error *err)
{
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities);
	     i++) {
		const char *name = capabilities[i].name;
		bool on = capabilities[i].on[use];

		if (on != is_on(q->old_capabilities, name))
			append(list, name, on);
	}
	return say(q->qmp, list, err);
}

/* In QEMU and in @is. */
static int switch_off_ours(struct gw_qmp *q, json_t *is, struct gw_error *err)
{
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities);
	     i++) {
		json_t *c = (json_t *)(uintptr_t)find(is,
						      capabilities[i].name);

		if (!json_is_true(json_object_get(c, "state")))
			continue;
		append(list, capabilities[i].name, false);
		json_object_set_new(c, "state", json_false());
	}
	return say(q, list, err);
}

/* What QEMU itself begins with. */
static json_t *default_parameters(void)
{
	return json_pack("{s:i, s:i}", "max-bandwidth", 128 << 20,
			 "downtime-limit", 300);
}

/* As they are, or as they were before a godwit that is gone. *@left: that was
 * the case. */
static json_t *read_parameters(struct gw_qmp *q, bool *left,
			       struct gw_error *err)
{
	json_int_t bandwidth = 0, downtime = 300;
	json_t *p = gw_qmp_cmd(q, GW_QMP_TIMEOUT_MS, err,
			       "query-migrate-parameters", NULL);

	if (!p)
		return NULL;
	json_unpack(p, "{s?I, s?I}", "max-bandwidth", &bandwidth,
		    "downtime-limit", &downtime);
	json_decref(p);
	*left = bandwidth == 0 && downtime == NO_LIMIT_MS;
	return *left ? default_parameters() :
		       json_pack("{s:I, s:I}", "max-bandwidth", bandwidth,
				 "downtime-limit", downtime);
}

static int save_parameters(struct gw_qemu *q, struct gw_error *err)
{
	bool left;

	q->old_parameters = read_parameters(q->qmp, &left, err);
	return q->old_parameters ? 0 : -EREMOTEIO;
}

int gw_qemu_settings_save(struct gw_qemu *q, bool source, struct gw_error *err)
{
	if (!q->old_capabilities) {
		q->old_capabilities = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS,
						 err,
						 "query-migrate-capabilities",
						 NULL);
		if (!q->old_capabilities)
			return -EREMOTEIO;
		if (left_behind(q->old_capabilities) &&
		    switch_off_ours(q->qmp, q->old_capabilities, err))
			return -EREMOTEIO;
	}
	return source && !q->old_parameters ? save_parameters(q, err) : 0;
}

int gw_qemu_settings_set(struct gw_qemu *q, enum gw_qemu_use use,
			 struct gw_error *err)
{
	bool source = use != GW_QEMU_DEST;
	int r = gw_qemu_settings_save(q, source, err);

	if (!r)
		r = set_capabilities(q, use, err);
	/*
	 * What QEMU sends is only its device state, and when it starts we are
	 * ready for it: it must neither pace nor wait for a better moment.
	 */
	if (!r && source)
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			      "migrate-set-parameters", "{s:i, s:i}",
			      "max-bandwidth", 0, "downtime-limit",
			      NO_LIMIT_MS);
	return r;
}

/* --- native mode -------------------------------------------------------- */

/* What makes a stream that is not one connection with all of the VM. */
static const struct {
	const char *name, *why;
} not_carried[] = {
	{ "multifd", "it sends over several connections" },
	{ "postcopy-ram", "its VM lives on both sides for a while" },
	{ "postcopy-preempt", "it sends over two connections" },
	{ "background-snapshot", "it writes a snapshot and moves nothing" },
	{ "mapped-ram", "it writes a file" },
	{ "x-colo", "its VM runs on both sides" },
	{ "x-ignore-shared", "it leaves the shared memory out" },
};

static int check_native_parameters(struct gw_qemu *q, struct gw_error *err)
{
	static const char *const names[] = { "tls-creds", "mode" };
	static const char *const fine[] = { "", "normal" };
	json_t *p = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
			       "query-migrate-parameters", NULL);
	int r = p ? 0 : -EREMOTEIO;

	for (int i = 0; i < 2 && !r; i++) {
		const char *v =
			json_string_value(json_object_get(p, names[i]));

		if (v && strcmp(v, fine[i]))
			r = gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				       "QEMU's migration parameter %s is '%s', which a stream that is carried cannot have: set it to '%s' (migrate-set-parameters)%s",
				       names[i], v, fine[i],
				       i ? "" :
					   ", and protect the connection by a tunnel");
	}
	json_decref(p);
	return r;
}

static int check_native(struct gw_qemu *q, struct gw_error *err)
{
	for (size_t i = 0; i < sizeof(not_carried) / sizeof(*not_carried); i++)
		if (is_on(q->old_capabilities, not_carried[i].name))
			return gw_fail_as(
				err, GW_FAULT_USAGE, ENOTSUP,
				"QEMU's migration capability %s is on, and what it makes cannot be carried (%s): switch it off (migrate-set-capabilities)",
				not_carried[i].name, not_carried[i].why);
	return check_native_parameters(q, err);
}

/* As the user has it, but for three. */
static bool native_state(const json_t *old, const char *name, bool return_path)
{
	if (!strcmp(name, "return-path"))
		return return_path;
	if (!strcmp(name, "events") || !strcmp(name, "pause-before-switchover"))
		return true;
	return is_on(old, name);
}

int gw_qemu_settings_native(struct gw_qemu *q, const struct gw_native_config *c,
			    struct gw_error *err)
{
	json_int_t bandwidth = 0, downtime = 300;
	json_t *list;
	int r = gw_qemu_settings_save(q, true, err);

	if (!r)
		r = check_native(q, err);
	if (r)
		return r;
	list = json_array();
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities);
	     i++) {
		const char *name = capabilities[i].name;

		bool on = native_state(q->old_capabilities, name,
				       c->return_path);

		if (on != is_on(q->old_capabilities, name))
			append(list, name, on);
	}
	r = say(q->qmp, list, err);
	if (r)
		return r;
	json_unpack(q->old_parameters, "{s:I, s:I}", "max-bandwidth",
		    &bandwidth, "downtime-limit", &downtime);
	if (c->max_bandwidth)
		bandwidth = (json_int_t)c->max_bandwidth;
	if (c->downtime_limit_ms >= 0)
		downtime = c->downtime_limit_ms;
	return gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			 "migrate-set-parameters", "{s:I, s:I}",
			 "max-bandwidth", bandwidth, "downtime-limit",
			 downtime);
}

static void put_parameters(struct gw_qmp *q, json_t *parameters)
{
	struct gw_error err;

	if (parameters)
		json_decref(gw_qmp_cmd_json(q, GW_QMP_TIMEOUT_MS, -1,
					    "migrate-set-parameters",
					    parameters, &err));
}

/* What a move changes, in whichever role: as it was in @old. */
static void put_capabilities(struct gw_qmp *q, const json_t *old)
{
	json_t *list = json_array();
	struct gw_error err;

	for (size_t i = 0; i < sizeof(capabilities) / sizeof(*capabilities);
	     i++) {
		const char *name = capabilities[i].name;
		const bool *used = capabilities[i].on;
		bool on = is_on(old, name);

		if (on || (find(old, name) && (used[0] || used[1] || used[2])))
			append(list, name, on);
	}
	if (say(q, list, &err))
		gw_warn("QEMU's migration capabilities stay changed: %s",
			err.msg);
}

void gw_qemu_settings_restore(struct gw_qemu *q)
{
	put_parameters(q->qmp, q->old_parameters);
	put_capabilities(q->qmp, q->old_capabilities);
	json_decref(q->old_parameters);
	json_decref(q->old_capabilities);
	q->old_parameters = q->old_capabilities = NULL;
}

void gw_qemu_settings_clean(struct gw_qmp *q)
{
	struct gw_error err;
	json_t *list = gw_qmp_cmd(q, GW_QMP_TIMEOUT_MS, &err,
				  "query-migrate-capabilities", NULL);
	bool left = false;
	json_t *p = read_parameters(q, &left, &err);

	if (left_behind(list)) {
		if (left)
			put_parameters(q, p);
		if (switch_off_ours(q, list, &err))
			gw_warn("QEMU's migration capabilities stay changed: %s",
				err.msg);
	}
	json_decref(p);
	json_decref(list);
}
