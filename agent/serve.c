/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * serve.c - the agent's socket: who may connect, what is asked, what is
 * answered. What a request does is in uffd.c and ram.c.
 */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_CONNS 8
#define MAX_FDS	  4 /* accepted with a request; all but one are closed */

struct conn {
	int fd; /* -1: free */
	uint32_t pid;
	uint64_t last; /* when it last asked, in requests served */
};

static struct conn conns[MAX_CONNS] = {
	{ .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 },
	{ .fd = -1 }, { .fd = -1 }, { .fd = -1 }, { .fd = -1 },
};
static int listener = -1;
static uint64_t requests;
static uid_t owner; /* euid when the socket was made */
static struct sockaddr_un address = { .sun_family = AF_UNIX };

/* ---- the socket ---- */

static bool is_socket(const char *path)
{
	struct statx st;

	/* the call, not the function: see ram.c */
	return syscall(SYS_statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW,
		       STATX_TYPE, &st) == 0 &&
	       (st.stx_mode & S_IFMT) == S_IFSOCK;
}

/* Nobody may be listening at @address; a stale socket there goes away. */
static int clear_path(void)
{
	struct sockaddr *a = (struct sockaddr *)&address;
	int fd, r = 0;

	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, a, sizeof(address)) == 0)
		r = -EADDRINUSE;
	else if (errno == ECONNREFUSED && is_socket(address.sun_path))
		r = unlink(address.sun_path) ? -errno : 0;
	else if (errno != ENOENT)
		r = -EADDRINUSE; /* alive, somebody else's, or no socket */
	close(fd);
	return r;
}

int serve_listen(const char *path)
{
	int r;

	if (strlen(path) >= sizeof(address.sun_path)) {
		agent_say("socket path is longer than %zu bytes: %s",
			  sizeof(address.sun_path) - 1, path);
		return -ENAMETOOLONG;
	}
	strcpy(address.sun_path, path);
	r = clear_path();
	if (r) {
		agent_say("cannot use %s: %s", path, strerror(-r));
		return r;
	}
	listener = socket(AF_UNIX,
			  SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The mode set before bind(2) is what the file gets, less the umask:
	 * at no time is it wider. chmod(2) adds what the umask took away. */
	if (listener < 0 || fchmod(listener, 0600) ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    chmod(path, 0600) || listen(listener, MAX_CONNS)) {
		r = -errno;
		agent_say("cannot listen at %s: %s", path, strerror(-r));
		serve_forget();
		return r;
	}
	owner = geteuid();
	return 0;
}

/*
 * Held while a request is served: a fork in the middle of one would leave the
 * child with descriptors that nothing has a number of yet.
 */
static pthread_mutex_t serving = PTHREAD_MUTEX_INITIALIZER;

void serve_lock(void)
{
	pthread_mutex_lock(&serving);
}

void serve_unlock(void)
{
	pthread_mutex_unlock(&serving);
}

void serve_forget(void)
{
	int i, fd = listener;

	/* numbers first: see uffd_forget() */
	listener = -1;
	if (fd >= 0)
		close(fd);
	for (i = 0; i < MAX_CONNS; i++) {
		fd = conns[i].fd;
		conns[i].fd = -1;
		if (fd >= 0)
			close(fd);
	}
}

void serve_unlink(void)
{
	if (address.sun_path[0] == '/')
		unlink(address.sun_path);
}

/* ---- replies ---- */

static void head_init(struct gw_agent_head *h, unsigned op, int status)
{
	memset(h, 0, sizeof(*h));
	h->magic = GW_AGENT_MAGIC;
	h->version = GW_AGENT_VERSION;
	h->op = (uint16_t)op;
	h->status = status;
}

/* Return: false when the client cannot be served any more. */
static bool send_fds(int sock, const void *p, size_t len, const int *fds,
		     unsigned nfds)
{
	union {
		char buf[CMSG_SPACE(GW_AGENT_MAPS * sizeof(int))];
		struct cmsghdr h;
	} c;
	struct iovec io = { .iov_base = (void *)p, .iov_len = len };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };

	if (nfds) {
		memset(&c, 0, sizeof(c));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&c.h), fds, nfds * sizeof(int));
		m.msg_control = &c;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
	}
	/* never wait: a client that does not read its replies has to go */
	return sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static bool send_status(int sock, unsigned op, int status, uint32_t holder)
{
	struct gw_agent_head h;

	head_init(&h, op, status);
	h.holder = holder;
	return send_fds(sock, &h, sizeof(h), NULL, 0);
}

/* ---- requests; each returns false when the connection has to go ---- */

static bool do_hello(int i)
{
	struct gw_agent_hello_reply r;

	memset(&r, 0, sizeof(r));
	/* The agreed version: this is the only one there is so far. */
	head_init(&r.head, GW_AGENT_HELLO, 0);
	r.pid = (uint32_t)getpid();
	r.euid = geteuid();
	uffd_status(&r.kinds, &r.held, &r.orphaned);
	snprintf(r.build, sizeof(r.build), "%s", GW_VERSION);
	return send_fds(conns[i].fd, &r, sizeof(r), NULL, 0);
}

static bool do_uffd(int i, const struct gw_agent_request *q, int dev)
{
	struct gw_agent_uffd_reply r;
	int holder = -1, fd;
	bool used = false;

	memset(&r, 0, sizeof(r));
	head_init(&r.head, GW_AGENT_UFFD, 0);
	fd = uffd_get(q->purpose, q->kinds, dev, i, &r.kind, &used, &holder);
	if (fd < 0)
		return send_status(conns[i].fd, q->op, -fd,
				   holder < 0 ? 0 : conns[holder].pid);
	r.used = used;
	return send_fds(conns[i].fd, &r, sizeof(r), &fd, 1);
}

static bool do_release(int i, const struct gw_agent_request *q)
{
	int holder = -1, r;

	r = uffd_release(q->purpose, i, &holder);
	return send_status(conns[i].fd, q->op, -r,
			   holder < 0 ? 0 : conns[holder].pid);
}

struct ram_page {
	struct gw_agent_ram_reply r;
	int fds[GW_AGENT_MAPS];
};

static bool add_map(void *arg, const struct gw_agent_map *map)
{
	struct ram_page *p = arg;
	struct gw_agent_map *m, *prev;

	if (p->r.nmaps == GW_AGENT_MAPS) {
		p->r.next = map->addr;
		return false;
	}
	m = &p->r.map[p->r.nmaps];
	*m = *map;
	for (prev = p->r.map; prev < m; prev++) {
		if (prev->ino == m->ino && prev->dev_major == m->dev_major &&
		    prev->dev_minor == m->dev_minor)
			break;
	}
	if (prev < m) {
		m->fd_index = prev->fd_index;
		m->page_size = prev->page_size;
	} else {
		int fd = ram_open(m);

		if (fd >= 0) {
			m->fd_index = (int32_t)p->r.nfds;
			p->fds[p->r.nfds++] = fd;
		}
	}
	p->r.nmaps++;
	return true;
}

static bool do_ram(int i, const struct gw_agent_request *q)
{
	struct ram_page p;
	bool ok;
	int r;

	memset(&p, 0, sizeof(p));
	head_init(&p.r.head, GW_AGENT_RAM, 0);
	r = ram_each(q->from, GW_AGENT_MAP_MIN, add_map, &p);
	if (r < 0)
		return send_status(conns[i].fd, q->op, -r, 0);
	ok = send_fds(conns[i].fd, &p.r, sizeof(p.r), p.fds, p.r.nfds);
	while (p.r.nfds)
		close(p.fds[--p.r.nfds]);
	return ok;
}

static bool dispatch(int i, const struct gw_agent_request *q, size_t len,
		     int dev)
{
	int sock = conns[i].fd;

	if (len != sizeof(*q) || q->magic != GW_AGENT_MAGIC)
		return send_status(sock, 0, EPROTO, 0);
	if (q->op == GW_AGENT_HELLO ? q->version < 1 :
				      q->version != GW_AGENT_VERSION)
		return send_status(sock, q->op, EPROTONOSUPPORT, 0);
	switch (q->op) {
	case GW_AGENT_HELLO:
		return do_hello(i);
	case GW_AGENT_UFFD:
		return do_uffd(i, q, dev);
	case GW_AGENT_RELEASE:
		return do_release(i, q);
	case GW_AGENT_RAM:
		return do_ram(i, q);
	default:
		return send_status(sock, q->op, ENOSYS, 0);
	}
}

/* ---- connections ---- */

static void drop(int i)
{
	int fd = conns[i].fd;

	conns[i].fd = -1;
	close(fd);
	uffd_conn_gone(i);
}

/* Take the descriptors that came with a packet; keep the first. */
static int take_fd(struct msghdr *m)
{
	struct cmsghdr *c;
	int fd = -1, got;
	size_t n, k;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (k = 0; k < n; k++) {
			memcpy(&got, CMSG_DATA(c) + k * sizeof(int),
			       sizeof(int));
			if (fd < 0)
				fd = got;
			else
				close(got);
		}
	}
	return fd;
}

static void serve_conn(int i)
{
	struct gw_agent_request q;
	union {
		char buf[CMSG_SPACE(MAX_FDS * sizeof(int))];
		struct cmsghdr h;
	} c;
	struct iovec io = { .iov_base = &q, .iov_len = sizeof(q) };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1,
			    .msg_control = &c, .msg_controllen = sizeof(c) };
	ssize_t n;
	bool ok;
	int dev;

	/* MSG_TRUNC: the packet's real length, so an oversized one is seen */
	n = recvmsg(conns[i].fd, &m,
		    MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(i);
		return;
	}
	dev = take_fd(&m);
	conns[i].last = ++requests;
	ok = dispatch(i, &q, (size_t)n, dev);
	if (dev >= 0)
		close(dev);
	if (!ok)
		drop(i);
}

/* A free place: of nobody, or of who has been idle longest and holds nothing.
 * There are more places than purposes, so there always is one. */
static int find_place(void)
{
	int i, oldest = -1;

	for (i = 0; i < MAX_CONNS; i++) {
		if (conns[i].fd < 0)
			return i;
		if (!uffd_conn_holds(i) &&
		    (oldest < 0 || conns[i].last < conns[oldest].last))
			oldest = i;
	}
	if (oldest >= 0)
		drop(oldest);
	return oldest;
}

static bool allowed(uid_t uid)
{
	return uid == 0 || uid == owner || uid == geteuid();
}

static void accept_conn(void)
{
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(peer);
	int fd, i;

	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		/* QEMU is out of descriptors: do not spin on it */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			poll(NULL, 0, 100);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ||
	    !allowed(peer.uid)) {
		send_status(fd, 0, EACCES, 0);
		close(fd);
		return;
	}
	i = find_place();
	if (i < 0) {
		send_status(fd, 0, EUSERS, 0);
		close(fd);
		return;
	}
	conns[i].pid = (uint32_t)peer.pid;
	conns[i].last = ++requests;
	conns[i].fd = fd;
}

void serve_loop(int wake_fd, const volatile int *quit)
{
	struct pollfd p[MAX_CONNS + 2];
	int i;

	while (!*quit) {
		p[0] = (struct pollfd){ .fd = wake_fd, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = listener, .events = POLLIN };
		for (i = 0; i < MAX_CONNS; i++)
			p[i + 2] = (struct pollfd){ .fd = conns[i].fd,
						    .events = POLLIN };
		if (poll(p, MAX_CONNS + 2, -1) <= 0)
			continue;
		serve_lock();
		for (i = 0; i < MAX_CONNS; i++) {
			if (conns[i].fd >= 0 && p[i + 2].revents)
				serve_conn(i);
		}
		/* last: it may give a place to somebody else */
		if (p[1].revents)
			accept_conn();
		serve_unlock();
	}
}
