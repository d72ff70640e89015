/* SPDX-License-Identifier: BSD-3-Clause */
/* protect.c - what godwit.h promises about VMs that have a standby. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "colo/standby.h"
#include "control/internal.h"
#include "page/deflate.h"
#include "source/join.h"
#include "source/source.h"
#include "vm/qemu/vm.h"

#define GW_LOG_MODULE "control"
#include "base/log.h"

#define STATUS_MS 2000
/* Besides the time that a primary has, a VMM may have to be started anew. */
#define FAILOVER_MS 120000

/* --- the primary --------------------------------------------------------- */

static int check_protect(struct godwit_op *op, const char *uri,
			 struct gw_error *err)
{
	const struct godwit_params *p = &op->params;
	struct gw_vm *vm = op->vm;
	int r = gw_api_check_uri(uri, err);

	/* The lease has a connection of its own. */
	if (!r)
		r = gw_join_possible(uri, "protect", err);
	if (!r && strcmp(p->compress, "none") && strcmp(p->compress, "auto"))
		r = gw_deflate_check(p->compress, p->compress_level, err);
	if (!r && !vm->ops->checkpoint)
		r = gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			       "no checkpoints can be taken of '%s'",
			       vm->info.name);
	return r ? r : vm->ops->check(vm, true, err);
}

int godwit_protect(struct godwit_op *op, const char *uri,
		   struct godwit_error *err)
{
	struct gw_source_config c = { .vm = op->vm,
				      .uri = uri,
				      .protect = true,
				      .params = &op->params,
				      .cancel = &op->cancel,
				      .progress = &op->progress,
				      .hint = &op->hint };
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	int r = check_protect(op, uri, e);

	if (r)
		return r;
	c.chan = gw_api_connect(op, uri, e);
	if (!c.chan)
		return -e->code;
	r = gw_source_run(&c, e);
	gw_chan_close(c.chan);
	return r;
}

/* --- the standby --------------------------------------------------------- */

static int socket_in(const char *dir, char path[GW_SUN_PATH_SIZE],
		     struct gw_error *err)
{
	int n = snprintf(path, GW_SUN_PATH_SIZE, "%s/standby.sock", dir);

	if (n >= 0 && n < GW_SUN_PATH_SIZE)
		return 0;
	return gw_fail(err, ENAMETOOLONG,
		       "'%s/standby.sock' is too long for a socket: set GODWIT_RUNTIME_DIR to a shorter one",
		       dir);
}

/* For `list` and `resume`, also should this process be killed. */
static void note(const char *dir, const char *phase, const char *uri,
		 const char *text)
{
	struct gw_note n = { .role = "standby" };
	struct gw_error ignored;

	snprintf(n.phase, sizeof(n.phase), "%s", phase);
	snprintf(n.peer, sizeof(n.peer), "%s", uri);
	snprintf(n.text, sizeof(n.text), "%s", text);
	if (gw_rundir_note_write(dir, &n, &ignored))
		gw_warn("%s", ignored.msg);
}

static void note_end(const char *dir, struct gw_vm *vm, bool took_over)
{
	if (took_over)
		note(dir, "taken over", vm->peer,
		     "its primary is gone, it runs here from the last checkpoint");
	else if (vm->info.waiting)
		gw_rundir_note_clear(dir);
}

int godwit_standby(struct godwit_op *op, const char *uri,
		   void (*event)(const char *what, const char *detail,
				 void *data),
		   bool *took_over, struct godwit_error *err)
{
	char path[GW_SUN_PATH_SIZE];
	struct gw_standby_config c = { .vm = op->vm,
				       .control = path,
				       .params = &op->params,
				       .cancel = &op->cancel,
				       .progress = &op->progress,
				       .event = event,
				       .data = op->progress.data };
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	const char *dir = gw_qemu_folder(op->vm);
	int r = gw_api_check_uri(uri, e);

	*took_over = false;
	/* One that was attached by its sockets has no folder. */
	if (!*dir)
		c.control = NULL;
	else if (!r)
		r = socket_in(dir, path, e);
	if (r)
		return r;
	c.listener = gw_chan_listen(uri, e);
	if (!c.listener)
		return -e->code;
	if (*dir)
		note(dir, "standby", gw_listener_uri(c.listener),
		     "it waits for checkpoints of its primary; 'godwit failover' runs it from the last one");
	r = gw_standby_run(&c, took_over, e);
	gw_listener_close(c.listener);
	if (*dir)
		note_end(dir, op->vm, *took_over);
	return r;
}

static int read_answer(const char *name, const char *answer,
		       struct gw_error *err)
{
	json_t *j = json_loads(answer, 0, NULL);
	const char *why = NULL;
	int fault = GW_FAULT_FAILED, r = 0;

	if (!j || json_unpack(j, "{s?s, s?i}", "error", &why, "fault", &fault))
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "the standby of '%s' answers '%.200s'", name,
			       answer);
	else if (why)
		r = gw_fail_as(err, (enum gw_fault)fault, EREMOTEIO, "%s",
			       why);
	json_decref(j);
	return r;
}

int godwit_failover(const char *name, char **status, struct godwit_error *err)
{
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	char path[GW_SUN_PATH_SIZE], *answer;
	struct gw_rundir_paths p;
	int r = gw_rundir_paths(name, &p, e);

	if (!r)
		r = socket_in(p.dir, path, e);
	if (r)
		return r;
	answer = gw_standby_ask(path, status ? "status" : "failover",
				status ? STATUS_MS : FAILOVER_MS, e);
	if (!answer) {
		gw_error_prefix(e, "no standby of '%s' answers on this host",
				name);
		return -e->code;
	}
	if (status) {
		*status = answer;
		return 0;
	}
	r = read_answer(name, answer, e);
	free(answer);
	return r;
}
