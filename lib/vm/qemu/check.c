/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * check.c - can this VM be moved, before a byte moves: its run state, devices
 * whose memory writes no tracker sees, and what QEMU itself objects to.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/qemu/foreign.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/native.h"

static int refuse(struct gw_qemu *q, const char *what,
		  const struct gw_foreign *f, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			  "'%s' cannot be moved: %s: %s; %s", q->vm.info.name,
			  what, f->why, f->remedy);
}

/* Children of @path are child<TYPE>. */
static int check_devices(struct gw_qemu *q, const char *path,
			 struct gw_error *err)
{
	json_t *list = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "qom-list",
				  "{s:s}", "path", path);
	int r = list ? 0 : -EREMOTEIO;
	json_t *v;
	size_t i;

	json_array_foreach(list, i, v) {
		const char *type = json_string_value(json_object_get(v,
								     "type"));
		const struct gw_foreign *f;
		char name[128];

		if (r || !type || sscanf(type, "child<%127[^>]>", name) != 1)
			continue;
		f = gw_foreign_device(name);
		if (f)
			r = refuse(q, name, f, err);
	}
	json_decref(list);
	return r;
}

/* QMP has no list of network backends; HMP prints "type=vhost-user,...". */
static int check_netdevs(struct gw_qemu *q, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
			       "human-monitor-command", "{s:s}",
			       "command-line", "info network");
	const char *p = json_string_value(v);
	int r = v ? 0 : -EREMOTEIO;

	while (p && !r && (p = strstr(p, "type="))) {
		const struct gw_foreign *f;
		char type[64] = "";

		p += strlen("type=");
		sscanf(p, "%63[^,\r\n ]", type);
		f = gw_foreign_netdev(type);
		if (f)
			r = refuse(q, type, f, err);
	}
	json_decref(v);
	return r;
}

/* QEMU's own list of what makes a migration impossible (since 6.0). */
static int check_blockers(struct gw_qemu *q, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-migrate",
			       NULL);
	const char *why = json_string_value(json_array_get(
		json_object_get(v, "blocked-reasons"), 0));
	int r = v ? 0 : -EREMOTEIO;

	if (why)
		r = gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			       "'%s' cannot be moved, QEMU says: %s",
			       q->vm.info.name, why);
	json_decref(v);
	return r;
}

/* Does any disk bypass the host's page cache? Then it pins guest pages. */
static int find_direct_io(struct gw_qemu *q, struct gw_error *err)
{
	json_t *list = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
				  "query-named-block-nodes", "{s:b}", "flat",
				  1);
	json_t *v;
	size_t i;

	if (!list)
		return -EREMOTEIO;
	q->vm.info.direct_io = false;
	json_array_foreach(list, i, v) {
		const char *drv = json_string_value(json_object_get(v, "drv"));
		const struct gw_foreign *f = drv ? gw_foreign_blockdev(drv) :
						   NULL;

		if (json_is_true(json_object_get(json_object_get(v, "cache"),
						 "direct")))
			q->vm.info.direct_io = true;
		if (f) {
			json_decref(list);
			return refuse(q, drv, f, err);
		}
	}
	json_decref(list);
	if (q->vm.info.direct_io)
		gw_info("a disk uses direct I/O: every pass drains the disks");
	return 0;
}

/* Is there a VM in it, in a state to begin from? */
static int check_state(struct gw_qemu *q, const char *status,
		       struct gw_error *err)
{
	const char *name = q->vm.info.name;

	if (!strcmp(status, "inmigrate"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "'%s' waits for an incoming migration itself, there is no VM in it yet",
				  name);
	if (!strcmp(status, "postmigrate"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "'%s' was migrated away already and stands still here. If it does not run at the destination, 'godwit resume %s' runs it here again",
				  name, name);
	if (strcmp(status, "running") && strcmp(status, "paused") &&
	    strcmp(status, "prelaunch") && strcmp(status, "suspended"))
		return gw_fail(err, EBUSY,
			       "'%s' is in state '%s' and cannot be moved now; running and paused VMs can",
			       name, status);
	return 0;
}

static int check_source(struct gw_qemu *q, const char *status,
			struct gw_error *err)
{
	int r = check_state(q, status, err);

	if (!r)
		r = check_devices(q, "/machine/peripheral", err);
	if (!r)
		r = check_devices(q, "/machine/peripheral-anon", err);
	if (!r)
		r = check_netdevs(q, err);
	if (!r)
		r = check_blockers(q, err);
	if (!r)
		r = find_direct_io(q, err);
	return r;
}

static int check_dest(struct gw_qemu *q, const char *status,
		      struct gw_error *err)
{
	char migration[32];
	int r;

	if (strcmp(status, "inmigrate"))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "'%s' does not wait for a migration, it is in state '%s': start it with 'godwit run %s --incoming -- ...'",
				  q->vm.info.name, status, q->vm.info.name);
	r = gw_qemu_migration(q, migration, NULL, err);
	if (r)
		return r;
	if (migration[0])
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "'%s' has had an incoming migration (status '%s'), and a QEMU takes only one: end it and start it again",
				  q->vm.info.name, migration);
	return 0;
}

static int read_state(struct gw_qemu *q, char status[32], struct gw_error *err)
{
	int r = gw_qemu_status(q, status, err);

	if (r)
		return r;
	q->vm.info.running = !strcmp(status, "running");
	q->vm.info.waiting = !strcmp(status, "inmigrate");
	return 0;
}

int gw_qemu_native_check(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char status[32];
	int r = read_state(q, status, err);

	if (!r)
		r = check_state(q, status, err);
	return r ? r : check_blockers(q, err);
}

int gw_qemu_check(struct gw_vm *vm, bool source, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char status[32];
	int r;

	if (!q->agent)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "without the agent the memory of this QEMU cannot be reached: start the VM with 'godwit run', or name the agent's socket: qmp=%s,agent=PATH%s",
				  q->ref.qmp,
				  source ? ", or let QEMU send it all by itself: 'godwit migrate' with --native" :
					   "");
	r = read_state(q, status, err);
	if (r)
		return r;
	return source ? check_source(q, status, err) :
			check_dest(q, status, err);
}
