/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * throttle.h - take CPU time from some threads of a process, by the kernel's
 * cpu quota: each thread gets a cgroup of its own below the one it is in,
 *
 *	<its cgroup>/godwit-PID-TID	v1: cpu.cfs_quota_us, tasks
 *					v2: threaded, cpu.max, cgroup.threads
 *
 * so that everything that holds for it above goes on to hold. The names say
 * whose they are and where their thread belongs: nothing has to be remembered,
 * and whoever comes later, also another process, can take it all back with
 * gw_throttle_remove(). Cgroups with other names are never changed, but for
 * one thing: in v2 the cpu controller may have to be switched on for the
 * children of that cgroup; an empty godwit-PID-cpu beside ours says that it is
 * to be switched off again.
 *
 * The quota counts in periods of 10 ms, up to 90 percent. The kernel's
 * smallest quota is 1 ms, so that beyond, the periods are longer: 100 ms at 99
 * percent. A thread that has to do something at once (stop) may wait that
 * long; gw_throttle_soften() before that.
 */
#ifndef GW_VM_QEMU_THROTTLE_H
#define GW_VM_QEMU_THROTTLE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

#define GW_THROTTLE_PATH 512
#define GW_THROTTLE_FINE 90 /* percent: the most in periods of 10 ms */

struct gw_throttle {
	pid_t pid;		      /* whose threads; 0: unknown */
	char where[GW_THROTTLE_PATH]; /* the first one's cgroup; "": unknown */
};

/* Can thread @tid of t->pid be throttled? Notes where. Changes nothing.
 * Return: 0 or -errno with what stands in the way. */
int gw_throttle_find(struct gw_throttle *t, pid_t tid,
		     struct gw_error *err) GW_MUST_CHECK;

/* Take @percent (1...99) of the time from each of the @n threads @tid. Those
 * that have ended are passed over. On failure none is throttled any more. */
int gw_throttle_set(struct gw_throttle *t, const pid_t *tid, int n,
		    unsigned int percent, struct gw_error *err) GW_MUST_CHECK;

/* GW_THROTTLE_FINE for all that are throttled, and so short periods. */
void gw_throttle_soften(const struct gw_throttle *t);

/* No quota any more, at once. The (then idle) cgroups stay: moving a thread
 * can take the kernel tens of milliseconds. */
void gw_throttle_lift(const struct gw_throttle *t);

/* The threads back to where they were, cgroups removed. Whoever made them;
 * idempotent, also when the process has ended.
 * Return: whether there was anything. */
bool gw_throttle_remove(const struct gw_throttle *t);

#endif
