/* SPDX-License-Identifier: BSD-3-Clause */
/* native.c - see native.h. */
#include "vm/qemu/native.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vm/qemu/guardian.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/resume.h"

#define UNDO_TIMEOUT_MS 20000 /* QEMU runs the VM again */

int gw_qemu_native_prepare(struct gw_vm *vm, const struct gw_native_config *c,
			   struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	/* The guardian puts back what it knows: save before it is forked. */
	int r = gw_qemu_settings_save(q, true, err);

	if (r)
		return r;
	q->dev_fd = gw_qemu_pass_socket(q, "godwit-native", 0, err);
	if (q->dev_fd < 0)
		return -EREMOTEIO;
	r = gw_guardian_start(q, err);
	if (r)
		return r;
	q->saving = true; /* from here on there is something to undo */
	r = gw_qemu_settings_native(q, c, err);
	return r ? r : q->dev_fd;
}

int gw_qemu_native_start(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qmp_drop_events(q->qmp);
	gw_qemu_note(q, "moving", "source", "being moved; it runs here");
	return gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "migrate", "{s:s}",
			 "uri", "fd:godwit-native");
}

int gw_qemu_native_wait(struct gw_vm *vm, int timeout_ms, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int64_t deadline = gw_deadline_ms(timeout_ms);
	char status[32];
	int r, news = 0;

	do { /* one event wakes, the others that are there come along */
		r = gw_qemu_next_status(
			q, news ? 0 : gw_deadline_left_ms(deadline), status,
			err);
		news |= r > 0;
	} while (r > 0);
	return r < 0 ? r : news;
}

int gw_qemu_native_query(struct gw_vm *vm, struct gw_native_numbers *n,
			 struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	json_t *v = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-migrate",
			       NULL);
	json_int_t expected = -1, downtime = -1, setup = -1, remaining = 0,
		   total = 0, normal = 0, duplicate = 0, rate = 0, pass = 0;
	const char *status = "", *why = "";

	if (!v)
		return err->code ? -err->code : -EREMOTEIO;
	json_unpack(v, "{s?s, s?s, s?I, s?I, s?I}", "status", &status,
		    "error-desc", &why, "expected-downtime", &expected,
		    "downtime", &downtime, "setup-time", &setup);
	json_unpack(v, "{s?{s?I, s?I, s?I, s?I, s?I, s?I}}", "ram", "remaining",
		    &remaining, "total", &total, "normal", &normal, "duplicate",
		    &duplicate, "dirty-pages-rate", &rate, "dirty-sync-count",
		    &pass);
	*n = (struct gw_native_numbers){
		.remaining = (uint64_t)remaining,
		.total = (uint64_t)total,
		.normal = (uint64_t)normal,
		.duplicate = (uint64_t)duplicate,
		.dirty_pages_rate = (uint64_t)rate,
		.pass = (uint32_t)pass,
		.setup_ms = setup,
		.downtime_ms = downtime,
		.expected_downtime_ms = expected,
	};
	if (strcmp(status, "none"))
		snprintf(n->status, sizeof(n->status), "%s", status);
	snprintf(n->why, sizeof(n->why), "%s", why);
	json_decref(v);
	return 0;
}

int gw_qemu_native_continue(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_guardian_hand_over(q, err);

	if (r)
		return r;
	gw_qemu_note(q, "committing", "source",
		     "QEMU is handing it over; whether the destination has it "
		     "is known there");
	return gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "migrate-continue",
			 "{s:s}", "state", "pre-switchover");
}

static int ended(struct gw_qemu *q, struct gw_error *err)
{
	gw_guardian_dismiss(q);
	return gw_fail(err, ESRCH,
		       "the source QEMU has ended and the VM with it, as in a "
		       "power failure: start it again");
}

/* QEMU is not our child, and in attached VMs not even its pid is known: its
 * monitor says it. */
static bool is_gone(struct gw_qemu *q)
{
	struct gw_error err;
	char status[32];

	return gw_qemu_dead(q) ||
	       gw_qemu_status(q, status, &err) == -ECONNRESET;
}

int gw_qemu_native_undo(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r;

	if (is_gone(q))
		return ended(q, err);
	if (!q->saving)
		return 0;
	r = gw_qemu_end_migration(q->qmp, UNDO_TIMEOUT_MS, err);
	if (!r && vm->info.running)
		r = gw_qemu_cont(q->qmp, err);
	if (r && is_gone(q))
		return ended(q, err);
	if (r) {
		gw_error_prefix(err, "QEMU");
		return r;
	}
	gw_qemu_settings_restore(q);
	gw_guardian_dismiss(q);
	q->saving = false;
	if (q->ref.dir[0])
		gw_rundir_note_clear(q->ref.dir);
	return 0;
}

int gw_qemu_native_stop(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char status[32] = "";
	int r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "stop", NULL);

	if (!r)
		r = gw_qemu_status(q, status, err);
	if (!r && !strcmp(status, "running"))
		r = gw_fail(err, EREMOTEIO, "QEMU is in state '%s'", status);
	return r;
}

void gw_qemu_native_done(struct gw_vm *vm, bool certain)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	if (certain)
		gw_qemu_note(q, "done", "source",
			     "moved away; this QEMU holds a stopped copy");
	else
		gw_qemu_note(q, "uncertain", "source",
			     "stopped here, because the destination may have "
			     "the whole VM; whether it runs it is known there");
	if (!is_gone(q))
		gw_qemu_settings_restore(q);
	gw_guardian_dismiss(q);
	q->saving = false;
}

void gw_qemu_native_end(struct gw_vm *vm)
{
	gw_qemu_save_end(gw_qemu_of(vm));
}

const char *gw_qemu_native_name(struct gw_vm *vm, char buf[128])
{
	struct gw_qemu *q = gw_qemu_of(vm);

	if (q->ref.name[0])
		snprintf(buf, 128, "%s", q->ref.name);
	else
		snprintf(buf, 128, "qmp=%s", q->ref.qmp);
	return buf;
}
