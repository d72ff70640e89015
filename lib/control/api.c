/* SPDX-License-Identifier: BSD-3-Clause */
/* api.c - what godwit.h promises, on top of the engines. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cancel.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/scope.h"
#include "chan/chan.h"
#include "control/internal.h"
#include "control/params.h"
#include "godwit.h"
#include "image/peer_sink.h"
#include "page/deflate.h"
#include "source/join.h"
#include "source/native.h"
#include "source/source.h"
#include "vm/qemu/native.h"
#include "vm/qemu/vm.h"

/* The public error is the internal one under its public name. */
_Static_assert(sizeof(struct godwit_error) == sizeof(struct gw_error) &&
		       (int)GODWIT_UNCERTAIN == (int)GW_FAULT_UNCERTAIN,
	       "godwit.h and base/error.h describe the same error");

const char *godwit_version(void)
{
	return GW_VERSION;
}

const char *godwit_status_name(enum godwit_status s)
{
	static const char *const name[] = {
		[GODWIT_STATUS_NONE] = "none",
		[GODWIT_STATUS_SETUP] = "setup",
		[GODWIT_STATUS_ACTIVE] = "active",
		[GODWIT_STATUS_PRE_SWITCHOVER] = "pre-switchover",
		[GODWIT_STATUS_DEVICE] = "device",
		[GODWIT_STATUS_COMPLETED] = "completed",
		[GODWIT_STATUS_FAILED] = "failed",
		[GODWIT_STATUS_CANCELLING] = "cancelling",
		[GODWIT_STATUS_CANCELLED] = "cancelled",
		[GODWIT_STATUS_COLO] = "colo",
	};

	return (unsigned int)s < sizeof(name) / sizeof(*name) ? name[s] : "?";
}

static struct {
	godwit_log_fn fn;
	void *data;
} log_target;

static void forward_log(enum gw_log_level level, const char *module,
			const char *msg, void *data)
{
	log_target.fn((int)level, module, msg, log_target.data);
}

int godwit_set_log(godwit_log_fn fn, void *data, const char *filter,
		   struct godwit_error *err)
{
	int r = filter ? gw_log_configure(filter, (struct gw_error *)err) : 0;

	if (r)
		return r;
	log_target.fn = fn;
	log_target.data = data;
	gw_log_set(fn ? forward_log : NULL, NULL);
	return 0;
}

void godwit_params_init(struct godwit_params *p)
{
	memset(p, 0, sizeof(*p));
	for (size_t i = 0; i < gw_nparams; i++) {
		struct gw_error err;

		/* The table's own defaults: a test sets every one of them. */
		if (gw_param_set(p, &gw_params[i], gw_params[i].fallback,
				 &err))
			abort();
	}
}

struct godwit_vm *godwit_vm_open(const char *vm, struct godwit_error *err)
{
	struct gw_error *e = (struct gw_error *)err;
	struct gw_vmref ref;

	if (gw_vmref_parse(vm, &ref, e))
		return NULL;
	return (struct godwit_vm *)gw_qemu_open(&ref, NULL, e);
}

void godwit_vm_close(struct godwit_vm *vm)
{
	gw_vm_close((struct gw_vm *)vm);
}

struct godwit_op *godwit_op_new(struct godwit_vm *vm,
				const struct godwit_params *params,
				godwit_progress_fn progress, void *data,
				struct godwit_error *err)
{
	struct gw_error *e = (struct gw_error *)err;
	struct godwit_op *op = calloc(1, sizeof(*op));

	if (!op) {
		gw_fail(e, ENOMEM, "no memory");
		return NULL;
	}
	if (gw_cancel_init(&op->cancel, e)) {
		free(op);
		return NULL;
	}
	pthread_mutex_init(&op->set_lock, NULL);
	op->vm = (struct gw_vm *)vm;
	if (params)
		op->params = *params;
	else
		godwit_params_init(&op->params);
	gw_progress_init(&op->progress, progress, data);
	gw_hint_init(&op->hint);
	return op;
}

void godwit_op_free(struct godwit_op *op)
{
	if (!op)
		return;
	gw_hint_fini(&op->hint);
	gw_progress_fini(&op->progress);
	pthread_mutex_destroy(&op->set_lock);
	gw_cancel_fini(&op->cancel);
	free(op);
}

void godwit_op_cancel(struct godwit_op *op)
{
	gw_cancel_request(&op->cancel);
}

void godwit_op_want_hints(struct godwit_op *op, godwit_hints_fn fn, void *data)
{
	op->hint.wanted = fn;
	op->hint.data = data;
}

int godwit_hint_free(struct godwit_op *op, uint32_t id, const char *block,
		     uint64_t offset, uint64_t length)
{
	return gw_hint_free(&op->hint, id, block, offset, length);
}

void godwit_op_stats(struct godwit_op *op, struct godwit_stats *stats)
{
	gw_progress_get(&op->progress, stats);
}

int godwit_op_set(struct godwit_op *op, const char *name, const char *value,
		  struct godwit_error *err)
{
	struct gw_error *e = (struct gw_error *)err;
	const struct gw_param *d = gw_param_find(name);
	struct godwit_params next;
	int r;

	if (!d)
		return gw_fail_as(e, GW_FAULT_USAGE, EINVAL,
				  "there is no parameter '%s'", name);
	if (!(d->uses & GW_USE_NOW))
		return gw_fail_as(e, GW_FAULT_USAGE, EBUSY,
				  "%s of an operation cannot be changed: set it before",
				  name);
	/* One after the other: gw_params_check() looks at two. */
	GW_LOCKED(&op->set_lock);
	next = op->params;
	r = gw_param_set(&next, d, value, e);
	if (!r)
		r = gw_params_check(&next, e);
	if (!r)
		gw_param_store(&op->params, &next, d);
	return r;
}

struct gw_chan *gw_api_connect(struct godwit_op *op, const char *uri,
			       struct gw_error *err)
{
	struct gw_chan *c = gw_chan_connect(uri,
					    op->params.connect_timeout_ns /
						    GW_NS_PER_MS,
					    &op->cancel, err);

	if (c)
		snprintf(op->vm->peer, sizeof(op->vm->peer), "%s", c->peer);
	return c;
}

/* Both sides talk: a file has nobody at the other end. */
int gw_api_check_uri(const char *uri, struct gw_error *err)
{
	if (strncmp(uri, "file:", 5))
		return 0;
	return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
			  "'%s': a move needs a peer that answers, so tcp:, unix:, fd: or exec:",
			  uri);
}

/* Straight into a plain QEMU. */
static int migrate_to_qemu(struct gw_source_config *c, struct gw_error *err)
{
	int r;

	if (c->params->verify)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "a plain QEMU cannot compare hashes: --verify and --to-qemu exclude each other");
	c->sink = gw_sink_peer(c->chan, gw_source_channels(c->params) > 0,
			       c->params, c->cancel, err);
	c->chan = NULL; /* the sink's now */
	if (!c->sink)
		return -err->code;
	r = gw_source_run(c, err);
	gw_sink_close(c->sink);
	return r;
}

/* QEMU reads and sends all by itself: nobody else sees a page. */
static int check_native_params(const struct godwit_params *p,
			       struct gw_error *err)
{
	if (p->verify)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "native and verify exclude each other: QEMU sends the memory by itself, and it hashes no page");
	if (strcmp(p->tracker, "auto"))
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "native and tracker %s exclude each other: QEMU finds out by itself what the guest writes",
				  p->tracker);
	if (p->auto_converge || p->max_downtime_ns)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "native and %s exclude each other: QEMU decides by itself when to switch over and what it does until then (its capability auto-converge can be set before)",
				  p->auto_converge ? "auto-converge" :
						     "max-downtime");
	return 0;
}

/* Their data needs a godwit there, and connections of their own. */
static int check_disks(const struct godwit_params *p, const char *uri,
		       struct gw_error *err)
{
	if (!strcmp(p->disks, "none"))
		return 0;
	if (p->to_qemu || p->native)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "disks %s and %s exclude each other: the godwit at the destination takes the disks in",
				  p->disks, p->native ? "native" : "to-qemu");
	return gw_join_possible(uri, "disks", err);
}

/* Is what is asked for possible together, and there? */
static int check_channels(const struct godwit_params *p, const char *uri,
			  struct gw_error *err)
{
	bool compress = strcmp(p->compress, "none"), fixed;
	int r;

	if (!gw_source_channels(p))
		return 0;
	fixed = compress && strcmp(p->compress, "auto");
	if (p->native)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "native and %s exclude each other: QEMU sends the memory by itself, over one connection",
				  compress ? "compress" : "channels");
	if (p->to_qemu && p->xbzrle)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "to-qemu: QEMU has xbzrle or channels (multifd, which compress needs too), not both: leave one out, or move to a godwit");
	if (p->to_qemu && compress && !fixed)
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "to-qemu: compress auto needs a godwit there: QEMU takes the one method that its multifd-compression says");
	r = fixed ? gw_deflate_check(p->compress, p->compress_level, err) : 0;
	return r ? r :
		   gw_join_possible(uri, compress ? "compress" : "channels",
				    err);
}

int gw_api_check_migrate(struct godwit_op *op, const char *uri,
			 struct gw_error *err)
{
	int r = gw_api_check_uri(uri, err);

	if (!r)
		r = check_channels(&op->params, uri, err);
	if (!r)
		r = check_disks(&op->params, uri, err);
	if (r || !op->params.native)
		return r ? r : op->vm->ops->check(op->vm, true, err);
	r = check_native_params(&op->params, err);
	return r ? r : gw_qemu_native_check(op->vm, err);
}

int godwit_migrate(struct godwit_op *op, const char *uri,
		   struct godwit_error *err)
{
	struct gw_source_config c = { .vm = op->vm,
				      .uri = uri,
				      .params = &op->params,
				      .cancel = &op->cancel,
				      .progress = &op->progress,
				      .hint = &op->hint };
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	int r;

	/* A VM that cannot be moved is said before a peer is bothered. */
	r = gw_api_check_migrate(op, uri, e);
	if (r)
		return r;
	c.chan = gw_api_connect(op, uri, e);
	if (!c.chan)
		return -e->code;
	if (op->params.to_qemu && !op->params.native)
		return migrate_to_qemu(&c, e);
	r = op->params.native ? gw_native_run(&c, e) : gw_source_run(&c, e);
	gw_chan_close(c.chan);
	return r;
}

int godwit_probe(struct godwit_op *op, const char *uri,
		 struct godwit_peer *peer, struct godwit_error *err)
{
	struct gw_source_config c = { .vm = op->vm,
				      .params = &op->params,
				      .cancel = &op->cancel,
				      .progress = &op->progress };
	struct gw_error local, *e = err ? (struct gw_error *)err : &local;
	struct gw_hello h;
	int r;

	c.chan = gw_api_connect(op, uri, e);
	if (!c.chan)
		return -e->code;
	r = gw_source_probe(&c, &h, e);
	gw_chan_close(c.chan);
	if (r)
		return r;
	snprintf(peer->godwit, sizeof(peer->godwit), "%s", h.godwit);
	snprintf(peer->vmm, sizeof(peer->vmm), "%s", h.vmm);
	snprintf(peer->name, sizeof(peer->name), "%s", h.name);
	gw_hello_fini(&h);
	return 0;
}
