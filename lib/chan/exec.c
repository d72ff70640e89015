/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * exec.c - the exec: transport: /bin/sh -c COMMAND with a pipe to its stdin
 * and one from its stdout; stderr stays the caller's. The command has its own
 * process group, no descriptor of ours above 2, no blocked signal. How it
 * ended is part of the stream: see exec_readv().
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/command.h"
#include "base/scope.h"
#include "chan/transport.h"

#define EXEC_PIPE_BYTES (1 << 20)
#define EXEC_STATUS_MS	1000 /* from the end of its stdout to its exit */
#define EXEC_TERM_MS	2000 /* from our close to SIGTERM */
#define EXEC_KILL_MS	1000 /* from SIGTERM to SIGKILL, and to giving up */
#define EXEC_POLL_MS	2    /* where no pidfd can be polled */

struct exec_chan {
	struct gw_chan base;
	struct gw_chan *pipes; /* set once */
	pid_t pid;	       /* set once */
	int pidfd;	       /* set once; -1 where the kernel refuses */
	pthread_mutex_t lock;
	/* guarded by lock */
	bool reaped;
	int status; /* of waitpid(); 0 when somebody else reaped it */
	/* owned by the reader resp. writer thread: give up waiting then */
	int64_t read_end, write_end;
	bool write_ended; /* atomic */
};

/* Has the command ended? Reaps it then; never waits. */
static bool has_ended(struct exec_chan *x, int *status)
{
	GW_LOCKED(&x->lock);
	if (!x->reaped) {
		pid_t r = waitpid(x->pid, &x->status, WNOHANG);

		/* ECHILD: the embedder ignores SIGCHLD or reaps everything. */
		if (r < 0 && errno == ECHILD)
			x->status = 0;
		x->reaped = r == x->pid || (r < 0 && errno == ECHILD);
	}
	*status = x->status;
	return x->reaped;
}

/*
 * The pipe has ended; wait for the status until @until (0: no limit), by
 * @pidfd when there is one. Return: 0 when the command ended well or goes on
 * without us, -EPIPE when it failed, -EAGAIN with *fd and *pause set.
 */
static int await_status(struct exec_chan *x, int pidfd, int64_t until, int *fd,
			int64_t *pause)
{
	int status;

	if (has_ended(x, &status))
		return status ? -EPIPE : 0;
	if (until && gw_now_ns() >= until)
		return 0;
	*fd = pidfd;
	*pause = pidfd < 0 ? gw_deadline_ms(EXEC_POLL_MS) : until;
	return -EAGAIN;
}

/*
 * The end of stdout counts only with the exit status. While we may still
 * write, a command that merely closed its stdout gets a second; once we said
 * the end, we wait until it has ended.
 */
static ssize_t exec_readv(struct gw_chan *c, const struct iovec *iov, int niov)
{
	struct exec_chan *x = (struct exec_chan *)c;
	ssize_t n;

	if (!x->read_end) {
		n = x->pipes->ops->readv(x->pipes, iov, niov);
		if (n)
			return n;
		x->read_end = gw_deadline_ms(EXEC_STATUS_MS);
	}
	return await_status(x, x->pidfd,
			    __atomic_load_n(&x->write_ended, __ATOMIC_RELAXED) ?
				    0 :
				    x->read_end,
			    &c->rfd, &c->rpause);
}

static ssize_t exec_writev(struct gw_chan *c, const struct iovec *iov, int niov)
{
	struct exec_chan *x = (struct exec_chan *)c;
	ssize_t n;
	int r;

	if (!x->write_end) {
		n = x->pipes->ops->writev(x->pipes, iov, niov);
		if (n != -EPIPE)
			return n;
		x->write_end = gw_deadline_ms(EXEC_STATUS_MS);
	}
	/* A writer waits for POLLOUT, which a pidfd never has. */
	r = await_status(x, -1, x->write_end, &c->wfd, &c->wpause);
	return r ? r : -EPIPE;
}

static bool exec_explain(struct gw_chan *c, int code, struct gw_error *err)
{
	struct exec_chan *x = (struct exec_chan *)c;
	int status;

	if (code != EPIPE)
		return false;
	if (!has_ended(x, &status))
		gw_fail(err, code, "%s: the command does not read any more",
			c->peer);
	else if (WIFSIGNALED(status))
		gw_fail(err, code,
			"%s: the command was killed by signal %d (%s)", c->peer,
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status))
		gw_fail(err, code, "%s: the command exited with status %d%s",
			c->peer, WEXITSTATUS(status),
			WEXITSTATUS(status) == 127 ? " (not found)" : "");
	else
		gw_fail(err, code,
			"%s: the command ended before it had read everything",
			c->peer);
	return true;
}

static int exec_shutdown_write(struct gw_chan *c)
{
	struct exec_chan *x = (struct exec_chan *)c;

	__atomic_store_n(&x->write_ended, true, __ATOMIC_RELAXED);
	return x->pipes->ops->shutdown_write(x->pipes);
}

static void exec_shutdown(struct gw_chan *c)
{
	gw_chan_shutdown(((struct exec_chan *)c)->pipes);
}

/* Return: true when the command has ended within @ms. */
static bool wait_end(struct exec_chan *x, int64_t ms)
{
	int64_t deadline = gw_deadline_ms(ms);
	int status;

	while (!has_ended(x, &status)) {
		struct pollfd p = { .fd = x->pidfd, .events = POLLIN };
		int left = gw_deadline_left_ms(deadline);

		if (!left)
			return false;
		if (x->pidfd < 0 && left > EXEC_POLL_MS)
			left = EXEC_POLL_MS;
		(void)poll(&p, 1, left);
	}
	return true;
}

/* A pid that is not reaped is ours, and so is its group: safe to signal. */
static void exec_close(struct gw_chan *c)
{
	struct exec_chan *x = (struct exec_chan *)c;

	gw_chan_close(x->pipes);
	if (x->pid > 0 && !wait_end(x, EXEC_TERM_MS)) {
		kill(-x->pid, SIGTERM);
		if (!wait_end(x, EXEC_KILL_MS)) {
			kill(-x->pid, SIGKILL);
			wait_end(x, EXEC_KILL_MS);
		}
	}
	if (x->pidfd >= 0)
		close(x->pidfd);
	pthread_mutex_destroy(&x->lock);
	free(x);
}

static const struct gw_chan_ops exec_ops = {
	.readv = exec_readv,
	.writev = exec_writev,
	.shutdown_write = exec_shutdown_write,
	.shutdown = exec_shutdown,
	.close = exec_close,
	.explain = exec_explain,
};

/* --- starting ---------------------------------------------------------- */

/* A pipe, CLOEXEC, with no end below 3: those are the child's. */
static int high_pipe(int p[2])
{
	int raw[2];

	if (pipe2(raw, O_CLOEXEC) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		p[i] = raw[i] > 2 ? raw[i] : fcntl(raw[i], F_DUPFD_CLOEXEC, 3);
		if (p[i] != raw[i])
			close(raw[i]);
	}
	/* Best effort: fewer wake-ups; an unprivileged user's share is
	 * limited. */
	(void)fcntl(p[0], F_SETPIPE_SZ, EXEC_PIPE_BYTES);
	return p[0] < 0 || p[1] < 0 ? -EMFILE : 0;
}

static int spawn(const char *command, int in, int out, pid_t *pid)
{
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)(uintptr_t)command,
			 NULL };

	return gw_command_spawn(argv, environ, in, out, pid);
}

/* The pipes and the channel over our ends; the child's in @in and @out. */
static int make_pipes(struct exec_chan *x, int *in, int *out,
		      struct gw_error *err)
{
	int to[2] = { -1, -1 }, from[2] = { -1, -1 };
	int r = high_pipe(to);

	if (!r)
		r = high_pipe(from);
	*in = to[0];
	*out = from[1];
	if (r)
		gw_fail_errno(err, -r, "pipes for %s", x->base.peer);
	else
		x->pipes = gw_chan_from_fds(from[0], to[1], x->base.peer, err);
	if (x->pipes)
		return 0;
	if (from[0] >= 0)
		close(from[0]);
	if (to[1] >= 0)
		close(to[1]);
	return r ? r : -EIO;
}

static struct gw_chan *start(const struct gw_uri *u, struct gw_error *err)
{
	gw_autoclose int in = -1;
	gw_autoclose int out = -1;
	struct exec_chan *x = calloc(1, sizeof(*x));
	int r;

	if (!x) {
		gw_fail(err, ENOMEM, "no memory for %s", u->shown);
		return NULL;
	}
	x->pidfd = -1;
	pthread_mutex_init(&x->lock, NULL);
	r = gw_chan_init(&x->base, &exec_ops, u->shown, err);
	if (!r)
		r = make_pipes(x, &in, &out, err);
	if (!r) {
		r = spawn(u->command, in, out, &x->pid);
		if (r)
			gw_fail_errno(err, -r, "cannot start %s", u->shown);
	}
	if (r) {
		x->pid = 0;
		gw_chan_close(&x->base);
		return NULL;
	}
	x->pidfd = (int)syscall(SYS_pidfd_open, x->pid, 0); /* CLOEXEC */
	x->base.rfd = x->pipes->rfd;
	x->base.wfd = x->pipes->wfd;
	return &x->base;
}

static struct gw_chan *exec_connect(const struct gw_uri *u, int64_t deadline,
				    const struct gw_cancel *cancel,
				    struct gw_error *err)
{
	return start(u, err);
}

static int exec_listen(struct gw_listener *l, const struct gw_uri *u,
		       struct gw_error *err)
{
	l->ready = start(u, err);
	return l->ready ? 0 : -EIO;
}

const struct gw_transport gw_transport_exec = { exec_connect, exec_listen };
