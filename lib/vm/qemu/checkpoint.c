/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * checkpoint.c - checkpoints of a QEMU (vm.h): when it stands and runs. The
 * device state is state.c, what the guest sends hold.c, and who stops the VM
 * when this process cannot any more fence.c.
 */
#include <errno.h>
#include <string.h>

#include "vm/qemu/fence.h"
#include "vm/qemu/guardian.h"
#include "vm/qemu/hold.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/resume.h"

#define END_TIMEOUT_MS 20000

/* --- begin --------------------------------------------------------------- */

/* In the reverse order, after an error too. */
static void take_down(struct gw_qemu *q)
{
	gw_qemu_state_close(q);
	if (q->old_capabilities)
		gw_qemu_settings_restore(q);
	q->protecting = false;
}

static int prepare(struct gw_qemu *q, const struct gw_vm_checkpoint_options *o,
		   struct gw_error *err)
{
	int r = gw_hold_end(q->qmp, err); /* of a godwit that is gone */

	if (!r)
		r = gw_qemu_state_open(q, err);
	if (!r && o->hold_network)
		r = gw_hold_begin(q->qmp, err);
	if (r < 0)
		return r;
	q->held = r;
	r = o->fence ? gw_fence_start(q, err) : gw_guardian_start(q, err);
	if (r && q->held && gw_hold_end(q->qmp, NULL))
		gw_error_prefix(err, "(network filters stay)");
	return r;
}

static int op_begin(struct gw_vm *vm, const struct gw_vm_checkpoint_options *o,
		    struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_qemu_check(vm, true, err); /* devices may have been added */

	if (!r)
		r = gw_qemu_settings_save(q, true, err);
	if (!r)
		r = prepare(q, o, err);
	if (r) {
		take_down(q);
		return r;
	}
	q->protecting = true;
	q->standing = false;
	q->ran = vm->info.running;
	gw_qemu_note(q, "protecting", "source",
		     "protected by a standby; it runs here");
	return 0;
}

static int op_lease(struct gw_vm *vm, int64_t until_ns, struct gw_error *err)
{
	return gw_fence_lease(gw_qemu_of(vm), until_ns, err);
}

/* --- one checkpoint ------------------------------------------------------ */

/* When did it stop, did it run, and was the guest reset? */
static int take_events(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_error none = { 0 };
	struct gw_qmp_event e;
	int r;

	while (!(r = gw_qmp_wait_event(q->qmp, NULL, 0, &e, &none)) ||
	       r == -EOVERFLOW) {
		if (r || !strcmp(e.name, "RESET"))
			q->state.reset_ns = gw_now_ns();
		if (r || !strcmp(e.name, "RESET") || !strcmp(e.name, "RESUME"))
			q->state.same = false;
		if (!r && !strcmp(e.name, "STOP"))
			q->vm.stopped_ns = gw_qemu_event_time(&e);
		if (!r)
			gw_qmp_event_fini(&e);
	}
	if (r == -ETIMEDOUT)
		return 0;
	*err = none;
	return r;
}

/* Who rests, because its user stopped it meanwhile, rests afterwards too. */
static int op_stop(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char status[32];
	int r = gw_qemu_status(q, status, err);

	if (r)
		return r;
	if (!gw_fence_closed(q)) /* that was not its user */
		q->ran = vm->info.running = !strcmp(status, "running");
	q->state.same &= !q->ran;
	vm->stopped_ns = gw_now_ns();
	q->standing = true;
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "stop", NULL);
	return r ? r : take_events(q, err);
}

static int op_state_begin(struct gw_vm *vm, struct gw_error *err)
{
	return gw_qemu_state_begin(gw_qemu_of(vm), err);
}

static int op_state_end(struct gw_vm *vm, struct gw_vm_state *s,
			struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	return gw_qemu_state_end(q, q->ran, s, err);
}

/* The fence may have come first: then QEMU has had `stop` before `cont`. */
static int run_on(struct gw_qemu *q, struct gw_error *err)
{
	int r = gw_fence_enter(q, err), late;
	struct gw_error why = { 0 };

	if (r || !q->ran)
		return r ? r : gw_fence_leave(q, err);
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "cont", NULL);
	late = gw_fence_leave(q, &why);
	if (!late)
		return r;
	if (gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, NULL, "stop", NULL))
		gw_error_prefix(&why, "(this godwit could not stop it)");
	*err = why;
	return late;
}

static int op_cont(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = q->held ? gw_hold_cut(q->qmp, q->held, err) : 0;

	if (!r)
		r = run_on(q, err);
	q->standing = r != 0;
	return r;
}

static int op_release(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	return q->held ? gw_hold_release(q->qmp, q->held, err) : 0;
}

/* --- the end ------------------------------------------------------------- */

static int ended(struct gw_qemu *q, struct gw_error *err)
{
	gw_qemu_save_end(q);
	gw_fence_dismiss(q);
	gw_guardian_dismiss(q);
	gw_qemu_state_fini(q);
	q->protecting = false;
	return gw_fail(err, ESRCH,
		       "QEMU (pid %d) has ended and the VM with it, as in a power failure",
		       (int)q->pid);
}

/* It may stand in the middle of a checkpoint, or have been fenced. */
static int go_on(struct gw_qemu *q, struct gw_error *err)
{
	bool stopped;
	int r = gw_fence_end(q, &stopped, err);

	if (!r && q->ran && (q->standing || stopped))
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "cont", NULL);
	if (r)
		return r;
	gw_guardian_dismiss(q);
	r = gw_hold_end(q->qmp, err);
	if (!r && q->ref.dir[0])
		gw_rundir_note_clear(q->ref.dir);
	return r;
}

/* Only somebody who knows what the standby did sets it going (`resume`). */
static int stay_stopped(struct gw_qemu *q, const char *why,
			struct gw_error *err)
{
	int r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "stop", NULL);

	if (r)
		return r;
	gw_fence_dismiss(q);
	gw_guardian_dismiss(q);
	gw_qemu_note(q, "fenced", "source", "%s", why);
	return 0;
}

static int op_end(struct gw_vm *vm, bool run, const char *why,
		  struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r;

	if (!q->protecting)
		return 0;
	if (gw_qemu_dead(q))
		return ended(q, err);
	gw_qemu_save_end(q);
	r = gw_qemu_end_migration(q->qmp, END_TIMEOUT_MS, err);
	if (!r)
		r = run ? go_on(q, err) : stay_stopped(q, why, err);
	if (r == -ECONNRESET && gw_qemu_dies(q, END_TIMEOUT_MS))
		return ended(q, err);
	if (!r)
		take_down(q);
	return r;
}

const struct gw_vm_checkpoint_ops gw_qemu_checkpoint_ops = {
	.begin = op_begin,
	.lease = op_lease,
	.stop = op_stop,
	.state_begin = op_state_begin,
	.state_end = op_state_end,
	.cont = op_cont,
	.release = op_release,
	.end = op_end,
};
