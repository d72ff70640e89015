/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * takeover.c - the VM runs from the last complete checkpoint. A VMM loads
 * device state once in its life, and one that failed at it may have written
 * into the VM's RAM: each further attempt has a fresh one.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/command.h"
#include "base/scope.h"
#include "colo/keeper.h"

#define ATTEMPTS   3
#define ARBITER_MS 60000
#define LOOK_NS	   GW_NS_PER_S

int gw_standby_fill(struct gw_standby *s, struct gw_error *err)
{
	int r = gw_store_fill(s->store, &gw_standby_vm(s)->ram, err);

	s->filled = !r;
	return r;
}

/* A fresh VMM in the place of one that is of no use any more because of
 * @why. */
static int replace(struct gw_standby *s, const struct gw_error *why,
		   struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	int r;

	s->filled = false;
	if (!vm->ops->replace) {
		*err = *why;
		return -err->code;
	}
	gw_standby_say(s, "replacing", "%s", why->msg);
	r = vm->ops->replace(vm, err);
	if (!r)
		r = gw_ram_map(&vm->ram, true, err);
	if (r)
		gw_error_prefix(err, "%.400s; in its place", why->msg);
	return r;
}

int gw_standby_look(struct gw_standby *s, struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	struct gw_error why = { 0 };

	if (gw_now_ns() - s->looked_ns < LOOK_NS)
		return 0;
	s->looked_ns = gw_now_ns();
	if (!vm->ops->check(vm, false, &why))
		return 0;
	return replace(s, &why, err);
}

static int load(struct gw_standby *s, struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	size_t len;
	const void *state = gw_store_state(s->store, &len);
	int r = s->filled ? 0 : gw_standby_fill(s, err);

	if (!r)
		r = vm->ops->load_begin(vm, err);
	if (!r)
		r = vm->ops->load_write(vm, state, len, err);
	if (!r)
		r = vm->ops->load_finish(vm, err);
	/* Loading may write to memory. */
	s->filled = false;
	return r;
}

static int run(struct gw_standby *s, struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	int r = 0;

	if (gw_store_flags(s->store) && !s->c->params->paused)
		r = vm->ops->run(vm, err);
	if (!r)
		gw_vm_stay(vm);
	return r;
}

/* Once; what failed is left so that it can never run. */
static int attempt(struct gw_standby *s, struct gw_error *err)
{
	struct gw_vm *vm = gw_standby_vm(s);
	struct gw_error undo = { 0 };
	int r = load(s, err);

	if (!r)
		r = run(s, err);
	if (!r || err->fault == GW_FAULT_UNCERTAIN)
		return r;
	if (!vm->ops->load_abort(vm, &undo))
		return r;
	return gw_fail_as(err, GW_FAULT_UNCERTAIN, undo.code,
			  "the VMM could not be taken back: %.500s", undo.msg);
}

static int attempts(struct gw_standby *s, struct gw_error *err)
{
	struct gw_error why;
	int r;

	for (int n = 1;; n++) {
		memset(&why, 0, sizeof(why));
		r = attempt(s, &why);
		if (!r)
			return 0;
		if (why.fault == GW_FAULT_UNCERTAIN || n == ATTEMPTS)
			break;
		r = replace(s, &why, err);
		if (r)
			return r;
	}
	*err = why;
	return r;
}

/* The user's command has the last word, as for the primary. */
static int ask_arbiter(struct gw_standby *s, struct gw_error *err)
{
	const char *command = s->c->params->arbiter;
	const char *name = gw_standby_vm(s)->info.name;
	const char *args[] = { "standby", name, s->primary, NULL };
	char vm[96], peer[192];
	const char *env[] = { "GODWIT_ROLE=standby", vm, peer, NULL };
	int r;

	if (!command || !command[0])
		return 0;
	snprintf(vm, sizeof(vm), "GODWIT_VM=%s", name);
	snprintf(peer, sizeof(peer), "GODWIT_PEER=%s", s->primary);
	gw_info("asking the arbiter: %s", command);
	r = gw_command_run(command, args, env, ARBITER_MS, s->c->cancel, err);
	if (r < 0)
		gw_error_prefix(err, "the arbiter '%s'", command);
	else if (r)
		r = gw_fail_as(err, GW_FAULT_REFUSED, EPERM,
			       "the arbiter '%s' says no (exit status %d)",
			       command, r);
	return r;
}

/* Whoever said failover hears what came of it. */
static void conclude(struct gw_standby *s, const struct gw_error *err)
{
	GW_LOCKED(&s->lock);
	s->attempts++;
	s->last = *err;
	pthread_cond_broadcast(&s->changed);
}

int gw_standby_take_over(struct gw_standby *s, const char *reason, bool ask,
			 struct gw_error *err)
{
	struct gw_error why = { 0 };
	unsigned long long seq = gw_store_seq(s->store);
	int r;

	gw_standby_enter(s, GW_STANDBY_TAKING);
	gw_standby_say(s, "taking over", "%s", reason);
	gw_progress_status(s->c->progress, GODWIT_STATUS_DEVICE);
	r = ask ? ask_arbiter(s, &why) : 0;
	if (!r)
		r = gw_store_drop(s->store, &why);
	if (!r)
		r = attempts(s, &why);
	if (r) {
		gw_error_prefix(&why, "'%s' could not be run from checkpoint %llu",
				gw_standby_vm(s)->info.name, seq);
		*err = why;
		gw_standby_enter(s, GW_STANDBY_LISTENING);
	} else {
		gw_standby_enter(s, GW_STANDBY_RUNNING);
		gw_progress_status(s->c->progress, GODWIT_STATUS_COMPLETED);
		gw_standby_say(s, "running", "from checkpoint %llu", seq);
	}
	conclude(s, &why);
	return r;
}
