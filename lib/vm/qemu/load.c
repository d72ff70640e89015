/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * load.c - the destination's QEMU takes the device state in. RAM is complete
 * before the first byte is fed, and nothing is placed afterwards: loading
 * reads guest memory and may write it.
 *
 * The structure of the state is checked before QEMU sees it; QEMU's answer is
 * the SHUT of its return path, not `completed`, which it may say earlier.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/pause.h"
#include "base/reader.h"
#include "base/scope.h"
#include "vm/qemu/internal.h"

#define LOAD_TIMEOUT_MS	 60000
#define DEATH_TIMEOUT_MS 2000 /* a process that is being ended */

/*
 * What load_abort can undo comes first, while the device state is on its way;
 * `migrate-incoming` works only once, so it waits for a state that is whole.
 */
int gw_qemu_load_begin(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r;

	gw_devstream_fini(&q->stream);
	gw_devstream_init(&q->stream);
	r = gw_qemu_settings_set(q, GW_QEMU_DEST, err);
	/* Whatever -S and `cont` said before: not by itself after loading. */
	if (!r)
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "stop", NULL);
	if (r)
		return r;
	q->dev_fd = gw_qemu_pass_socket(q, "godwit-load", 0, err);
	return q->dev_fd < 0 ? -EREMOTEIO : 0;
}

int gw_qemu_load_write(struct gw_vm *vm, const void *p, size_t len,
		       struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r = gw_devstream_feed(&q->stream, p, len, err);

	if (!r && q->stream.s.have_config &&
	    strcmp(q->stream.s.config.machine, vm->info.machine))
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "the device state is of a '%s' machine, this is a '%s'",
			       q->stream.s.config.machine, vm->info.machine);
	return r;
}

/* Feed all of it; QEMU may close early when it does not like what it reads. */
static int feed(struct gw_qemu *q, int fd, int64_t deadline,
		struct gw_error *err)
{
	size_t at = 0;

	while (at < q->stream.len) {
		ssize_t n = send(fd, q->stream.buf + at, q->stream.len - at,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			at += (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return gw_fail_errno(err, errno,
					     "QEMU closed after %zu of %zu bytes of device state",
					     at, q->stream.len);
		if (gw_wait_fd(fd, POLLOUT, deadline, NULL))
			return gw_fail(err, ETIMEDOUT,
				       "QEMU took only %zu of %zu bytes of device state in %d s",
				       at, q->stream.len,
				       LOAD_TIMEOUT_MS / 1000);
	}
	return 0;
}

struct rp_source {
	int fd;
	int64_t deadline;
};

static ssize_t rp_refill(void *arg, const struct iovec *iov, int niov,
			 struct gw_error *err)
{
	struct rp_source *s = arg;
	ssize_t n;

	if (gw_wait_fd(s->fd, POLLIN, s->deadline, NULL))
		return gw_fail(err, ETIMEDOUT,
			       "QEMU did not load the device state in %d s",
			       LOAD_TIMEOUT_MS / 1000);
	n = readv(s->fd, iov, niov);
	if (n < 0)
		return gw_fail_errno(err, errno, "QEMU's return path");
	if (n == 0)
		return gw_fail(err, ECONNRESET,
			       "QEMU did not accept the device state");
	return n;
}

/* PONGs, then SHUT: 0 is the only good news. */
static int wait_shut(int fd, int64_t deadline, struct gw_error *err)
{
	struct rp_source s = { fd, deadline };
	struct gw_rp_record m;
	struct gw_reader r;
	int ret = gw_reader_init(&r, rp_refill, &s, GW_RP_MAX_LEN, err);

	if (ret)
		return ret;
	do {
		if (gw_rp_get(&r, &m)) {
			ret = gw_read_check(&r, err);
			break;
		}
	} while (m.type != GW_RP_SHUT);
	gw_reader_fini(&r);
	if (!ret && m.value)
		ret = gw_fail(err, EREMOTEIO,
			      "QEMU did not accept the device state (SHUT %u)",
			      m.value);
	return ret;
}

/* Loaded: wait until QEMU has left `inmigrate`, paused because of -S. */
static int wait_paused(struct gw_qemu *q, int64_t deadline,
		       struct gw_error *err)
{
	struct timespec step = { 0, GW_NS_PER_MS / 2 };
	char status[32];
	int r;

	do {
		r = gw_qemu_status(q, status, err);
		if (r)
			return r;
		if (!strcmp(status, "running"))
			return gw_fail(err, EBUSY,
				       "the VM runs already after loading: it was not started with -S; it was not to run yet");
		if (strcmp(status, "inmigrate"))
			return 0;
		nanosleep(&step, NULL);
	} while (gw_deadline_left_ms(deadline) > 0);
	return gw_fail(err, ETIMEDOUT, "QEMU is still in state '%s'", status);
}

/* QEMU's own words, where this version has some. */
static void add_reason(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_error why = { 0 }, ignored;
	char status[32], was[GW_ERROR_MAX];

	if (gw_qemu_dead(q) || gw_qemu_migration(q, status, &why, &ignored)) {
		gw_error_prefix(err, "QEMU ended");
		return;
	}
	memcpy(was, err->msg, sizeof(was));
	gw_fail(err, err->code, "%.500s: %.400s (more on QEMU's stderr)", was,
		why.msg);
}

int gw_qemu_load_finish(struct gw_vm *vm, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(LOAD_TIMEOUT_MS);
	struct gw_qemu *q = gw_qemu_of(vm);
	const struct gw_qmp_version *v = gw_qmp_version(q->qmp);
	/* Since 9.1; before, QEMU exits when a load fails. */
	bool keeps = v->major > 9 || (v->major == 9 && v->minor >= 1);
	gw_autoclose int fd = -1;
	int r;

	if (!q->stream.complete)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the device state (%zu bytes) has no end",
				  q->stream.len);
	fd = gw_take_fd(&q->dev_fd);
	q->loading = true;
	vm->info.waiting = false;
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "migrate-incoming",
		      keeps ? "{s:s, s:b}" : "{s:s}", "uri", "fd:godwit-load",
		      "exit-on-error", 0);
	if (!r)
		r = feed(q, fd, deadline, err);
	gw_moment("QEMU fed");
	if (!r || r == -EPIPE || r == -ECONNRESET)
		r = wait_shut(fd, deadline, err) ? -err->code : r;
	if (r) {
		add_reason(q, err);
		return r;
	}
	gw_moment("SHUT read");
	r = wait_paused(q, deadline, err);
	if (!r)
		gw_qemu_note(q, "committing", "destination",
			     "complete and paused here; the source decides whether it runs here");
	return r;
}

/* Nothing was fed: QEMU waits as it did before load_begin. */
static void take_back(struct gw_qemu *q)
{
	struct gw_error err;

	if (q->dev_fd >= 0) {
		close(q->dev_fd);
		q->dev_fd = -1;
		if (gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, &err, "closefd",
			      "{s:s}", "fdname", "godwit-load"))
			gw_debug("%s", err.msg);
	}
	if (q->old_capabilities)
		gw_qemu_settings_restore(q);
}

int gw_qemu_load_abort(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	char status[32];
	int r;

	if (!q->qmp || gw_qemu_dead(q)) { /* no QEMU: replace() failed */
		vm->info.waiting = false;
		return 0;
	}
	if (!q->loading) {
		take_back(q);
		return 0;
	}
	gw_qemu_note(q, "failed", "destination",
		     "an incoming migration failed here; the VM is at the source. End this QEMU");
	r = gw_qemu_status(q, status, err);
	if (!r && !strcmp(status, "running")) {
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "stop", NULL);
		if (!r)
			r = gw_qemu_status(q, status, err);
		if (!r && !strcmp(status, "running"))
			r = gw_fail(err, EBUSY, "QEMU does not stop the VM");
	}
	if (r && gw_qemu_dies(q, DEATH_TIMEOUT_MS))
		r = 0;
	return r;
}

/*
 * A guest that ran for a moment may have written to its disks: nobody may set
 * its older self going on the source without looking at that.
 */
static int may_have_run(struct gw_qemu *q, struct gw_error *err)
{
	char was[GW_ERROR_MAX] = "";

	if (gw_error_is_set(err))
		memcpy(was, err->msg, sizeof(was));
	return gw_fail_as(err, GW_FAULT_UNCERTAIN, EREMOTEIO,
			  "the destination QEMU (pid %d) %s after it was told to run the VM, which may have run for a moment and written to its disks%s%.300s",
			  (int)q->pid,
			  gw_qemu_dies(q, DEATH_TIMEOUT_MS) ? "ended" :
							      "did not answer",
			  was[0] ? ": " : "", was);
}

int gw_qemu_run(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r;

	if (gw_qemu_dead(q))
		return gw_fail(err, ESRCH,
			       "QEMU (pid %d) ended before it could be told to run the VM",
			       (int)q->pid);
	r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "cont", NULL);
	if (!r)
		gw_pause_at(GW_PAUSE_DEST_RUNNING);
	if (r == -ECONNRESET || r == -ETIMEDOUT || r == -EPROTO ||
	    (!r && gw_qemu_dead(q)))
		return may_have_run(q, err);
	if (r)
		return r;
	vm->info.running = true;
	return 0;
}

void gw_qemu_stay(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_settings_restore(q);
	if (q->ref.dir[0])
		gw_rundir_note_clear(q->ref.dir);
}
