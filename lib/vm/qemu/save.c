/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * save.c - the source's QEMU stops the VM and hands out its device state.
 *
 *	save_begin	QMP migrate to a socket pair, x-ignore-shared and
 *			pause-before-switchover on: QEMU sends ROMs and video
 *			RAM, stops the VM and waits in `pre-switchover`
 *	save_read	QMP migrate-continue: the device state, up to its end
 *	save_commit	SHUT 0 on the return path: QEMU says `completed` and
 *			will not run the VM again by itself. SHUT 1, or closing
 *			the socket before, makes it run the VM on.
 *	save_release	the guardian (guardian.h), which would set the VM going
 *			again if we died, is dismissed
 *
 * A thread reads the socket all the time: QEMU writes its state holding its
 * big lock, and a QMP command given meanwhile would otherwise wait for ever.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/scope.h"
#include "base/thread.h"
#include "base/writer.h"
#include "vm/qemu/guardian.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/resume.h"

#define STATE_TIMEOUT_MS  30000 /* QEMU writes its device state */
#define COMMIT_TIMEOUT_MS 10000 /* QEMU says completed */
#define ABORT_TIMEOUT_MS  20000 /* QEMU runs the VM again */
#define DEATH_TIMEOUT_MS  2000	/* a process that is being ended */

static const char *const migration_events[] = { "MIGRATION", "STOP", NULL };

/* --- the reading thread ------------------------------------------------- */

static int flush_to_fd(void *arg, struct iovec *iov, int niov,
		       struct gw_error *err)
{
	int fd = *(int *)arg;

	for (int i = 0; i < niov; i++) {
		const char *p = iov[i].iov_base;
		size_t left = iov[i].iov_len;

		while (left) {
			ssize_t n = send(fd, p, left, MSG_NOSIGNAL);

			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0)
				return gw_fail_errno(err, errno,
						     "QEMU's return path");
			p += n;
			left -= (size_t)n;
		}
	}
	return 0;
}

static int say(struct gw_qemu *q, enum gw_rp type, uint32_t value,
	       struct gw_error *err)
{
	struct gw_writer w;

	gw_writer_init(&w, flush_to_fd, &q->dev_fd);
	gw_rp_put(&w, type, value);
	return gw_write_flush(&w, err);
}

/* Under the lock. Return: whether there may be more. */
static bool take_bytes(struct gw_qemu *q, const uint8_t *buf, ssize_t n)
{
	struct gw_error *err = &q->reader_err;

	if (n < 0)
		gw_fail_errno(err, errno, "reading QEMU's device state");
	else if (n == 0)
		gw_fail(err, ECONNRESET,
			"QEMU ended its device state after %zu bytes",
			q->stream.len);
	else if (!gw_devstream_feed(&q->stream, buf, (size_t)n, err))
		while (q->pongs < q->stream.npings && !err->code)
			if (say(q, GW_RP_PONG, q->stream.ping[q->pongs++], err))
				break;
	if (q->stream.complete)
		gw_moment("QEMU's state complete");
	return !err->code;
}

static void *reader(void *arg)
{
	struct gw_qemu *q = arg;
	uint8_t buf[65536];
	bool more = true;

	while (more) {
		ssize_t n = recv(q->dev_fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		GW_LOCKED(&q->lock);
		more = take_bytes(q, buf, n) &&
		       !(q->describing && q->stream.s.ram.have_table);
		pthread_cond_broadcast(&q->more);
	}
	return NULL;
}

void gw_qemu_save_end(struct gw_qemu *q)
{
	if (q->dev_fd >= 0)
		shutdown(q->dev_fd, SHUT_RDWR); /* wakes the thread */
	if (q->reader_runs)
		pthread_join(q->reader, NULL);
	q->reader_runs = false;
	if (q->dev_fd >= 0)
		close(q->dev_fd);
	q->dev_fd = -1;
}

int gw_qemu_save_open(struct gw_qemu *q, int buffer, struct gw_error *err)
{
	int r;

	q->dev_fd = gw_qemu_pass_socket(q, "godwit-save", buffer, err);
	if (q->dev_fd < 0)
		return -EREMOTEIO;
	gw_devstream_fini(&q->stream);
	gw_devstream_init(&q->stream);
	q->pongs = 0;
	q->delivered = 0;
	memset(&q->reader_err, 0, sizeof(q->reader_err));
	r = gw_thread_start(&q->reader, "gw-device", reader, q, err);
	q->reader_runs = !r;
	return r;
}

/* --- begin, poll -------------------------------------------------------- */

/*
 * A description that is not read on must not reach the point where QEMU stops
 * the VM: with a buffer this small its ROMs do not fit into the socket.
 */
#define SMALLEST_BUFFER 4608

int gw_qemu_save_begin(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	bool drained = vm->info.direct_io;
	int r = gw_qemu_check(vm, true, err); /* devices may have been added */

	if (!r && vm->info.direct_io && !drained)
		r = gw_fail(err, EBUSY,
			    "a disk with direct I/O was plugged in while '%s' was being moved; the passes so far did not wait for it: start again",
			    vm->info.name);
	if (!r)
		r = gw_qemu_settings_save(q, true, err);
	if (!r)
		r = gw_guardian_start(q, err);
	if (r)
		return r;
	/* vCPUs that have to wait for their time would stop that late. */
	if (q->throttled > GW_THROTTLE_FINE)
		gw_throttle_soften(&q->throttle);
	q->saving = true; /* from here on there is something to undo */
	r = gw_qemu_settings_set(q, GW_QEMU_SOURCE, err);
	if (r)
		return r;
	r = gw_qemu_save_open(q, q->describing ? SMALLEST_BUFFER : 0, err);
	if (r)
		return r;
	gw_qmp_drop_events(q->qmp);
	gw_qemu_note(q, "moving", "source", "being moved; it runs here");
	return gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err, "migrate", "{s:s}",
			 "uri", "fd:godwit-save");
}

int64_t gw_qemu_event_time(const struct gw_qmp_event *e)
{
	struct timespec t;
	int64_t ago;

	if (e->realtime_us < 0)
		return e->received_ns;
	clock_gettime(CLOCK_REALTIME, &t);
	ago = (int64_t)t.tv_sec * GW_NS_PER_S + t.tv_nsec -
	      e->realtime_us * 1000;
	/* A clock that was set meanwhile must not make history. */
	if (ago < 0 || ago > 10 * GW_NS_PER_S)
		return e->received_ns;
	return gw_now_ns() - ago;
}

static int migration_failed(struct gw_qemu *q, const char *status,
			    struct gw_error *err)
{
	struct gw_error why = { 0 }, ignored;
	char now[32];

	if (gw_qemu_migration(q, now, &why, &ignored))
		why.msg[0] = '\0';
	return gw_fail(err, EREMOTEIO,
		       "QEMU's own part of the migration %s: %s", status,
		       why.msg[0] ? why.msg : "no reason known");
}

int gw_qemu_next_status(struct gw_qemu *q, int timeout_ms, char status[32],
			struct gw_error *err)
{
	struct gw_error why = { 0 };
	struct gw_qmp_event e;
	const char *s;
	int r = gw_qmp_wait_event(q->qmp, migration_events, timeout_ms, &e,
				  &why);

	if (r == -ETIMEDOUT)
		return 0; /* not an error: leave @err alone */
	if (r == -EOVERFLOW) { /* missed one: ask */
		r = gw_qemu_migration(q, status, NULL, err);
	} else if (r) {
		if (err)
			*err = why;
		return r;
	} else {
		s = json_string_value(json_object_get(e.data, "status"));
		if (!strcmp(e.name, "STOP"))
			q->vm.stopped_ns = gw_qemu_event_time(&e);
		snprintf(status, 32, "%s", s ? s : "");
		gw_qmp_event_fini(&e);
	}
	return r ? r : status[0] != '\0';
}

int gw_qemu_save_poll(struct gw_vm *vm, int timeout_ms, bool *stopped,
		      struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int64_t deadline = gw_deadline_ms(timeout_ms);
	char status[32];
	int r;

	*stopped = false;
	do {
		r = gw_qemu_next_status(q, gw_deadline_left_ms(deadline),
					status, err);
		if (r < 0)
			return r;
		if (r && !strcmp(status, "pre-switchover")) {
			*stopped = true;
			return 0;
		}
		if (r && (!strcmp(status, "failed") ||
			  !strcmp(status, "cancelled") ||
			  !strcmp(status, "completed")))
			return migration_failed(q, status, err);
	} while (gw_deadline_left_ms(deadline) > 0);
	return 0;
}

/* --- what QEMU migrates --------------------------------------------------- */

/* As pthread_cond_timedwait() wants it. */
static struct timespec state_deadline(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += STATE_TIMEOUT_MS / 1000;
	return t;
}

/* Until the reader has set *@what. It has stopped then (or does nothing more
 * with q->stream): nobody else touches that. */
static int wait_stream(struct gw_qemu *q, const bool *what, const char *text,
		       struct gw_error *err)
{
	struct timespec deadline = state_deadline();
	GW_LOCKED(&q->lock);

	while (!*what && !q->reader_err.code)
		if (pthread_cond_timedwait(&q->more, &q->lock, &deadline))
			return gw_fail(err, ETIMEDOUT,
				       "QEMU did not %s within %d s (%zu bytes came)",
				       text, STATE_TIMEOUT_MS / 1000,
				       q->stream.len);
	if (*what)
		return 0;
	if (err)
		*err = q->reader_err;
	return -q->reader_err.code;
}

/*
 * QMP has no list of all the blocks that a migration carries. The stream
 * begins with one: begin a migration, read that far, and take it back. The VM
 * runs on all the time.
 */
int gw_qemu_describe(struct gw_vm *vm, struct gw_image_desc *d,
		     struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct gw_error undo;
	int r;

	q->describing = true;
	r = gw_qemu_save_begin(vm, err);
	if (!r)
		r = wait_stream(q, &q->stream.s.ram.have_table,
				"list its RAM blocks", err);
	if (!r) {
		d->config = q->stream.s.config;
		d->table = q->stream.s.ram.table;
	}
	q->describing = false;
	if (gw_qemu_save_abort(vm, &undo) && !r) {
		if (err)
			*err = undo;
		r = -undo.code;
	}
	return r;
}

/* --- the device state --------------------------------------------------- */

/*
 * A copy of what has come and was not delivered. Waits for it, or for the
 * end, when @deadline is not 0. Return: bytes, 0: none (or the end), -errno.
 */
static ssize_t next_bytes(struct gw_qemu *q, uint8_t *buf, size_t cap,
			  const struct timespec *deadline, bool *complete,
			  struct gw_error *err)
{
	struct gw_devstream *s = &q->stream;
	size_t n;
	GW_LOCKED(&q->lock);

	while (deadline && s->len == q->delivered && !s->complete &&
	       !q->reader_err.code)
		if (pthread_cond_timedwait(&q->more, &q->lock, deadline))
			return gw_fail(err, ETIMEDOUT,
				       "QEMU did not finish its device state within %d s (%zu bytes came)",
				       STATE_TIMEOUT_MS / 1000, s->len);
	/* An error after the end (QEMU closes when it is done) is none. */
	if (q->reader_err.code && !s->complete) {
		*err = q->reader_err;
		return -err->code;
	}
	n = s->len - q->delivered;
	if (n > cap)
		n = cap;
	memcpy(buf, s->buf + q->delivered, n);
	q->delivered += n;
	*complete = s->complete && s->len == q->delivered;
	return (ssize_t)n;
}

int gw_qemu_save_read(struct gw_vm *vm, bool final, gw_vm_sink sink, void *arg,
		      struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	struct timespec deadline;
	bool complete = false;
	uint8_t buf[65536];
	int r;

	if (final) {
		r = gw_qmp_do(q->qmp, GW_QMP_TIMEOUT_MS, err,
			      "migrate-continue", "{s:s}", "state",
			      "pre-switchover");
		if (r)
			return r;
		deadline = state_deadline();
	}
	for (;;) {
		ssize_t n = next_bytes(q, buf, sizeof(buf),
				       final ? &deadline : NULL, &complete,
				       err);

		if (n < 0)
			return (int)n;
		r = n ? sink(arg, buf, (size_t)n, err) : 0;
		if (r || complete || (!n && !final))
			return r;
	}
}

int gw_qemu_save_whole(struct gw_qemu *q, struct gw_error *err)
{
	return wait_stream(q, &q->stream.complete, "finish its device state",
			   err);
}

/* --- the end ------------------------------------------------------------ */

int gw_qemu_save_give_up(struct gw_qemu *q, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(COMMIT_TIMEOUT_MS);
	char status[32] = "";
	int r = say(q, GW_RP_SHUT, 0, err);

	while (r >= 0 && gw_deadline_left_ms(deadline) > 0) {
		r = gw_qemu_next_status(q, gw_deadline_left_ms(deadline),
					status, err);
		if (r > 0 && !strcmp(status, "completed"))
			return 0;
		if (r > 0 && (!strcmp(status, "failed") ||
			      !strcmp(status, "cancelled")))
			return migration_failed(q, status, err);
	}
	return r < 0 ? r :
		       gw_fail(err, ETIMEDOUT,
			       "QEMU did not give the VM up within %d s",
			       COMMIT_TIMEOUT_MS / 1000);
}

int gw_qemu_save_commit(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);
	int r;

	gw_qemu_note(q, "committing", "source",
		     "given up here, because the destination has the whole VM; whether it was told to run it is known there");
	r = gw_qemu_save_give_up(q, err);
	/*
	 * A QEMU that died cannot run the VM again, and the destination has
	 * all of it: that is a commit too, and saves the VM.
	 */
	if (r && gw_qemu_dies(q, DEATH_TIMEOUT_MS)) {
		gw_warn("the source QEMU (pid %d) ended during the hand-over; the destination has the whole VM",
			(int)q->pid);
		r = 0;
	}
	q->committed = !r;
	return r;
}

void gw_qemu_save_release(struct gw_vm *vm)
{
	gw_guardian_release(gw_qemu_of(vm));
}

void gw_qemu_save_done(struct gw_vm *vm)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_note(q, "done", "source",
		     "moved away; this QEMU holds a stopped copy");
	gw_qemu_unthrottle(q);
}

/* Return: -ESRCH. A crash of QEMU is none that a move could undo. */
static int ended(struct gw_qemu *q, struct gw_error *err)
{
	gw_qemu_unthrottle(q);
	gw_guardian_dismiss(q);
	return gw_fail(err, ESRCH,
		       "the source QEMU (pid %d) has ended and the VM with it, as in a power failure: start it again",
		       (int)q->pid);
}

static int take_back(struct gw_qemu *q, struct gw_error *err)
{
	struct gw_vm *vm = &q->vm;
	int r;

	/* Closing the return path before SHUT 0 makes QEMU go on. */
	gw_qemu_save_end(q);
	if (gw_qemu_dead(q))
		return ended(q, err);
	if (!q->saving) { /* there was a throttle, at most */
		gw_qemu_unthrottle(q);
		gw_guardian_dismiss(q);
		return 0;
	}
	r = gw_qemu_end_migration(q->qmp, ABORT_TIMEOUT_MS, err);
	if (!r && vm->info.running)
		r = gw_qemu_cont(q->qmp, err);
	if (r && gw_qemu_dies(q, DEATH_TIMEOUT_MS))
		return ended(q, err);
	if (r) {
		gw_error_prefix(err, "QEMU");
		return r;
	}
	gw_qemu_settings_restore(q);
	gw_qemu_unthrottle(q);
	gw_guardian_dismiss(q);
	q->saving = q->committed = false;
	if (q->ref.dir[0])
		gw_rundir_note_clear(q->ref.dir);
	return 0;
}

int gw_qemu_save_abort(struct gw_vm *vm, struct gw_error *err)
{
	struct gw_qemu *q = gw_qemu_of(vm);

	gw_qemu_throttle(vm, 0, NULL); /* it need not wait for the rest */
	return take_back(q, err);
}
