/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vcpu.c - slow the vCPUs of a QEMU down. Which threads they are is asked
 * anew at each step: a vCPU may have been plugged in. The quotas are the
 * kernel's (throttle.h) and outlive this process: before the first there is a
 * guardian (guardian.h) that takes them back, and whoever attaches to this
 * QEMU next does so too.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/scope.h"
#include "vm/qemu/guardian.h"
#include "vm/qemu/internal.h"

/* Thread ids in @tid, which is the caller's to free. Return: how many, or
 * -errno. With -accel tcg,thread=single all vCPUs are one thread. */
static int ask(struct gw_qemu *q, pid_t **tid, struct gw_error *err)
{
	json_t *list = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err,
				  "query-cpus-fast", NULL);
	json_t *v;
	size_t i;
	int n = 0;

	if (!list)
		return err->code ? -err->code : -EREMOTEIO;
	*tid = calloc(json_array_size(list) + 1, sizeof(**tid));
	json_array_foreach(list, i, v) {
		json_int_t id = 0;

		json_unpack(v, "{s:I}", "thread-id", &id);
		if (*tid && id > 0 && (!n || (*tid)[n - 1] != (pid_t)id))
			(*tid)[n++] = (pid_t)id;
	}
	json_decref(list);
	if (!*tid)
		return gw_fail(err, ENOMEM, "no memory");
	return n ? n : gw_fail(err, EPROTO, "QEMU names no vCPU threads");
}

int gw_qemu_throttle(struct gw_vm *vm, unsigned int percent,
		     struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	gw_autofree pid_t *tid = NULL;
	int n, r;

	if (!percent) {
		if (q->throttled)
			gw_throttle_lift(&q->throttle);
		q->throttled = 0;
		return 0;
	}
	if (!q->throttle.pid)
		return gw_fail(err, ENOTSUP,
			       "the process id of this QEMU is not known");
	n = ask(q, &tid, err);
	if (n < 0)
		return n;
	r = gw_throttle_find(&q->throttle, tid[0], err);
	if (!r)
		r = gw_guardian_watch_quotas(q, err);
	if (!r)
		r = gw_throttle_set(&q->throttle, tid, n, percent, err);
	q->throttled = r ? 0 : percent;
	return r;
}

void gw_qemu_unthrottle(struct gw_qemu *q)
{
	if (!q->throttle.where[0])
		return;
	q->throttled = 0;
	gw_throttle_remove(&q->throttle);
}
