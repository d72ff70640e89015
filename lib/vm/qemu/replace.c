/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * replace.c - a fresh QEMU in the place of one that waited: a QEMU takes only
 * one incoming migration in its life, and the VM's command is on record.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vm/qemu/internal.h"
#include "vm/qemu/launch.h"

#define QUIT_TIMEOUT_MS	 2000
#define DEATH_TIMEOUT_MS 10000
#define START_TIMEOUT_MS 60000

#ifndef SYS_pidfd_send_signal /* Linux 5.1; the same number on every machine */
#define SYS_pidfd_send_signal 424
#endif

/* Without a pid nobody can say that it has ended. */
static int check_replaceable(struct gw_qemu *q, struct gw_error *err)
{
	const char *name = q->vm.info.name;
	char status[32];

	if (!q->ref.dir[0])
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "'%s' was not started by 'godwit run', so there is no command to start it again with",
				  name);
	if (!q->qmp) /* a replacement failed: there is none */
		return 0;
	if (q->pidfd < 0)
		return gw_fail(err, ENOTSUP,
			       "the process of '%s' is not known, so it cannot be replaced",
			       name);
	if (!gw_qemu_dead(q) && !gw_qemu_status(q, status, NULL) &&
	    !strcmp(status, "running"))
		return gw_fail(err, EBUSY,
			       "'%s' runs: it must not be replaced", name);
	return 0;
}

static int end_old(struct gw_qemu *q, struct gw_error *err)
{
	if (!q->qmp || gw_qemu_dead(q))
		return 0;
	if (gw_qmp_do(q->qmp, QUIT_TIMEOUT_MS, NULL, "quit", NULL) ||
	    !gw_qemu_dies(q, QUIT_TIMEOUT_MS))
		syscall(SYS_pidfd_send_signal, q->pidfd, SIGKILL, NULL, 0);
	if (gw_qemu_dies(q, DEATH_TIMEOUT_MS))
		return 0;
	return gw_fail(err, ETIMEDOUT,
		       "QEMU (pid %d) was killed and is still there after %d s",
		       (int)q->pid, DEATH_TIMEOUT_MS / 1000);
}

/* Its monitor is there a moment after it was started. */
static int connect_new(struct gw_qemu *q, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(START_TIMEOUT_MS);
	struct timespec step = { 0, 5 * GW_NS_PER_MS };
	int r;

	while ((r = gw_qemu_connect(q, err)) == -ENOENT ||
	       r == -ECONNREFUSED) {
		gw_qemu_disconnect(q);
		gw_qemu_init(q);
		if (!gw_rundir_alive(q->ref.dir))
			return gw_fail(err, ECHILD,
				       "the fresh QEMU of '%s' ended at once (its stderr says more)",
				       q->ref.name);
		if (gw_deadline_left_ms(deadline) == 0)
			return r;
		nanosleep(&step, NULL);
		memset(err, 0, sizeof(*err));
	}
	return r;
}

static int start_new(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_rundir_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return gw_fail(err, ENOMEM, "no memory");
	r = gw_rundir_reopen(q->ref.name, vm, err);
	if (!r)
		r = gw_launch_again(vm, err);
	gw_rundir_vm_fini(vm);
	free(vm);
	return r;
}

int gw_qemu_replace(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = check_replaceable(q, err);

	if (!r)
		r = end_old(q, err);
	if (r)
		return r;
	gw_qemu_disconnect(q);
	gw_qemu_init(q);
	r = start_new(q, err);
	if (!r)
		r = connect_new(q, err);
	if (!r)
		gw_info("'%s' has a fresh QEMU (pid %d)", q->ref.name,
			(int)q->pid);
	return r;
}
