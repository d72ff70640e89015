/* SPDX-License-Identifier: BSD-3-Clause */
/* vm.c - attaching to a QEMU; the table of what the driver can do. */
#include "vm/qemu/vm.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/scope.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/resume.h"

#define QUIT_TIMEOUT_MS 10000

#define ATTACH_TIMEOUT_MS 10000

int gw_qemu_status(struct gw_qemu *q, char status[32], struct gw_error *err)
{
	return gw_qemu_query_status(q->qmp, status, err);
}

bool gw_qemu_dies(struct gw_qemu *q, int timeout_ms)
{
	struct pollfd p = { .fd = q->pidfd, .events = POLLIN };

	return q->pidfd >= 0 && poll(&p, 1, timeout_ms) == 1;
}

bool gw_qemu_dead(struct gw_qemu *q)
{
	return gw_qemu_dies(q, 0);
}

int gw_qemu_migration(struct gw_qemu *q, char status[32],
		      struct gw_error *why, struct gw_error *err)
{
	return gw_qemu_query_migrate(q->qmp, status, why, err);
}

int gw_qemu_pass_socket(struct gw_qemu *q, const char *name, int buffer,
			struct gw_error *err)
{
	gw_autoclose int ours = -1;
	gw_autoclose int theirs = -1;
	json_t *args, *v;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return gw_fail_errno(err, errno, "socketpair");
	ours = pair[0];
	theirs = pair[1];
	if (buffer && setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &buffer,
				 sizeof(buffer)))
		return gw_fail_errno(err, errno, "SO_SNDBUF %d", buffer);
	args = json_pack("{s:s}", "fdname", name);
	v = gw_qmp_cmd_json(q->qmp, GW_QMP_TIMEOUT_MS, theirs, "getfd", args,
			    err);
	json_decref(args);
	if (!v)
		return -1;
	json_decref(v);
	return gw_take_fd(&ours);
}

void gw_qemu_note(struct gw_qemu *q, const char *phase, const char *role,
		  const char *fmt, ...)
{
	struct gw_error err;
	struct gw_note n;
	va_list ap;

	if (!q->ref.dir[0])
		return;
	memset(&n, 0, sizeof(n));
	snprintf(n.phase, sizeof(n.phase), "%s", phase);
	snprintf(n.role, sizeof(n.role), "%s", role);
	snprintf(n.peer, sizeof(n.peer), "%s", q->vm.peer);
	va_start(ap, fmt);
	vsnprintf(n.text, sizeof(n.text), fmt, ap);
	va_end(ap);
	if (gw_rundir_note_write(q->ref.dir, &n, &err))
		gw_warn("%s", err.msg);
}

/* --- attaching ---------------------------------------------------------- */

/* "pc-i440fx-10.0" from /machine's type "pc-i440fx-10.0-machine". */
static int read_machine(struct gw_qemu *q, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "qom-get",
			       "{s:s, s:s}", "path", "/machine", "property",
			       "type");
	char *m = q->vm.info.machine, *end;

	if (!v)
		return -EREMOTEIO;
	snprintf(m, sizeof(q->vm.info.machine), "%s",
		 json_is_string(v) ? json_string_value(v) : "?");
	json_decref(v);
	end = strstr(m, "-machine");
	if (end && !strcmp(end, "-machine"))
		*end = '\0';
	v = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-target", NULL);
	if (!v)
		return -EREMOTEIO;
	snprintf(q->vm.info.arch, sizeof(q->vm.info.arch), "%s",
		 json_is_string(json_object_get(v, "arch")) ?
			 json_string_value(json_object_get(v, "arch")) :
			 "?");
	json_decref(v);
	return 0;
}

static int read_uuid(struct gw_qemu *q, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q->qmp, GW_QMP_TIMEOUT_MS, err, "query-uuid",
			       NULL);
	const char *s = json_string_value(json_object_get(v, "UUID"));
	size_t n = 0;

	if (!v)
		return -EREMOTEIO;
	for (; s && *s && n < sizeof(q->vm.info.uuid); s += *s == '-')
		if (sscanf(s, "%2hhx", &q->vm.info.uuid[n]) == 1 && s[1]) {
			n++;
			s += 2;
		} else {
			break;
		}
	json_decref(v);
	return n == sizeof(q->vm.info.uuid) ?
		       0 :
		       gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "QEMU's answer to query-uuid has no UUID");
}

static int describe(struct gw_qemu *q, struct gw_error *err)
{
	const struct gw_qmp_version *v = gw_qmp_version(q->qmp);
	char status[32];
	int r;

	snprintf(q->vm.info.vmm, sizeof(q->vm.info.vmm), "QEMU %d.%d.%d",
		 v->major, v->minor, v->micro);
	snprintf(q->vm.info.name, sizeof(q->vm.info.name), "%.63s",
		 q->ref.name[0] ? q->ref.name : q->ref.qmp);
	if (v->major < 7 || (v->major == 7 && v->minor < 2))
		return gw_fail_as(err, GW_FAULT_USAGE, ENOTSUP,
				  "%s is too old, 7.2 is the first that can be moved",
				  q->vm.info.vmm);
	r = read_machine(q, err);
	if (!r)
		r = read_uuid(q, err);
	if (!r)
		r = gw_qemu_status(q, status, err);
	if (r)
		return r;
	q->vm.info.running = !strcmp(status, "running");
	q->vm.info.waiting = !strcmp(status, "inmigrate");
	return 0;
}

void gw_qemu_init(struct gw_qemu *q)
{
	q->qmp = NULL;
	q->agent = NULL;
	q->old_capabilities = q->old_parameters = NULL;
	q->pidfd = q->dev_fd = q->guardian = -1;
	q->fence.fd = q->state.mem = q->state.fd = -1;
	q->loading = q->saving = q->committed = false;
	gw_ram_init(&q->vm.ram);
	gw_devstream_init(&q->stream);
}

int gw_qemu_connect(struct gw_qemu *q, struct gw_error *err)
{
	/*
	 * Not vm->cancel: an undo needs QMP after the operation was cancelled.
	 * Every wait here is short or has a time limit.
	 */
	q->qmp = gw_qmp_open(q->ref.qmp, ATTACH_TIMEOUT_MS, NULL, err);
	if (!q->qmp)
		return -err->code;
	/* Enough for what QEMU does alone; check() refuses the rest. */
	if (gw_qemu_disks_clean(q, err))
		return -err->code;
	if (!q->ref.agent[0])
		return describe(q, err);
	if (gw_agent_open(q->ref.agent, ATTACH_TIMEOUT_MS, NULL, &q->agent,
			  err))
		return -err->code;
	q->pid = gw_agent_info(q->agent)->pid;
	q->pidfd = (int)syscall(SYS_pidfd_open, q->pid, 0);
	q->throttle.pid = q->pid;
	if (gw_throttle_remove(&q->throttle))
		gw_warn("a godwit that was killed had left the vCPUs of '%s' slowed down: they run at full speed again",
			q->ref.name[0] ? q->ref.name : q->ref.qmp);
	if (describe(q, err))
		return -err->code;
	return gw_qemu_find_ram(q, err);
}

void gw_qemu_disconnect(struct gw_qemu *q)
{
	gw_qemu_hint_end(&q->vm);
	gw_qemu_save_end(q);
	gw_fence_fini(q); /* still protecting: it stops the VM */
	gw_qemu_state_fini(q);
	gw_qemu_unthrottle(q);
	gw_qemu_disks_fini(q);
	gw_devstream_fini(&q->stream);
	gw_ram_fini(&q->vm.ram);
	gw_agent_close(q->agent);
	gw_qmp_close(q->qmp);
	json_decref(q->old_capabilities);
	json_decref(q->old_parameters);
	if (q->pidfd >= 0)
		close(q->pidfd);
	if (q->guardian >= 0)
		close(q->guardian); /* not taken back: it goes on trying */
}

static int attach(struct gw_qemu *q, struct gw_error *err)
{
	if (q->ref.dir[0]) {
		q->move_lock = gw_rundir_move_lock(q->ref.dir, q->ref.name,
						   err);
		if (q->move_lock < 0)
			return q->move_lock;
	}
	return gw_qemu_connect(q, err);
}

static int op_track(struct gw_vm *vm, const char *kind, struct gw_track **t,
		    struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_track_config c = { .ram = &vm->ram,
				     .pid = q->pid,
				     .uffd = gw_agent_uffd_source(q->agent) };

	return gw_track_open(kind, &c, t, err);
}

/* An empty transaction drains all block nodes; vCPUs go on meanwhile. */
static int op_drain(struct gw_vm *vm, struct gw_error *err)
{
	return gw_qmp_do(gw_qemu_of(vm)->qmp, GW_QMP_TIMEOUT_MS, err,
			 "transaction", "{s:[]}", "actions");
}

static void op_close(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_disconnect(q);
	if (q->move_lock >= 0)
		close(q->move_lock);
	pthread_cond_destroy(&q->more);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

static int op_quit(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "quit", NULL);

	/* It may close the connection before it answers. */
	if ((!r || r == -ECONNRESET) && gw_qemu_dies(q, QUIT_TIMEOUT_MS))
		return 0;
	return r ? r :
		   gw_fail(err, ETIMEDOUT,
			   "QEMU (pid %d) was told to quit and is still there after %d s",
			   (int)q->pid, QUIT_TIMEOUT_MS / 1000);
}

static const struct gw_vm_ops ops = {
	.kind = "qemu",
	.check = gw_qemu_check,
	.describe = gw_qemu_describe,
	.track = op_track,
	.drain = op_drain,
	.throttle = gw_qemu_throttle,
	.hint_begin = gw_qemu_hint_begin,
	.hint_ask = gw_qemu_hint_ask,
	.hint_end = gw_qemu_hint_end,
	.save_begin = gw_qemu_save_begin,
	.save_poll = gw_qemu_save_poll,
	.save_read = gw_qemu_save_read,
	.save_commit = gw_qemu_save_commit,
	.save_release = gw_qemu_save_release,
	.save_done = gw_qemu_save_done,
	.quit = op_quit,
	.save_abort = gw_qemu_save_abort,
	.load_begin = gw_qemu_load_begin,
	.load_write = gw_qemu_load_write,
	.load_finish = gw_qemu_load_finish,
	.load_abort = gw_qemu_load_abort,
	.run = gw_qemu_run,
	.stay = gw_qemu_stay,
	.disks = &gw_qemu_disk_ops,
	.checkpoint = &gw_qemu_checkpoint_ops,
	.replace = gw_qemu_replace,
	.close = op_close,
};

struct gw_vm *gw_qemu_open(const struct gw_vmref *ref,
			   const struct gw_cancel *cancel,
			   struct gw_error *err)
{
	struct gw_qemu *q = calloc(1, sizeof(*q));
	struct gw_error local = { 0 };

	if (!err)
		err = &local;
	if (!q) {
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	q->vm.ops = &ops;
	q->vm.cancel = cancel;
	q->ref = *ref;
	q->move_lock = -1;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->more, NULL);
	gw_qemu_init(q);
	if (attach(q, err)) {
		op_close(&q->vm);
		return NULL;
	}
	return &q->vm;
}

const char *gw_qemu_folder(struct gw_vm *vm)
{
	return gw_qemu_of(vm)->ref.dir;
}
