/* SPDX-License-Identifier: BSD-3-Clause */
/* agent.c - see agent.h. */
#include "vm/qemu/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/protocol.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/scope.h"

#define GW_LOG_MODULE "vm"
#define MAX_MAPPINGS  1024 /* a QEMU that claims more is broken */
#define RETRY_MS      20

_Static_assert(GW_UFFD_FULL == GW_AGENT_FULL, "protocol");
_Static_assert(GW_UFFD_USER_MODE == GW_AGENT_USER_MODE, "protocol");
_Static_assert((int)GW_UFFD_TRACK_ASYNC == (int)GW_AGENT_ASYNC, "protocol");
_Static_assert((int)GW_UFFD_TRACK_SYNC == (int)GW_AGENT_SYNC, "protocol");

struct gw_agent {
	/* set once */
	struct sockaddr_un addr;
	int timeout_ms;
	const struct gw_cancel *cancel;

	pthread_mutex_t lock; /* one request at a time; guards the rest */
	int fd;
	unsigned mine; /* 1 << purpose: got through this connection */
	struct gw_agent_info info;
};

/* A packet as it came. Its descriptors are owned here until taken. */
struct reply {
	union {
		struct gw_agent_head head;
		struct gw_agent_hello_reply hello;
		struct gw_agent_uffd_reply uffd;
		struct gw_agent_ram_reply ram;
	};
	size_t len;
	int fds[GW_AGENT_MAPS];
	unsigned nfds;
	pid_t pid; /* who sent it, says the kernel; 0: not known */
};

static void reply_fini(struct reply *r)
{
	while (r->nfds) {
		int fd = r->fds[--r->nfds];

		if (fd >= 0)
			close(fd);
	}
}

static int wait_failed(struct gw_agent *a, int r, struct gw_error *err)
{
	if (r == -ECANCELED)
		return gw_cancel_fail(err);
	if (r == -ETIMEDOUT)
		return gw_fail(err, ETIMEDOUT,
			       "agent %s does not answer within %d ms",
			       a->addr.sun_path, a->timeout_ms);
	return gw_fail_errno(err, -r, "agent %s", a->addr.sun_path);
}

/* ---- one packet there, one back ---- */

static int send_request(int fd, const struct gw_agent_request *q, int with)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr h;
	} c;
	struct iovec io = { .iov_base = (void *)q, .iov_len = sizeof(*q) };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };

	if (with >= 0) {
		memset(&c, 0, sizeof(c));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &with, sizeof(int));
		m.msg_control = &c;
		m.msg_controllen = sizeof(c.buf);
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void take_control(struct cmsghdr *h, struct reply *r)
{
	size_t k, n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	struct ucred cred;

	if (h->cmsg_level != SOL_SOCKET)
		return;
	if (h->cmsg_type == SCM_CREDENTIALS) {
		memcpy(&cred, CMSG_DATA(h), sizeof(cred));
		r->pid = cred.pid;
	}
	if (h->cmsg_type != SCM_RIGHTS)
		return;
	for (k = 0; k < n; k++) {
		int fd;

		memcpy(&fd, CMSG_DATA(h) + k * sizeof(int), sizeof(int));
		if (r->nfds < GW_AGENT_MAPS)
			r->fds[r->nfds++] = fd;
		else
			close(fd);
	}
}

/* Return: 0 with whatever came in @r (len 0: closed), or -errno. */
static int recv_reply(int fd, struct reply *r)
{
	union {
		char buf[CMSG_SPACE(GW_AGENT_MAPS * sizeof(int)) +
			 CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr h;
	} c;
	struct iovec io = { .iov_base = r, .iov_len = sizeof(r->ram) };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1,
			    .msg_control = &c, .msg_controllen = sizeof(c) };
	struct cmsghdr *h;
	ssize_t n;

	memset(r, 0, sizeof(*r));
	n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	for (h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
		take_control(h, r);
	r->len = (size_t)n;
	if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EPROTO;
	return 0;
}

static int status_failed(struct gw_agent *a, const struct gw_agent_head *h,
			 struct gw_error *err)
{
	const char *path = a->addr.sun_path;

	switch (h->status) {
	case EACCES:
		return gw_fail_as(err, GW_FAULT_REFUSED, EACCES,
				  "agent %s refuses uid %u: run as root or as the user that started the VM",
				  path, (unsigned)geteuid());
	case EUSERS:
		return gw_fail_as(err, GW_FAULT_REFUSED, EUSERS,
				  "agent %s has too many clients", path);
	case EPROTONOSUPPORT:
		return gw_fail(err, EPROTONOSUPPORT,
			       "agent %s speaks protocol version %u, this godwit %u: use the godwit that started the VM",
			       path, h->version, GW_AGENT_VERSION);
	case EBUSY:
		return gw_fail(err, EBUSY,
			       "agent %s: process %u tracks this VM already",
			       path, h->holder);
	default:
		return gw_fail_errno(err, h->status, "agent %s", path);
	}
}

/*
 * Check what came: right op, status, and @want bytes. A negative status or an
 * unknown size is not an agent of ours.
 */
static int check_reply(struct gw_agent *a, unsigned op, size_t want,
		       const struct reply *r, struct gw_error *err)
{
	const struct gw_agent_head *h = &r->head;

	if (r->len < sizeof(*h) || h->magic != GW_AGENT_MAGIC ||
	    h->status < 0 || (h->op != op && !(h->op == 0 && h->status)))
		return gw_fail(err, EPROTO, "%s is not a godwit agent",
			       a->addr.sun_path);
	if (h->status)
		return status_failed(a, h, err);
	if (r->len != want)
		return gw_fail(err, EPROTO,
			       "agent %s: reply of %zu bytes, not %zu",
			       a->addr.sun_path, r->len, want);
	return 0;
}

/*
 * One request on the open connection. A refusal may be waiting already when
 * the request cannot be sent any more. *@gone: the agent closed it.
 */
static int ask(struct gw_agent *a, const struct gw_agent_request *q, int with,
	       size_t want, struct reply *reply, bool *gone,
	       struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(a->timeout_ms);
	int r, sent = send_request(a->fd, q, with);

	*gone = false;
	if (sent < 0 && sent != -EPIPE && sent != -ECONNRESET)
		return wait_failed(a, sent, err);
	do {
		r = gw_wait_fd(a->fd, POLLIN, deadline, a->cancel);
		if (r < 0)
			return wait_failed(a, r, err);
		r = recv_reply(a->fd, reply);
	} while (r == -EAGAIN || r == -EINTR);
	*gone = r == -ECONNRESET || (r == 0 && reply->len == 0);
	if (*gone)
		return gw_fail(err, ECONNRESET,
			       "agent %s closed the connection: QEMU has gone, or the agent had too many clients",
			       a->addr.sun_path);
	if (r == 0)
		r = check_reply(a, q->op, want, reply, err);
	else
		r = wait_failed(a, r, err);
	if (r < 0)
		reply_fini(reply);
	return r;
}

/* ---- connections ---- */

static int connect_failed(struct gw_agent *a, int code, struct gw_error *err)
{
	const char *path = a->addr.sun_path;

	switch (code) {
	case ENOENT:
	case ECONNREFUSED:
		return gw_fail_errno(err, code,
				     "no agent at %s (start the VM by `godwit run`, or with LD_PRELOAD=godwit-agent.so and %s=PATH)",
				     path, GW_AGENT_ENV);
	case EACCES:
		return gw_fail_as(err, GW_FAULT_REFUSED, code,
				  "agent %s: no permission: run as root or as the user that started the VM",
				  path);
	case EPROTOTYPE:
		return gw_fail(err, code, "%s is not a godwit agent", path);
	default:
		return gw_fail_errno(err, code, "agent %s", path);
	}
}

/* Worth another try: QEMU is starting, or the queue is full. */
static bool may_come(int code)
{
	return code == ENOENT || code == ECONNREFUSED || code == EAGAIN ||
	       code == EINTR;
}

static int agent_connect(struct gw_agent *a, int64_t deadline,
			 struct gw_error *err)
{
	for (;;) {
		gw_autoclose int fd = socket(AF_UNIX,
					     SOCK_SEQPACKET | SOCK_CLOEXEC |
						     SOCK_NONBLOCK, 0);
		int code, r, on = 1, ms = gw_deadline_left_ms(deadline);

		if (fd < 0)
			return gw_fail_errno(err, errno, "socket");
		/* Not SO_PEERCRED: with -daemonize the socket was made by a
		 * process that is not the VM. */
		setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
		if (connect(fd, (struct sockaddr *)&a->addr,
			    sizeof(a->addr)) == 0) {
			a->fd = gw_take_fd(&fd);
			return 0;
		}
		code = errno;
		if (!may_come(code) || ms == 0)
			return connect_failed(a, code, err);
		if (ms < 0 || ms > RETRY_MS)
			ms = RETRY_MS;
		/* nothing to wait for but the time, or a cancel */
		r = gw_wait_fd(-1, 0, gw_deadline_ms(ms), a->cancel);
		if (r == -ECANCELED)
			return gw_cancel_fail(err);
	}
}

static void disconnect(struct gw_agent *a)
{
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
	a->mine = 0;
}

static struct gw_agent_request request(unsigned op)
{
	return (struct gw_agent_request){ .magic = GW_AGENT_MAGIC,
					  .version = GW_AGENT_VERSION,
					  .op = (uint16_t)op };
}

static int hello(struct gw_agent *a, bool *gone, struct gw_error *err)
{
	struct gw_agent_request q = request(GW_AGENT_HELLO);
	struct gw_agent_info *i = &a->info;
	struct reply reply;
	int r;

	r = ask(a, &q, -1, sizeof(reply.hello), &reply, gone, err);
	if (r < 0)
		return r;
	/* as our pid namespace calls it, where the kernel told */
	i->pid = reply.pid > 0 ? reply.pid : (pid_t)reply.hello.pid;
	i->euid = reply.hello.euid;
	i->version = reply.head.version;
	i->kinds = reply.hello.kinds;
	i->held = reply.hello.held;
	i->orphaned = reply.hello.orphaned;
	memcpy(i->build, reply.hello.build, sizeof(i->build));
	i->build[sizeof(i->build) - 1] = '\0';
	reply_fini(&reply);
	return 0;
}

/* Connect and hello; again if QEMU's -daemonize took the connection away. */
static int greet(struct gw_agent *a, struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(a->timeout_ms);
	bool gone = false;
	int r;

	do {
		disconnect(a);
		r = agent_connect(a, deadline, err);
		if (r == 0)
			r = hello(a, &gone, err);
	} while (r < 0 && gone && gw_deadline_left_ms(deadline) != 0);
	return r;
}

/*
 * A request on a connection that may have been given up for somebody else's
 * (the agent has few places): if nothing is held on it, a new one does.
 */
static int call(struct gw_agent *a, const struct gw_agent_request *q, int with,
		size_t want, struct reply *reply, struct gw_error *err)
{
	bool gone = true;
	int r = -ECONNRESET;

	if (a->fd >= 0)
		r = ask(a, q, with, want, reply, &gone, err);
	if (!gone)
		return r;
	if (a->mine)
		return r;
	r = greet(a, err);
	if (r < 0)
		return r;
	return ask(a, q, with, want, reply, &gone, err);
}

int gw_agent_open(const char *path, int timeout_ms,
		  const struct gw_cancel *cancel, struct gw_agent **out,
		  struct gw_error *err)
{
	struct gw_agent *a;
	int r;

	if (strlen(path) >= sizeof(a->addr.sun_path))
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "agent socket path is longer than %zu bytes: %s",
				  sizeof(a->addr.sun_path) - 1, path);
	a = calloc(1, sizeof(*a));
	if (!a)
		return gw_fail_errno(err, ENOMEM, "agent %s", path);
	pthread_mutex_init(&a->lock, NULL);
	a->fd = -1;
	a->timeout_ms = timeout_ms;
	a->cancel = cancel;
	a->addr.sun_family = AF_UNIX;
	strcpy(a->addr.sun_path, path);
	r = greet(a, err);
	if (r < 0) {
		gw_agent_close(a);
		return r;
	}
	gw_debug("agent %s: godwit %s in process %d, kinds %u, held %#x",
		 path, a->info.build, (int)a->info.pid, a->info.kinds,
		 a->info.held);
	*out = a;
	return 0;
}

void gw_agent_close(struct gw_agent *a)
{
	if (!a)
		return;
	disconnect(a);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

const struct gw_agent_info *gw_agent_info(const struct gw_agent *a)
{
	return &a->info;
}

int gw_agent_hello(struct gw_agent *a, struct gw_error *err)
{
	GW_LOCKED(&a->lock);
	bool gone = true;
	int r = -ECONNRESET;

	if (a->fd >= 0)
		r = hello(a, &gone, err);
	if (r < 0 && gone && !a->mine)
		r = greet(a, err);
	return r;
}

/* ---- RAM ---- */

void gw_agent_ram_fini(struct gw_agent_ram *ram)
{
	unsigned i;

	for (i = 0; i < ram->nfds; i++)
		close(ram->fds[i]);
	free(ram->fds);
	free(ram->map);
	memset(ram, 0, sizeof(*ram));
}

static int reserve(struct gw_agent_ram *ram, struct gw_error *err)
{
	/* so that every reply's mappings and fds fit without another check */
	size_t n = ram->nmaps + GW_AGENT_MAPS;
	void *p;

	if (n > MAX_MAPPINGS)
		return gw_fail(err, E2BIG,
			       "QEMU has more than %d shared mappings",
			       MAX_MAPPINGS);
	p = realloc(ram->map, n * sizeof(*ram->map));
	if (!p)
		return gw_fail_errno(err, ENOMEM, "list of mappings");
	ram->map = p;
	p = realloc(ram->fds, n * sizeof(*ram->fds));
	if (!p)
		return gw_fail_errno(err, ENOMEM, "list of mappings");
	ram->fds = p;
	return 0;
}

/* The descriptor an earlier page of the list brought for the same file. */
static int known_fd(const struct gw_agent_ram *ram,
		    const struct gw_agent_mapping *m)
{
	unsigned i;

	for (i = 0; i < ram->nmaps; i++) {
		if (ram->map[i].dev == m->dev && ram->map[i].ino == m->ino)
			return ram->map[i].fd;
	}
	return -1;
}

static void add_mapping(struct gw_agent_ram *ram, struct reply *reply,
			const struct gw_agent_map *w)
{
	struct gw_agent_mapping m = {
		.addr = w->addr,
		.length = w->length,
		.offset = w->offset,
		.dev = makedev(w->dev_major, w->dev_minor),
		.ino = (ino_t)w->ino,
		.page_size = w->page_size,
		.fd = -1,
	};

	if (w->fd_index >= 0) {
		m.fd = known_fd(ram, &m);
		/* moved out of the reply: its own is closed with it */
		if (m.fd < 0 && reply->fds[w->fd_index] >= 0) {
			m.fd = reply->fds[w->fd_index];
			reply->fds[w->fd_index] = -1;
			ram->fds[ram->nfds++] = m.fd;
		}
	}
	ram->map[ram->nmaps++] = m;
}

/* Return: the next address to ask for, 0 at the end; -errno in *@r. */
static uint64_t add_page(struct gw_agent *a, struct gw_agent_ram *ram,
			 struct reply *reply, uint64_t from, int *r,
			 struct gw_error *err)
{
	const struct gw_agent_ram_reply *w = &reply->ram;
	unsigned i;

	*r = -EPROTO;
	if (w->nmaps > GW_AGENT_MAPS || w->nfds != reply->nfds ||
	    (w->next && w->next <= from))
		goto bad;
	for (i = 0; i < w->nmaps; i++) {
		if (w->map[i].fd_index >= (int)w->nfds ||
		    w->map[i].addr < from)
			goto bad;
		from = w->map[i].addr;
		add_mapping(ram, reply, &w->map[i]);
	}
	*r = 0;
	return w->next;
bad:
	gw_fail(err, EPROTO, "agent %s: damaged list of mappings",
		a->addr.sun_path);
	return 0;
}

int gw_agent_ram(struct gw_agent *a, struct gw_agent_ram *ram,
		 struct gw_error *err)
{
	GW_LOCKED(&a->lock);
	struct gw_agent_request q = request(GW_AGENT_RAM);
	struct reply reply;
	int r;

	memset(ram, 0, sizeof(*ram));
	do {
		r = reserve(ram, err);
		if (r == 0)
			r = call(a, &q, -1, sizeof(reply.ram), &reply, err);
		if (r == 0) {
			q.from = add_page(a, ram, &reply, q.from, &r, err);
			reply_fini(&reply);
		}
	} while (r == 0 && q.from);
	if (r < 0)
		gw_agent_ram_fini(ram);
	return r;
}

/* ---- userfaultfd ---- */

static int uffd_failed(struct gw_agent *a, unsigned kinds, bool had_dev,
		       struct gw_error *err)
{
	if (!err || err->code != EPERM)
		return -(err ? err->code : EPERM);
	return gw_fail(err, EPERM,
		       "QEMU (process %d, uid %u) may not create a %suserfaultfd%s: %s",
		       (int)a->info.pid, (unsigned)a->info.euid,
		       kinds & GW_UFFD_USER_MODE ? "" : "full ",
		       had_dev ? ", not even through /dev/userfaultfd" : "",
		       had_dev ? "is a seccomp filter in the way?" :
				 "run godwit with access to /dev/userfaultfd (root), or set the sysctl vm.unprivileged_userfaultfd=1");
}

int gw_agent_uffd(struct gw_agent *a, unsigned purpose, unsigned kinds,
		  int *fd, unsigned *kind, bool *used, struct gw_error *err)
{
	GW_LOCKED(&a->lock);
	/* Missing or not permitted: the agent may still do without. */
	gw_autoclose int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	struct gw_agent_request q = request(GW_AGENT_UFFD);
	struct gw_error own;
	struct reply reply;
	int r;

	if (!err)
		err = &own; /* uffd_failed() looks at it */
	q.purpose = purpose;
	q.kinds = kinds;
	r = call(a, &q, dev, sizeof(reply.uffd), &reply, err);
	if (r == -EPERM)
		return uffd_failed(a, kinds, dev >= 0, err);
	if (r < 0)
		return r;
	if (reply.nfds != 1 || !(reply.uffd.kind & kinds)) {
		reply_fini(&reply);
		return gw_fail(err, EPROTO,
			       "agent %s: no userfaultfd in its reply",
			       a->addr.sun_path);
	}
	*fd = gw_take_fd(&reply.fds[0]);
	reply_fini(&reply);
	if (kind)
		*kind = reply.uffd.kind;
	if (used)
		*used = reply.uffd.used;
	a->mine |= 1u << purpose;
	return 0;
}

int gw_agent_release(struct gw_agent *a, unsigned purpose,
		     struct gw_error *err)
{
	GW_LOCKED(&a->lock);
	struct gw_agent_request q = request(GW_AGENT_RELEASE);
	struct reply reply;
	int r;

	q.purpose = purpose;
	r = call(a, &q, -1, sizeof(reply.head), &reply, err);
	if (r < 0)
		return r;
	reply_fini(&reply);
	a->mine &= ~(1u << purpose);
	return 0;
}

static int source_get(void *arg, enum gw_uffd_purpose purpose, int *fd,
		      bool *used, struct gw_error *err)
{
	unsigned kinds = GW_UFFD_FULL;

	/* asynchronous write-protection resolves faults inside the kernel */
	if (purpose == GW_UFFD_TRACK_ASYNC)
		kinds |= GW_UFFD_USER_MODE;
	return gw_agent_uffd(arg, purpose, kinds, fd, NULL, used, err);
}

static void source_release(void *arg, enum gw_uffd_purpose purpose)
{
	struct gw_error err;

	if (gw_agent_release(arg, purpose, &err) < 0)
		gw_info("release: %s", err.msg);
}

struct gw_uffd_source gw_agent_uffd_source(struct gw_agent *a)
{
	return (struct gw_uffd_source){ .get = source_get,
					.release = source_release,
					.arg = a };
}
