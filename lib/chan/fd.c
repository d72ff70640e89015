/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fd.c - channels over open descriptors, one or one per direction: sockets,
 * pipes, terminals, files. All other transports end here.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/scope.h"
#include "chan/transport.h"

enum end_kind { END_NONE, END_SOCK, END_PIPE, END_TTY, END_FILE };

struct end {
	int fd; /* -1: there is no such direction (any more) */
	enum end_kind kind;
	int flags; /* to put back at close */
	bool refers; /* has sendfile(), which does not wait */
};

struct fd_chan {
	struct gw_chan base;
	struct end r;	  /* owned by the reader thread */
	struct end w;	  /* owned by the writer thread; same fd as r: shared */
	bool write_ended; /* owned by the writer thread */
};

/*
 * Writing may raise SIGPIPE, and SIGXFSZ (a file larger than RLIMIT_FSIZE).
 * Both go to the calling thread, so blocking them there and taking back the
 * one that a call caused is enough. One that was pending before stays so.
 */
struct quiet {
	sigset_t old, pending;
};

static void quiet_begin(struct quiet *q)
{
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGPIPE);
	sigaddset(&block, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &block, &q->old);
	sigemptyset(&q->pending);
	if (sigismember(&q->old, SIGPIPE) || sigismember(&q->old, SIGXFSZ))
		sigpending(&q->pending);
}

/* @n: of the call, errno as it left it. Return: @n or -errno. */
static ssize_t quiet_end(const struct quiet *q, ssize_t n)
{
	static const struct timespec none;

	if (n < 0)
		n = -errno;
	if (n == -EPIPE || n == -EFBIG) {
		int sig = n == -EPIPE ? SIGPIPE : SIGXFSZ;
		sigset_t one;

		sigemptyset(&one);
		sigaddset(&one, sig);
		if (!sigismember(&q->pending, sig))
			while (sigtimedwait(&one, NULL, &none) < 0 &&
			       errno == EINTR)
				;
	}
	pthread_sigmask(SIG_SETMASK, &q->old, NULL);
	return n;
}

static ssize_t fd_readv(struct gw_chan *c, const struct iovec *iov, int niov)
{
	const struct end *e = &((struct fd_chan *)c)->r;
	struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov,
			    .msg_iovlen = (size_t)niov };
	ssize_t n;

	if (e->fd < 0)
		return -EBADF;
	n = e->kind == END_SOCK ? recvmsg(e->fd, &m, MSG_DONTWAIT) :
				  readv(e->fd, iov, niov);
	if (n >= 0)
		return n;
	/* A terminal whose other side was closed reads so, once empty. */
	return errno == EIO && e->kind == END_TTY ? 0 : -errno;
}

static ssize_t fd_writev(struct gw_chan *c, const struct iovec *iov, int niov)
{
	const struct fd_chan *f = (struct fd_chan *)c;
	struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov,
			    .msg_iovlen = (size_t)niov };
	struct quiet q;
	ssize_t n;

	if (f->write_ended)
		return -EPIPE;
	if (f->w.fd < 0)
		return -EBADF;
	if (f->w.kind != END_SOCK) {
		quiet_begin(&q);
		return quiet_end(&q, writev(f->w.fd, iov, niov));
	}
	n = sendmsg(f->w.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

/*
 * Of a unix socket the peer copies straight out of the file's pages. Over TCP
 * on loopback that is slower than to send a copy: its segments are of 4 KiB
 * pieces then. sendfile() waits unless the descriptor says not to.
 */
static ssize_t fd_sendfile(struct gw_chan *c, int fd, uint64_t at, size_t len)
{
	const struct fd_chan *f = (struct fd_chan *)c;
	off_t offset = (off_t)at;
	struct quiet q;
	ssize_t n;

	if (f->write_ended)
		return -EPIPE;
	if (!f->w.refers)
		return -ENOTSUP;
	quiet_begin(&q);
	n = quiet_end(&q, sendfile(f->w.fd, fd, &offset, len));
	/* hugetlbfs has none */
	return n == -EINVAL || n == -ENOSYS ? -ENOTSUP : n;
}

/* Take @fd as one direction. Sockets need no O_NONBLOCK: each call says so. */
static int end_open(struct end *e, int fd, enum end_kind kind)
{
	int flags = fcntl(fd, F_GETFL);

	e->fd = fd;
	e->kind = kind;
	e->flags = flags;
	if (flags < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	if (kind == END_SOCK) {
		gw_sock_tune(fd, true);
		e->refers = flags & O_NONBLOCK && gw_sock_is_unix(fd);
		return 0;
	}
	return fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static void end_close(struct end *e)
{
	if (e->fd < 0)
		return;
	if (e->kind != END_SOCK && e->flags >= 0 && !(e->flags & O_NONBLOCK))
		(void)fcntl(e->fd, F_SETFL, e->flags);
	close(e->fd);
	e->fd = -1;
}

static bool one_fd(const struct fd_chan *f)
{
	return f->r.fd >= 0 && f->r.fd == f->w.fd;
}

static int fd_shutdown_write(struct gw_chan *c)
{
	struct fd_chan *f = (struct fd_chan *)c;

	if (f->write_ended || f->w.fd < 0)
		return 0;
	if (f->w.kind == END_TTY || (f->w.kind == END_PIPE && one_fd(f)))
		return -ENOTSUP;
	f->write_ended = true;
	if (f->w.kind == END_SOCK)
		/* Not connected any more: the next read says it better. */
		return shutdown(f->w.fd, SHUT_WR) < 0 && errno != ENOTCONN ?
			       -errno :
			       0;
	if (f->w.kind == END_FILE)
		/* EINVAL: /dev/null and the like */
		return fsync(f->w.fd) < 0 && errno != EINVAL ? -errno : 0;
	end_close(&f->w);
	c->wfd = -1;
	return 0;
}

/* A pipe cannot be cut while a thread may be inside; sockets stay open until
 * close, so that their numbers are ours here. */
static void fd_shutdown(struct gw_chan *c)
{
	struct fd_chan *f = (struct fd_chan *)c;

	if (f->r.kind == END_SOCK)
		(void)shutdown(f->r.fd, SHUT_RDWR);
	if (f->w.kind == END_SOCK)
		(void)shutdown(f->w.fd, SHUT_RDWR);
}

static int64_t fd_unacked(struct gw_chan *c)
{
	const struct fd_chan *f = (struct fd_chan *)c;
	socklen_t len = sizeof(int);
	int n = 0, code = 0;

	if (f->w.kind != END_SOCK)
		return 0;
	if (getsockopt(f->w.fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		return -errno;
	if (code)
		return -code;
	return ioctl(f->w.fd, SIOCOUTQ, &n) < 0 ? 0 : n;
}

static void fd_close(struct gw_chan *c)
{
	struct fd_chan *f = (struct fd_chan *)c;

	if (one_fd(f))
		f->w.fd = -1;
	end_close(&f->w);
	end_close(&f->r);
	free(f);
}

static const struct gw_chan_ops fd_ops = {
	.readv = fd_readv,
	.writev = fd_writev,
	.sendfile = fd_sendfile,
	.shutdown_write = fd_shutdown_write,
	.shutdown = fd_shutdown,
	.close = fd_close,
	.unacked = fd_unacked,
};

/* What @fd is and which directions it has. */
static int inspect(int fd, const char *peer, enum end_kind *kind, int *acc,
		   struct gw_error *err)
{
	int flags = fcntl(fd, F_GETFL), type = 0;
	socklen_t len = sizeof(type);
	struct stat st;

	if (flags < 0 || fstat(fd, &st) < 0)
		return gw_fail_as(err, GW_FAULT_USAGE, errno,
				  "%s: descriptor %d is not open", peer, fd);
	if (flags & O_PATH)
		return gw_fail_as(err, GW_FAULT_USAGE, EBADF,
				  "%s: descriptor %d was opened with O_PATH",
				  peer, fd);
	*acc = flags & O_ACCMODE;
	if (S_ISSOCK(st.st_mode)) {
		*kind = END_SOCK;
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
		    type != SOCK_STREAM)
			return gw_fail_as(
				err, GW_FAULT_USAGE, EPROTOTYPE,
				"%s: descriptor %d is a socket, but not a stream",
				peer, fd);
	} else if (S_ISDIR(st.st_mode)) {
		return gw_fail_as(err, GW_FAULT_USAGE, EISDIR,
				  "%s: descriptor %d is a directory", peer, fd);
	} else if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) {
		*kind = END_FILE;
	} else if (S_ISCHR(st.st_mode)) {
		*kind = isatty(fd) ? END_TTY : END_FILE;
	} else {
		*kind = END_PIPE;
	}
	return 0;
}

struct gw_chan *gw_chan_from_fds(int rfd, int wfd, const char *peer,
				 struct gw_error *err)
{
	enum end_kind rkind = END_NONE, wkind = END_NONE;
	int racc = O_RDONLY, wacc = O_WRONLY, r;
	struct fd_chan *f;

	if ((rfd >= 0 && inspect(rfd, peer, &rkind, &racc, err)) ||
	    (wfd >= 0 && inspect(wfd, peer, &wkind, &wacc, err)))
		return NULL;
	if (rfd < 0 && wfd < 0) {
		gw_fail_as(err, GW_FAULT_USAGE, EBADF, "%s: no descriptor",
			   peer);
		return NULL;
	}
	f = calloc(1, sizeof(*f));
	if (!f) {
		gw_fail(err, ENOMEM, "no memory for a channel to %s", peer);
		return NULL;
	}
	f->r.fd = f->w.fd = -1;
	if (gw_chan_init(&f->base, &fd_ops, peer, err)) {
		free(f);
		return NULL;
	}
	/* A descriptor open for one direction only has no other. */
	r = rfd >= 0 && racc != O_WRONLY ? end_open(&f->r, rfd, rkind) : 0;
	if (!r && wfd >= 0 && wacc != O_RDONLY) {
		r = end_open(&f->w, wfd, wkind);
		if (!r && one_fd(f))
			f->w.flags = f->r.flags;
	}
	if (r) {
		gw_fail_errno(err, -r, "%s: setting the descriptor's flags",
			      peer);
		f->r.fd = f->w.fd = -1; /* they stay with the caller */
		gw_chan_close(&f->base);
		return NULL;
	}
	f->base.storage = (f->r.fd < 0 || rkind == END_FILE) &&
			  (f->w.fd < 0 || wkind == END_FILE);
	f->base.rfd = f->r.fd;
	f->base.wfd = f->w.fd;
	return &f->base;
}

struct gw_chan *gw_chan_from_fd(int fd, const char *peer, struct gw_error *err)
{
	if (fd < 0) {
		gw_fail_as(err, GW_FAULT_USAGE, EBADF, "%s: no descriptor",
			   peer);
		return NULL;
	}
	return gw_chan_from_fds(fd, fd, peer, err);
}

/* --- fd:N -------------------------------------------------------------- */

/*
 * Standard input, output and error stay open, as /dev/null: a later open()
 * must not get their number, or a printf() would land in the stream.
 */
static int free_standard_fd(int fd, struct gw_error *err)
{
	gw_autoclose int null = -1;
	gw_autoclose int copy = -1;

	if (fd > 2)
		return fd;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (null < 0 || copy < 0 || dup2(null, fd) < 0)
		return gw_fail_errno(err, errno, "fd:%d: moving it", fd);
	return gw_take_fd(&copy);
}

static struct gw_chan *fd_open(const struct gw_uri *u, struct gw_error *err)
{
	enum end_kind kind;
	struct gw_chan *c;
	int acc, fd;

	if (inspect(u->fd, u->shown, &kind, &acc, err))
		return NULL;
	fd = free_standard_fd(u->fd, err);
	if (fd < 0)
		return NULL;
	c = gw_chan_from_fd(fd, u->shown, err);
	if (!c && fd != u->fd)
		close(fd);
	return c;
}

static bool is_listening(int fd)
{
	int on = 0;
	socklen_t len = sizeof(on);

	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on;
}

static struct gw_chan *fd_connect(const struct gw_uri *u, int64_t deadline,
				  const struct gw_cancel *cancel,
				  struct gw_error *err)
{
	if (is_listening(u->fd)) {
		gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"%s is a listening socket, a connected one is needed",
			u->shown);
		return NULL;
	}
	return fd_open(u, err);
}

static int fd_listen(struct gw_listener *l, const struct gw_uri *u,
		     struct gw_error *err)
{
	int fd, flags;

	if (!is_listening(u->fd)) {
		l->ready = fd_open(u, err);
		return l->ready ? 0 : -EINVAL;
	}
	fd = free_standard_fd(u->fd, err);
	if (fd < 0)
		return fd;
	/* Shared with whoever opened it; gw_sock_accept() polls first, but
	 * another process may be faster. */
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return gw_fail_errno(err, errno, "%s", u->shown);
	l->fd[l->nfds++] = fd;
	l->keep_alive = true;
	return 0;
}

const struct gw_transport gw_transport_fd = { fd_connect, fd_listen };
