/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guardian.c - see guardian.h.
 *
 * A fork without exec, so that an embedder needs no program of ours: the
 * child has a copy of everything it needs. Other threads may exist (the
 * handler of uffd-wp); glibc and musl make malloc and stdio usable in the
 * child, and it takes no other lock. It is forked twice, so that it is
 * nobody's child: whoever embeds the library gets no SIGCHLD and no zombie.
 */
#include "vm/qemu/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/scope.h"
#include "vm/qemu/hold.h"
#include "vm/qemu/internal.h"
#include "vm/qemu/resume.h"
#include "wire/qemu.h"

#define PATIENCE_MS 300000 /* QEMU's main loop may be busy */
#define ATTEMPT_MS  10000
#define PAUSE_NS    (100 * GW_NS_PER_MS)
#define READY_MS    30000 /* it is forked, and may have to connect */
#define QUIET_MS    200 /* QEMU has written what it had to write */

/* What its godwit says. */
enum { DISMISSED, HANDING_OVER, RELEASED };

#ifndef SYS_close_range /* Linux 5.9; the same number on every machine */
#define SYS_close_range 436
#endif

static int close_between(int first, int last)
{
	return first > last ? 0 :
			      (int)syscall(SYS_close_range, (unsigned int)first,
					   (unsigned int)last, 0u);
}

static int ascending(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/*
 * Keep stderr (for the log) and what is listed. A copy of the channel that
 * stayed open here would hide the death of our godwit. QEMU's socket is there
 * in native mode only (native.h): then it is what hold() needs.
 */
static int drop_descriptors(const struct gw_qemu *q, int fd)
{
	int keep[] = { STDERR_FILENO, fd, q->pidfd, q->move_lock, q->dev_fd };
	int n = sizeof(keep) / sizeof(*keep), from = 0, r = 0;

	qsort(keep, (size_t)n, sizeof(*keep), ascending);
	for (int i = 0; i < n; i++) {
		if (keep[i] < 0)
			continue;
		r |= close_between(from, keep[i] - 1);
		from = keep[i] + 1;
	}
	r |= (int)syscall(SYS_close_range, (unsigned int)from, ~0u, 0u);
	/* So that no socket gets a number that printf writes to. */
	while (!r && (fd = open("/dev/null", O_RDWR)) >= 0)
		if (fd > STDERR_FILENO) {
			close(fd);
			break;
		}
	return r;
}

/* One attempt over a connection of our own; the copy of our godwit's is of
 * no use. */
static int take_back(struct gw_qemu *q, struct gw_error *err)
{
	int r;

	q->qmp = gw_qmp_open(q->ref.qmp, ATTEMPT_MS, NULL, err);
	if (!q->qmp)
		return -err->code;
	r = gw_qemu_end_migration(q->qmp, PATIENCE_MS, err);
	if (!r && q->vm.info.running)
		r = gw_qemu_cont(q->qmp, err);
	if (!r && q->held)
		r = gw_hold_end(q->qmp, err);
	if (!r)
		gw_qemu_settings_restore(q);
	gw_qmp_close(q->qmp);
	return r;
}

/* Without a pid only the monitor can say it. */
static bool is_gone(struct gw_qemu *q, const struct gw_error *err)
{
	return gw_qemu_dead(q) ||
	       (q->pidfd < 0 &&
		(err->code == ECONNREFUSED || err->code == ENOENT));
}

static void rescue(struct gw_qemu *q, pid_t godwit)
{
	const char *now = q->vm.info.running ? "runs on" : "rests as before";
	int64_t deadline = gw_deadline_ms(PATIENCE_MS);
	struct timespec pause = { 0, PAUSE_NS };
	struct gw_error err = { 0 };

	if (q->dev_fd >= 0)
		shutdown(q->dev_fd, SHUT_RDWR); /* a native migration fails */
	while (take_back(q, &err)) {
		if (is_gone(q, &err))
			return;
		if (gw_deadline_left_ms(deadline) == 0) {
			gw_qemu_note(q, "stuck", "source",
				     "godwit (pid %d) died before the hand-over and the VM could not be set going again here (%.200s); 'godwit resume %s' tries it again",
				     (int)godwit, err.msg, q->vm.info.name);
			gw_warn("the godwit that moved '%s' (pid %d) died, and the VM could not be set going again here: %s",
				 q->vm.info.name, (int)godwit, err.msg);
			return;
		}
		nanosleep(&pause, NULL);
	}
	gw_qemu_note(q, "kept", "source",
		     "godwit (pid %d) died before the hand-over; the VM %s here",
		     (int)godwit, now);
	gw_warn("the godwit that moved '%s' (pid %d) died before the hand-over; the VM %s here",
		q->vm.info.name, (int)godwit, now);
}

/* --- native mode, after migrate-continue -------------------------------- */

/* Read QEMU's stream and throw it away until nothing comes for QUIET_MS: a
 * QEMU that cannot write answers no command. Return: false at its end. */
static bool drain(int fd)
{
	static char buf[65536];
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (poll(&p, 1, QUIET_MS) > 0) {
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
	}
	return true;
}

static int ask_status(struct gw_qemu *q, char status[32], struct gw_error *err)
{
	int r;

	q->qmp = gw_qmp_open(q->ref.qmp, ATTEMPT_MS, NULL, err);
	if (!q->qmp)
		return -err->code;
	r = gw_qemu_migration(q, status, NULL, err);
	if (!r && !strcmp(status, "completed"))
		gw_qemu_settings_restore(q);
	gw_qmp_close(q->qmp);
	return r;
}

static void say_held(struct gw_qemu *q, pid_t godwit)
{
	gw_qemu_note(q, "uncertain", "source",
		     "godwit (pid %d) died while the VM was handed over; stopped here, because the destination may have all of it; whether it runs it is known there",
		     (int)godwit);
	gw_warn("the godwit that moved '%s' (pid %d) died while the VM was handed over. The VM stands still here. Look at the destination: if the VM runs there, end the one here; if it cannot run there, 'godwit resume' runs it here",
		q->vm.info.name, (int)godwit);
}

/*
 * The destination may have the VM. QEMU would run it on here as soon as its
 * socket closed; SHUT 0 on the return path makes it `completed` instead. (Also
 * if it is still writing: the word waits in the socket.)
 */
static void hold(struct gw_qemu *q, pid_t godwit)
{
	static const uint8_t shut[8] = { 0, GW_RP_SHUT, 0, 4 };
	int64_t deadline = gw_deadline_ms(PATIENCE_MS);
	struct timespec pause = { 0, PAUSE_NS };
	bool open = true, said = false;
	struct gw_error err = { 0 };
	char status[32];

	do {
		open = open && drain(q->dev_fd);
		if (ask_status(q, status, &err)) {
			if (is_gone(q, &err))
				return;
		} else if (!strcmp(status, "completed")) {
			if (said)
				say_held(q, godwit);
			return; /* otherwise its godwit passed SHUT on */
		} else if (!strcmp(status, "device") && !said) {
			said = send(q->dev_fd, shut, sizeof(shut),
				    MSG_NOSIGNAL) == sizeof(shut);
		} else if (strcmp(status, "device")) {
			/* It never went on, or took the VM back itself. */
			rescue(q, godwit);
			return;
		}
		nanosleep(&pause, NULL);
	} while (gw_deadline_left_ms(deadline));
	say_held(q, godwit);
}

/* Wait for the word of its godwit. Return: as recv(2), *@byte the last one. */
static ssize_t wait_word(int fd, char *byte, bool *handing_over)
{
	ssize_t n;

	*byte = DISMISSED;
	*handing_over = false;
	do {
		n = recv(fd, byte, 1, 0);
		if (n == 1 && *byte == HANDING_OVER)
			*handing_over = true;
	} while ((n < 0 && errno == EINTR) ||
		 (n == 1 && *byte == HANDING_OVER));
	return n;
}

/* Ready; then the word, and what has to be done first: whatever else there is
 * to do can take long. Return: whether its godwit died. */
static bool await_death(struct gw_qemu *q, int fd, bool *handing_over)
{
	char byte = 0;
	ssize_t n;

	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
		return false;
	n = wait_word(fd, &byte, handing_over);
	if (n <= 0 || byte == RELEASED)
		gw_throttle_remove(&q->throttle);
	return n <= 0;
}

static void watch_quotas(struct gw_qemu *q, int fd, pid_t godwit)
{
	bool handing_over;

	if (await_death(q, fd, &handing_over))
		gw_warn("the godwit that moved '%s' (pid %d) died before the hand-over; the VM runs on here at full speed",
			q->vm.info.name, (int)godwit);
}

static void watch_move(struct gw_qemu *q, int fd, pid_t godwit)
{
	bool handing_over;

	if (!await_death(q, fd, &handing_over))
		return;
	if (handing_over)
		hold(q, godwit);
	else
		rescue(q, godwit);
}

static _Noreturn void guard(struct gw_qemu *q, gw_guardian_task *task, int fd,
			    pid_t godwit)
{
	prctl(PR_SET_NAME, "gw-guardian");
	setsid();
	if (!drop_descriptors(q, fd))
		task(q, fd, godwit);
	_exit(0);
}

/* Its first byte, 0, or why it cannot. */
static int wait_ready(int fd, struct gw_error *err)
{
	char text[GW_ERROR_MAX] = "";
	ssize_t n = 0;

	if (!gw_wait_fd(fd, POLLIN, gw_deadline_ms(READY_MS), NULL))
		n = recv(fd, text, sizeof(text) - 1, 0);
	if (n > 0 && !text[0])
		return 0;
	return gw_fail(err, EAGAIN,
		       "the guardian process, which looks after the VM should this godwit die, could not be started%s%s",
		       text[0] ? ": " : "", text);
}

int gw_guardian_fork(struct gw_qemu *q, gw_guardian_task *task, int *fd,
		     struct gw_error *err)
{
	pid_t godwit = getpid(), pid;
	sigset_t all, old;
	int end[2], r;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, end))
		return gw_fail_errno(err, errno, "socketpair");
	/* For good in the child: no handler of ours may run there. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			guard(q, task, end[0], godwit);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(end[0]);
	/* Fails when whoever embeds us reaps all children: as well. */
	if (pid > 0)
		waitpid(pid, NULL, 0);
	r = wait_ready(end[1], err);
	if (r)
		close(end[1]);
	else
		*fd = end[1];
	return r;
}

int gw_guardian_watch_quotas(struct gw_qemu *q, struct gw_error *err)
{
	return q->guardian < 0 ? gw_guardian_fork(q, watch_quotas,
						  &q->guardian, err) :
				 0;
}

static void end(int fd, char byte)
{
	if (fd < 0)
		return;
	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
		gw_debug("the guardian was killed");
	close(fd);
}

int gw_guardian_start(struct gw_qemu *q, struct gw_error *err)
{
	int old = q->guardian;
	int r = gw_guardian_fork(q, watch_move, &q->guardian, err);

	if (!r)
		end(old, DISMISSED);
	return r;
}

int gw_guardian_hand_over(struct gw_qemu *q, struct gw_error *err)
{
	char byte = HANDING_OVER;

	if (send(q->guardian, &byte, 1, MSG_NOSIGNAL) == 1)
		return 0;
	return gw_fail(err, EPIPE,
		       "the guardian process, which watches over the hand-over should this godwit die, was killed");
}

void gw_guardian_dismiss(struct gw_qemu *q)
{
	end(q->guardian, DISMISSED);
	q->guardian = -1;
}

void gw_guardian_release(struct gw_qemu *q)
{
	end(q->guardian, RELEASED);
	q->guardian = -1;
}
