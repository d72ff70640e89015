/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sock.c - the tcp: and unix: transports: connecting, listening, accepting.
 * The bytes then move in fd.c.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "chan/transport.h"

#define UNIX_RETRY_MS 10 /* while the listener's queue is full */

union any_addr {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
	struct sockaddr_storage st;
};

static void set_int(int fd, int level, int option, int value)
{
	(void)setsockopt(fd, level, option, &value, sizeof(value));
}

static int get_int(int fd, int level, int option)
{
	int value = -1;
	socklen_t len = sizeof(value);

	return getsockopt(fd, level, option, &value, &len) ? -1 : value;
}

/* By itself it holds 208 KiB, and each end waits for the other all the time. */
static void tune_unix(int fd)
{
	int size = GW_UNIX_SNDBUF;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		set_int(fd, SOL_SOCKET, SO_SNDBUF, size);
}

bool gw_sock_is_unix(int fd)
{
	return get_int(fd, SOL_SOCKET, SO_DOMAIN) == AF_UNIX;
}

void gw_sock_tune(int fd, bool keep_alive)
{
	if (gw_sock_is_unix(fd))
		tune_unix(fd);
	if (get_int(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP)
		return;
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, keep_alive);
	set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, GW_TCP_KEEPIDLE_S);
	set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, GW_TCP_KEEPINTVL_S);
	set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, GW_TCP_KEEPCNT);
}

/* "tcp:192.0.2.1:4444", "tcp:[::1]:4444". */
static void name_tcp(char *buf, size_t len, const union any_addr *a,
		     socklen_t alen)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE + 2], port[8];
	const char *h = host;
	bool v6 = a->sa.sa_family == AF_INET6;

	if (getnameinfo(&a->sa, alen, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV)) {
		snprintf(buf, len, "tcp:?");
		return;
	}
	if (v6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr) &&
	    !strncmp(host, "::ffff:", 7)) {
		h = host + 7;
		v6 = false;
	}
	snprintf(buf, len, v6 ? "tcp:[%s]:%s" : "tcp:%s:%s", h, port);
}

static uint16_t port_of(const union any_addr *a)
{
	return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port :
						   a->in.sin_port);
}

/* --- connecting -------------------------------------------------------- */

/* Connect non-blocking @fd. Return: 0 or -errno. */
static int connect_wait(int fd, const union any_addr *a, socklen_t len,
			int64_t deadline, const struct gw_cancel *cancel)
{
	for (;;) {
		int e = 0, r;
		socklen_t elen = sizeof(e);
		int64_t pause = gw_deadline_ms(UNIX_RETRY_MS);

		if (connect(fd, &a->sa, len) == 0)
			return 0;
		if (errno == EINPROGRESS || errno == EINTR) {
			r = gw_wait_fd(fd, POLLOUT, deadline, cancel);
			if (r)
				return r;
			if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &elen) < 0)
				return -errno;
			return -e;
		}
		if (errno != EAGAIN || a->sa.sa_family != AF_UNIX)
			return -errno;
		/* A full unix queue cannot be polled for. */
		if (deadline && deadline < pause)
			pause = deadline;
		r = gw_wait_fd(-1, 0, pause, cancel);
		if (r != -ETIMEDOUT)
			return r;
		if (deadline && gw_now_ns() >= deadline)
			return -ETIMEDOUT;
	}
}

/* Without a listener, a connection on loopback can meet itself. */
static bool met_itself(int fd)
{
	union any_addr me = { 0 }, peer = { 0 };
	socklen_t mlen = sizeof(me), plen = sizeof(peer);

	return getsockname(fd, &me.sa, &mlen) == 0 &&
	       getpeername(fd, &peer.sa, &plen) == 0 && mlen == plen &&
	       memcmp(&me, &peer, mlen) == 0;
}

/* One address. Return: a connected descriptor or -errno. */
static int connect_addr(const union any_addr *a, socklen_t len,
			int64_t deadline, const struct gw_cancel *cancel)
{
	gw_autoclose int fd = socket(
		a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return -errno;
	r = connect_wait(fd, a, len, deadline, cancel);
	if (!r && a->sa.sa_family != AF_UNIX && met_itself(fd))
		r = -ECONNREFUSED;
	return r ? r : gw_take_fd(&fd);
}

/* Over a connected @fd, which is closed when this fails. */
static struct gw_chan *finish(int fd, const char *peer, bool keep_alive,
			      struct gw_error *err)
{
	struct gw_chan *c = gw_chan_from_fd(fd, peer, err);

	if (!c)
		close(fd);
	else if (!keep_alive)
		gw_sock_tune(fd, false);
	return c;
}

/* What went wrong with one address, after what is in @why already. */
static void add_reason(char *why, size_t cap, const union any_addr *a,
		       socklen_t len, int code)
{
	char name[160];
	size_t n = strlen(why);

	name_tcp(name, sizeof(name), a, len);
	snprintf(why + n, cap - n, "%s%s at %s", n ? "; " : "",
		 code == ETIMEDOUT ? "no answer in time" : strerror(code),
		 name + strlen("tcp:"));
}

/* An equal part of what is left for each of @n addresses: the first may be
 * a black hole. */
static int64_t share(int64_t deadline, int n)
{
	int64_t now = gw_now_ns();

	return deadline && n > 1 && deadline > now ?
		       now + (deadline - now) / n :
		       deadline;
}

static struct gw_chan *connect_list(const struct gw_uri *u,
				    const struct addrinfo *list,
				    int64_t deadline,
				    const struct gw_cancel *cancel,
				    struct gw_error *err)
{
	const struct addrinfo *ai;
	char why[640] = "", peer[160];
	int n = 0, r = -EHOSTUNREACH;

	for (ai = list; ai; ai = ai->ai_next)
		n++;
	for (ai = list; ai; ai = ai->ai_next, n--) {
		union any_addr a = { 0 };

		if (ai->ai_addrlen > sizeof(a))
			continue;
		memcpy(&a, ai->ai_addr, ai->ai_addrlen);
		r = connect_addr(&a, ai->ai_addrlen, share(deadline, n),
				 cancel);
		if (r >= 0) {
			name_tcp(peer, sizeof(peer), &a, ai->ai_addrlen);
			return finish(r, peer, u->keep_alive, err);
		}
		if (r == -ECANCELED) {
			gw_cancel_fail(err);
			return NULL;
		}
		add_reason(why, sizeof(why), &a, ai->ai_addrlen, -r);
	}
	gw_fail(err, -r, "cannot connect to %s: %s", u->shown, why);
	return NULL;
}

static int family_of(const struct gw_uri *u)
{
	if (u->want_ipv4 && u->want_ipv6)
		return AF_UNSPEC;
	return u->want_ipv4 ? AF_INET : AF_INET6;
}

static struct gw_chan *tcp_connect(const struct gw_uri *u, int64_t deadline,
				   const struct gw_cancel *cancel,
				   struct gw_error *err)
{
	struct addrinfo *list;
	struct gw_chan *c;

	if (gw_resolve(*u->host ? u->host : NULL, u->port, family_of(u), false,
		       deadline, cancel, &list, err)) {
		if (err && err->code != ECANCELED)
			gw_error_prefix(err, "cannot connect to %s", u->shown);
		return NULL;
	}
	c = connect_list(u, list, deadline, cancel, err);
	freeaddrinfo(list);
	return c;
}

/* A sockaddr_un need not end with a NUL: the path may fill it. */
static void unix_addr(union any_addr *a, const struct gw_uri *u)
{
	memset(a, 0, sizeof(*a));
	a->un.sun_family = AF_UNIX;
	memcpy(a->un.sun_path, u->path, GW_URI_SUN_MAX);
}

static struct gw_chan *unix_connect(const struct gw_uri *u, int64_t deadline,
				    const struct gw_cancel *cancel,
				    struct gw_error *err)
{
	union any_addr a;
	int fd;

	unix_addr(&a, u);
	fd = connect_addr(&a, sizeof(a.un), deadline, cancel);
	if (fd >= 0)
		return finish(fd, u->shown, true, err);
	if (fd == -ECANCELED)
		gw_cancel_fail(err);
	else if (fd == -ETIMEDOUT)
		gw_fail(err, ETIMEDOUT,
			"cannot connect to %s: the listener's queue is full",
			u->shown);
	else
		gw_fail_errno(err, -fd, "cannot connect to %s", u->shown);
	return NULL;
}

/* --- listening: tcp ---------------------------------------------------- */

static void set_port(union any_addr *a, uint16_t port)
{
	if (a->sa.sa_family == AF_INET6)
		a->in6.sin6_port = htons(port);
	else
		a->in.sin_port = htons(port);
}

/* A socket that listens at @a. Return: it or -errno. */
static int listen_addr(const union any_addr *a, socklen_t len, bool only_v6)
{
	gw_autoclose int fd = socket(
		a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (a->sa.sa_family == AF_INET6)
		set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, only_v6);
	if (bind(fd, &a->sa, len) < 0 || listen(fd, SOMAXCONN) < 0)
		return -errno;
	return gw_take_fd(&fd);
}

static bool is_any(const union any_addr *a)
{
	return a->sa.sa_family == AF_INET6 ?
		       IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr) :
		       a->in.sin_addr.s_addr == htonl(INADDR_ANY);
}

static void close_all(struct gw_listener *l)
{
	while (l->nfds)
		close(l->fd[--l->nfds]);
}

/*
 * Listen at every address of @list with @port (0: one that is free, the same
 * for all). An address this machine cannot have is passed over unless it is
 * the last hope; a busy one is an error, or half the peers would meet
 * somebody else. Return: the port or -errno with @bad the address.
 */
static int listen_port(struct gw_listener *l, const struct gw_uri *u,
		       const struct addrinfo *list, uint16_t port,
		       union any_addr *bad, socklen_t *bad_len)
{
	bool dual = false;
	int first = -EADDRNOTAVAIL;

	for (int pass = 0; pass < 2; pass++) {
		/* IPv6 first: "::" takes IPv4 along. */
		for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
			union any_addr a = { 0 };
			socklen_t len = ai->ai_addrlen;
			int fd;

			if ((ai->ai_family == AF_INET6) != (pass == 0) ||
			    len > sizeof(a) || l->nfds == GW_LISTEN_MAX)
				continue;
			memcpy(&a, ai->ai_addr, len);
			if (dual && is_any(&a))
				continue;
			set_port(&a, port);
			fd = listen_addr(&a, len, !u->want_ipv4 || !is_any(&a));
			if (fd < 0) {
				first = fd;
				*bad = a;
				*bad_len = len;
				if (fd != -EADDRNOTAVAIL && fd != -EAFNOSUPPORT)
					return fd;
				continue;
			}
			l->fd[l->nfds++] = fd;
			dual |= pass == 0 && is_any(&a) && u->want_ipv4;
			len = sizeof(a);
			if (!port && getsockname(fd, &a.sa, &len) == 0)
				port = port_of(&a);
		}
	}
	return l->nfds ? port : first;
}

static int listen_list(struct gw_listener *l, const struct gw_uri *u,
		       const struct addrinfo *list, struct gw_error *err)
{
	union any_addr bad = { 0 };
	socklen_t bad_len = sizeof(bad.in);
	char at[160];
	uint16_t port = 0;
	int r = 0, tries = 0;

	if (list->ai_addrlen <= sizeof(bad)) {
		memcpy(&bad, list->ai_addr, list->ai_addrlen);
		bad_len = list->ai_addrlen;
		port = port_of(&bad);
	}
	for (;;) {
		r = listen_port(l, u, list, port, &bad, &bad_len);
		if (r >= 0)
			return r;
		close_all(l);
		if (r != -EADDRINUSE)
			break;
		if (u->port_to > port)
			port++;
		else if (port || ++tries == 10)
			break; /* 0: free for one address, busy for another */
	}
	name_tcp(at, sizeof(at), &bad, bad_len);
	if (r == -EADDRINUSE && u->port_to > u->port_number)
		return gw_fail(
			err, EADDRINUSE,
			"cannot listen at %s: all ports from %u to %u are in use",
			u->shown, u->port_number, u->port_to);
	return gw_fail_errno(err, -r, "cannot listen at %s (%s)", u->shown,
			     at + strlen("tcp:"));
}

static int tcp_listen(struct gw_listener *l, const struct gw_uri *u,
		      struct gw_error *err)
{
	struct addrinfo *list;
	int r = gw_resolve(*u->host ? u->host : NULL, u->port, family_of(u),
			   true, 0, NULL, &list, err);

	if (r) {
		gw_error_prefix(err, "cannot listen at %s", u->shown);
		return r;
	}
	r = listen_list(l, u, list, err);
	freeaddrinfo(list);
	if (r < 0)
		return r;
	snprintf(l->uri, sizeof(l->uri),
		 strchr(u->host, ':') ? "tcp:[%s]:%d" : "tcp:%s:%d", u->host,
		 r);
	l->keep_alive = u->keep_alive;
	return 0;
}

/* --- listening: unix --------------------------------------------------- */

/*
 * Make place for a socket at the path of @a when the one there is dead: no
 * one accepts. Two processes that do this at the same moment may still take
 * each other's for dead (bound, not yet listening). Return: 0 or -errno.
 */
static int remove_stale(const union any_addr *a, const char *path)
{
	gw_autoclose int fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat before, now;

	if (fd < 0 || lstat(path, &before) < 0)
		return -errno;
	if (!S_ISSOCK(before.st_mode))
		return -EEXIST;
	if (connect(fd, &a->sa, sizeof(a->un)) == 0 || errno != ECONNREFUSED)
		return -EADDRINUSE;
	if (lstat(path, &now) < 0 || now.st_ino != before.st_ino ||
	    now.st_dev != before.st_dev)
		return -EADDRINUSE;
	return unlink(path) < 0 ? -errno : 0;
}

static int fail_unix(const struct gw_uri *u, int code, struct gw_error *err)
{
	if (code == EEXIST)
		return gw_fail(
			err, code,
			"cannot listen at %s: the path exists and is not a socket",
			u->shown);
	return gw_fail_errno(err, code, "cannot listen at %s", u->shown);
}

static int unix_listen(struct gw_listener *l, const struct gw_uri *u,
		       struct gw_error *err)
{
	gw_autoclose int fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	union any_addr a;
	struct stat st;
	int r;

	if (fd < 0)
		return fail_unix(u, errno, err);
	unix_addr(&a, u);
	/* Whoever connects sends a VM's memory: the owner only. Linux gives
	 * the file the mode of the socket. */
	(void)fchmod(fd, 0600);
	if (bind(fd, &a.sa, sizeof(a.un)) < 0) {
		r = errno == EADDRINUSE ? remove_stale(&a, u->path) : -errno;
		if (!r && bind(fd, &a.sa, sizeof(a.un)) < 0)
			r = -errno;
		if (r)
			return fail_unix(u, -r, err);
	}
	if (lstat(u->path, &st) == 0) {
		memcpy(l->path, u->path, sizeof(l->path));
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
	if (listen(fd, SOMAXCONN) < 0)
		return fail_unix(u, errno, err);
	l->fd[l->nfds++] = gw_take_fd(&fd);
	return 0;
}

void gw_sock_unlink(struct gw_listener *l)
{
	struct stat st;

	if (*l->path && lstat(l->path, &st) == 0 && st.st_dev == l->dev &&
	    st.st_ino == l->ino)
		unlink(l->path);
	*l->path = '\0';
}

/* --- accepting --------------------------------------------------------- */

/* Until one of the sockets has a connection. Return: 0 or -errno. */
static int wait_any(const struct gw_listener *l, int64_t deadline,
		    const struct gw_cancel *cancel)
{
	struct pollfd p[GW_LISTEN_MAX + 1];
	int n = 0, r;

	for (; n < l->nfds; n++)
		p[n] = (struct pollfd){ .fd = l->fd[n], .events = POLLIN };
	p[n] = (struct pollfd){ .fd = gw_cancel_fd(cancel), .events = POLLIN };
	do {
		r = poll(p, (nfds_t)n + 1, gw_deadline_left_ms(deadline));
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0)
			return p[n].revents ? -ECANCELED : 0;
	} while (!deadline || gw_now_ns() < deadline);
	return -ETIMEDOUT;
}

/* accept(2): these are about one connection that went away, not about us. */
static bool is_passing(int code)
{
	switch (code) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED:
	case ENETDOWN:
	case EPROTO:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case ENONET:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return true;
	}
	return false;
}

static int accept_any(struct gw_listener *l, union any_addr *a, socklen_t *len)
{
	for (int i = 0; i < l->nfds; i++) {
		int fd;

		*len = sizeof(*a);
		fd = accept4(l->fd[i], &a->sa, len, SOCK_CLOEXEC);
		if (fd >= 0)
			return fd;
		if (!is_passing(errno))
			return -errno;
	}
	return -EAGAIN;
}

struct gw_chan *gw_sock_accept(struct gw_listener *l, int64_t deadline,
			       const struct gw_cancel *cancel,
			       struct gw_error *err)
{
	char peer[160];
	union any_addr a = { 0 };
	socklen_t len;
	int r = accept_any(l, &a, &len);

	while (r == -EAGAIN) {
		r = wait_any(l, deadline, cancel);
		if (!r)
			r = accept_any(l, &a, &len);
	}
	if (r >= 0) {
		if (a.sa.sa_family == AF_INET || a.sa.sa_family == AF_INET6)
			name_tcp(peer, sizeof(peer), &a, len);
		else
			snprintf(peer, sizeof(peer), "%.159s", l->uri);
		return finish(r, peer, l->keep_alive, err);
	}
	if (r == -ECANCELED)
		gw_cancel_fail(err);
	else if (r == -ETIMEDOUT)
		gw_fail(err, ETIMEDOUT, "no connection at %s in time", l->uri);
	else
		gw_fail_errno(err, -r, "accepting a connection at %s", l->uri);
	return NULL;
}

const struct gw_transport gw_transport_tcp = { tcp_connect, tcp_listen };
const struct gw_transport gw_transport_unix = { unix_connect, unix_listen };
