/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * throttle.c - slow the VM's vCPUs down as converge.c wants it. That it
 * cannot be done is said once and ends no migration: it goes on without.
 */
#include <errno.h>
#include <stdio.h>

#include "source/internal.h"

static int set(struct gw_source *s, uint32_t percent, struct gw_error *err)
{
	struct gw_vm *vm = s->c.vm;

	if (!vm->ops->throttle)
		return gw_fail(err, ENOTSUP, "%s has no means to",
			       vm->info.vmm);
	return vm->ops->throttle(vm, percent, err);
}

void gw_source_throttle(struct gw_source *s)
{
	struct godwit_stats *n = s->now;
	struct gw_converge *c = &s->converge;
	struct gw_error err = { 0 };

	if (c->throttle == n->cpu_throttle_percentage)
		return;
	if (set(s, c->throttle, &err)) {
		gw_warn("the vCPUs of '%s' cannot be slowed down, the migration goes on without: %s",
			s->c.vm->info.name, err.msg);
		snprintf(s->throttle_why, sizeof(s->throttle_why), "%.255s",
			 err.msg);
		c->cannot_throttle = true;
		c->throttle = 0;
	} else {
		gw_info("pass %u: %u percent of the vCPUs' time is taken",
			n->pass, c->throttle);
	}
	n->cpu_throttle_percentage = c->throttle;
	if (n->cpu_throttle_most < c->throttle)
		n->cpu_throttle_most = c->throttle;
	gw_progress_tick(s->c.progress);
}

void gw_source_unthrottle(struct gw_source *s)
{
	struct gw_error err = { 0 };

	if (!s->now->cpu_throttle_percentage)
		return;
	if (set(s, 0, &err))
		gw_warn("the vCPUs of '%s' may still be slowed down: %s",
			s->c.vm->info.name, err.msg);
	s->now->cpu_throttle_percentage = 0;
}
