/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * chan_test.c - every transport, both ways, and every way a wait can end. Each
 * case must leave no descriptor, no child and no pending signal behind.
 */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/reader.h"
#include "base/writer.h"
#include "chan/chan.h"

#define LONG_MS 20000 /* "never" for a test that works */

static struct gw_error err;
static char dir[] = "/tmp/gw-chan-test-XXXXXX";
static char uri[300], path[200];

/* --- helpers ----------------------------------------------------------- */

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d && readdir(d))
		n++;
	closedir(d);
	return n;
}

static void check_clean(int fds)
{
	sigset_t pending;

	CHECK(count_fds() == fds);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	sigpending(&pending);
	CHECK(!sigismember(&pending, SIGPIPE));
}

#define CASE(fn)                             \
	do {                                 \
		int case_fds_ = count_fds(); \
		RUN(fn);                     \
		check_clean(case_fds_);      \
	} while (0)

static const char *in_dir(const char *scheme, const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	snprintf(uri, sizeof(uri), "%s%s", scheme, path);
	return uri;
}

static struct gw_chan *fault_free(struct gw_chan *c)
{
	if (!c) {
		fprintf(stderr, "%s: %s\n", test_name, err.msg);
		test_failures++;
		return NULL;
	}
	c->read_timeout_ms = c->write_timeout_ms = LONG_MS;
	return c;
}

static bool connect_pair(struct gw_listener *l, const char *to,
			 struct gw_chan **a, struct gw_chan **b)
{
	*b = NULL;
	*a = fault_free(gw_chan_connect(to, LONG_MS, NULL, &err));
	if (*a)
		*b = fault_free(gw_listener_accept(l, LONG_MS, NULL, &err));
	return *b;
}

/* The same over a kind of pair without an address. */
static bool open_pair(const char *kind, struct gw_chan **a, struct gw_chan **b)
{
	int x[2], y[2];

	if (!strcmp(kind, "socketpair")) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, x) < 0)
			return false;
		*a = fault_free(gw_chan_from_fd(x[0], "a", &err));
		*b = fault_free(gw_chan_from_fd(x[1], "b", &err));
	} else {
		if (pipe(x) < 0 || pipe(y) < 0)
			return false;
		*a = fault_free(gw_chan_from_fds(x[0], y[1], "a", &err));
		*b = fault_free(gw_chan_from_fds(y[0], x[1], "b", &err));
	}
	return *a && *b;
}

static bool read_exactly(struct gw_chan *c, void *dst, size_t len)
{
	size_t n = 0;

	while (n < len) {
		struct iovec iov = { (char *)dst + n, len - n };
		ssize_t r = gw_chan_readv(c, &iov, 1, &err);

		if (r <= 0)
			return false;
		n += (size_t)r;
	}
	return true;
}

static int read_one(struct gw_chan *c)
{
	char byte;
	struct iovec iov = { &byte, 1 };

	return (int)gw_chan_readv(c, &iov, 1, &err);
}

/* Write into nothing until it fails. Return: the failure. */
static int write_until_failure(struct gw_chan *c)
{
	static char zeros[65536];

	for (int i = 0; i < 10000; i++) {
		int r = gw_chan_write(c, zeros, sizeof(zeros), &err);

		if (r)
			return r;
	}
	return 0;
}

static void ping_pong(struct gw_chan *a, struct gw_chan *b)
{
	char buf[8] = "";

	CHECK(!gw_chan_readable(b));
	CHECK_OK(gw_chan_write(a, "ping", 4, &err), &err);
	CHECK(read_exactly(b, buf, 4) && !memcmp(buf, "ping", 4));
	CHECK_OK(gw_chan_write(b, "pong!", 5, &err), &err);
	CHECK(read_exactly(a, buf, 5) && !memcmp(buf, "pong!", 5));
	CHECK(gw_chan_bytes_written(a) == 4 && gw_chan_bytes_read(a) == 5);
	CHECK(gw_chan_bytes_written(b) == 5 && gw_chan_bytes_read(b) == 4);
	/* one side ends, the other may still speak */
	CHECK_OK(gw_chan_shutdown_write(a, &err), &err);
	CHECK_OK(gw_chan_shutdown_write(a, &err), &err);
	CHECK(read_one(b) == 0);
	CHECK(gw_chan_readable(b));
	CHECK_OK(gw_chan_write(b, "x", 1, &err), &err);
	CHECK(read_one(a) == 1);
	CHECK(gw_chan_write(a, "x", 1, &err) == -EPIPE);
}

/* --- sockets ----------------------------------------------------------- */

static bool have_ipv6(void)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6,
				  .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool ok = fd >= 0 && bind(fd, (void *)&a, sizeof(a)) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static void every_socket_transport_both_ways(void)
{
	const char *uris[] = { "tcp:127.0.0.1:0",
			       "tcp::0",
			       "tcp:0:0",
			       "tcp:localhost:0",
			       "tcp:0.0.0.0:0,ipv4",
			       in_dir("unix:", "both"),
			       "tcp:[::1]:0",
			       "tcp::0,ipv6" };

	for (size_t i = 0; i < (have_ipv6() ? 8 : 6); i++) {
		struct gw_listener *l = gw_chan_listen(uris[i], &err);
		struct gw_chan *a, *b;

		if (!l)
			fprintf(stderr, "%s: %s\n", uris[i], err.msg);
		REQUIRE(l);
		REQUIRE(connect_pair(l, gw_listener_uri(l), &a, &b));
		CHECK(!strncmp(a->peer, uris[i], 4));
		CHECK(!strncmp(b->peer, uris[i], 4));
		ping_pong(a, b);
		gw_chan_close(a);
		gw_chan_close(b);
		gw_listener_close(l);
	}
}

static void any_address_serves_ipv4_and_ipv6(void)
{
	struct gw_listener *l = gw_chan_listen("tcp::0", &err);
	struct gw_chan *a, *b;
	int port;

	REQUIRE(l);
	CHECK(sscanf(gw_listener_uri(l), "tcp::%d", &port) == 1 && port > 0);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d", port);
	REQUIRE(connect_pair(l, uri, &a, &b));
	CHECK(!strcmp(a->peer, uri));
	CHECK(!strncmp(b->peer, "tcp:127.0.0.1:", 14)); /* not ::ffff: */
	gw_chan_close(a);
	gw_chan_close(b);
	if (have_ipv6()) {
		snprintf(uri, sizeof(uri), "tcp:[::1]:%d", port);
		REQUIRE(connect_pair(l, uri, &a, &b));
		CHECK(!strcmp(a->peer, uri));
		CHECK(!strncmp(b->peer, "tcp:[::1]:", 10));
		gw_chan_close(a);
		gw_chan_close(b);
	}
	gw_listener_close(l);
}

static int get_int(int fd, int level, int option)
{
	int v = -1;
	socklen_t len = sizeof(v);

	getsockopt(fd, level, option, &v, &len);
	return v;
}

static void tcp_sockets_are_tuned(void)
{
	struct gw_listener *l = gw_chan_listen("tcp:127.0.0.1:0", &err);
	struct gw_chan *a, *b;

	REQUIRE(l && connect_pair(l, gw_listener_uri(l), &a, &b));
	for (int i = 0; i < 2; i++) {
		int fd = i ? b->rfd : a->rfd;

		CHECK(get_int(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
		CHECK(get_int(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 30);
		CHECK(get_int(fd, IPPROTO_TCP, TCP_KEEPINTVL) == 10);
		CHECK(get_int(fd, IPPROTO_TCP, TCP_KEEPCNT) == 3);
		CHECK(get_int(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
		CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	}
	gw_chan_close(a);
	gw_chan_close(b);
	snprintf(uri, sizeof(uri), "%s,keep-alive=off", gw_listener_uri(l));
	REQUIRE(connect_pair(l, uri, &a, &b));
	CHECK(get_int(a->rfd, SOL_SOCKET, SO_KEEPALIVE) == 0);
	CHECK(get_int(b->rfd, SOL_SOCKET, SO_KEEPALIVE) == 1);
	gw_chan_close(a);
	gw_chan_close(b);
	gw_listener_close(l);
}

static void busy_port_names_the_uri(void)
{
	struct gw_listener *l = gw_chan_listen("tcp:127.0.0.1:0", &err), *m;
	int port;

	REQUIRE(l);
	snprintf(uri, sizeof(uri), "%s", gw_listener_uri(l));
	CHECK(!gw_chan_listen(uri, &err));
	CHECK(err.code == EADDRINUSE);
	CHECK(strstr(err.msg, uri) &&
	      strstr(err.msg, "Address already in use"));
	/* also when only one of the addresses is busy */
	CHECK(sscanf(uri, "tcp:127.0.0.1:%d", &port) == 1);
	snprintf(uri, sizeof(uri), "tcp::%d", port);
	CHECK(!gw_chan_listen(uri, &err) && err.code == EADDRINUSE);
	snprintf(uri, sizeof(uri), "tcp:localhost:%d", port);
	CHECK(!gw_chan_listen(uri, &err) && err.code == EADDRINUSE);
	/* a range goes on to the next one */
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d,to=%d", port,
		 port < 65500 ? port + 30 : port);
	m = gw_chan_listen(uri, &err);
	CHECK(m && strcmp(gw_listener_uri(m), gw_listener_uri(l)));
	gw_listener_close(m);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d,to=%d", port, port);
	CHECK(!gw_chan_listen(uri, &err) && err.code == EADDRINUSE);
	gw_listener_close(l);
}

static void busy_range_is_named(void)
{
	struct gw_listener *l[3] = { NULL };
	int port = 0;

	/* three neighbouring ports */
	for (int i = 0; i < 50 && !l[2]; i++) {
		for (int k = 0; k < 3; k++)
			gw_listener_close(l[k]);
		memset(l, 0, sizeof(l));
		l[0] = gw_chan_listen("tcp:127.0.0.1:0", &err);
		REQUIRE(l[0]);
		sscanf(gw_listener_uri(l[0]), "tcp:127.0.0.1:%d", &port);
		for (int k = 1; k < 3 && l[k - 1]; k++) {
			snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d",
				 port + k);
			l[k] = gw_chan_listen(uri, &err);
		}
	}
	REQUIRE(l[2]);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d,to=%d", port, port + 2);
	CHECK(!gw_chan_listen(uri, &err) && err.code == EADDRINUSE);
	CHECK(strstr(err.msg, "all ports from"));
	for (int k = 0; k < 3; k++)
		gw_listener_close(l[k]);
}

static void refused_is_final_and_named(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);
	int64_t t0 = gw_now_ns();

	/* bound, not listening: nobody else gets the port */
	REQUIRE(bind(fd, (void *)&a, len) == 0);
	getsockname(fd, (void *)&a, &len);
	snprintf(uri, sizeof(uri), "tcp:localhost:%d", ntohs(a.sin_port));
	CHECK(!gw_chan_connect(uri, LONG_MS, NULL, &err));
	CHECK(err.code == ECONNREFUSED && err.fault == GW_FAULT_FAILED);
	CHECK(strstr(err.msg, uri) && strstr(err.msg, "Connection refused"));
	CHECK(strstr(err.msg, "127.0.0.1"));
	CHECK(gw_now_ns() - t0 < 5 * GW_NS_PER_S);
	CHECK(!gw_chan_connect(in_dir("unix:", "nobody"), LONG_MS, NULL, &err));
	CHECK(err.code == ENOENT && strstr(err.msg, path));
	CHECK(!gw_chan_connect("tcp:127.0.0.1:no-such-service", LONG_MS, NULL,
			       &err));
	CHECK(strstr(err.msg, "no-such-service"));
	close(fd);
}

static void *cancel_soon(void *arg)
{
	usleep(60000);
	gw_cancel_request(arg);
	return NULL;
}

/* A listener whose queue is full does not answer. */
static void connect_is_ended_by_time_and_cancel(const char *at, int domain,
						void *addr, socklen_t len)
{
	int fd = socket(domain, SOCK_STREAM, 0), filler[16];
	struct gw_cancel cancel;
	pthread_t t;

	REQUIRE(bind(fd, addr, len) == 0 && listen(fd, 0) == 0);
	if (domain == AF_INET) {
		getsockname(fd, addr, &len);
		snprintf(uri, sizeof(uri), "%s%d", at,
			 ntohs(((struct sockaddr_in *)addr)->sin_port));
	} else {
		snprintf(uri, sizeof(uri), "%s", at);
	}
	for (int i = 0; i < 16; i++) {
		filler[i] = socket(domain, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)!connect(filler[i], addr, len);
	}
	usleep(20000);
	CHECK(!gw_chan_connect(uri, 100, NULL, &err));
	CHECK(err.code == ETIMEDOUT && strstr(err.msg, uri));
	REQUIRE(!gw_cancel_init(&cancel, &err));
	REQUIRE(!pthread_create(&t, NULL, cancel_soon, &cancel));
	CHECK(!gw_chan_connect(uri, -1, &cancel, &err));
	CHECK(err.code == ECANCELED && err.fault == GW_FAULT_CANCELLED);
	pthread_join(t, NULL);
	CHECK(!gw_chan_connect(uri, -1, &cancel, &err)); /* at once */
	CHECK(err.code == ECANCELED);
	gw_cancel_fini(&cancel);
	for (int i = 0; i < 16; i++)
		close(filler[i]);
	close(fd);
}

static void connect_to_a_silent_peer(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	char at[300];

	connect_is_ended_by_time_and_cancel("tcp:127.0.0.1:", AF_INET, &in,
					    sizeof(in));
	snprintf(at, sizeof(at), "%s", in_dir("unix:", "full"));
	memcpy(un.sun_path, path, strlen(path));
	connect_is_ended_by_time_and_cancel(at, AF_UNIX, &un, sizeof(un));
	unlink(un.sun_path);
}

static void accept_is_ended_by_time_and_cancel(void)
{
	struct gw_listener *l = gw_chan_listen("tcp:localhost:0", &err);
	struct gw_cancel cancel;
	pthread_t t;

	REQUIRE(l);
	CHECK(!gw_listener_accept(l, 50, NULL, &err));
	CHECK(err.code == ETIMEDOUT && strstr(err.msg, gw_listener_uri(l)));
	REQUIRE(!gw_cancel_init(&cancel, &err));
	REQUIRE(!pthread_create(&t, NULL, cancel_soon, &cancel));
	CHECK(!gw_listener_accept(l, -1, &cancel, &err));
	CHECK(err.code == ECANCELED);
	pthread_join(t, NULL);
	gw_cancel_fini(&cancel);
	gw_listener_close(l);
}

static void unix_listener_with_a_stale_file(void)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct gw_listener *l, *m;
	struct gw_chan *a, *b;
	struct stat st;
	char at[300];
	int fd;

	/* left behind by a dead process */
	snprintf(at, sizeof(at), "%s", in_dir("unix:", "stale"));
	memcpy(un.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	REQUIRE(bind(fd, (void *)&un, sizeof(un)) == 0);
	listen(fd, 1);
	close(fd);
	l = gw_chan_listen(at, &err);
	if (!l)
		fprintf(stderr, "%s\n", err.msg);
	REQUIRE(l);
	CHECK(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);
	/* alive: stays */
	CHECK(!gw_chan_listen(at, &err) && err.code == EADDRINUSE);
	CHECK(strstr(err.msg, at));
	/* the probe is a connection that went away: accept the next */
	a = gw_listener_accept(l, LONG_MS, NULL, &err);
	CHECK(a && read_one(a) == 0);
	gw_chan_close(a);
	REQUIRE(connect_pair(l, at, &a, &b));
	gw_chan_close(a);
	gw_chan_close(b);
	/* no longer ours: stays when we close */
	unlink(path);
	m = gw_chan_listen(at, &err);
	REQUIRE(m);
	gw_listener_close(l);
	CHECK(access(path, F_OK) == 0);
	gw_listener_close(m);
	CHECK(access(path, F_OK) < 0);
	/* not a socket: stays */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	CHECK(!gw_chan_listen(at, &err) && err.code == EEXIST);
	CHECK(access(path, F_OK) == 0);
	unlink(path);
}

/* --- descriptors ------------------------------------------------------- */

static void descriptors_both_ways(void)
{
	static const char *const kinds[] = { "socketpair", "pipes" };

	for (int i = 0; i < 2; i++) {
		struct gw_chan *a, *b;

		REQUIRE(open_pair(kinds[i], &a, &b));
		ping_pong(a, b);
		gw_chan_close(a);
		gw_chan_close(b);
	}
}

static void descriptors_by_uri(void)
{
	struct gw_listener *l;
	struct gw_chan *a, *b;
	int x[2];

	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, x) == 0);
	snprintf(uri, sizeof(uri), "fd:%d", x[0]);
	l = gw_chan_listen(uri, &err);
	REQUIRE(l);
	CHECK(!strcmp(gw_listener_uri(l), uri));
	snprintf(uri, sizeof(uri), "fd:%d", x[1]);
	REQUIRE(connect_pair(l, uri, &a, &b));
	ping_pong(a, b);
	CHECK(!gw_listener_accept(l, 10, NULL, &err));
	CHECK(strstr(err.msg, "taken already"));
	gw_listener_close(l);
	gw_chan_close(a);
	gw_chan_close(b);

	snprintf(uri, sizeof(uri), "fd:%d", x[0]); /* closed now */
	CHECK(!gw_chan_connect(uri, 10, NULL, &err));
	CHECK(err.code == EBADF && err.fault == GW_FAULT_USAGE);
	CHECK(strstr(err.msg, "is not open"));
	CHECK(!gw_chan_listen("fd:2000000000", &err) && err.code == EBADF);

	x[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
	snprintf(uri, sizeof(uri), "fd:%d", x[0]);
	CHECK(!gw_chan_connect(uri, 10, NULL, &err));
	CHECK(strstr(err.msg, "not a stream"));
	close(x[0]);
	x[0] = open("/", O_RDONLY);
	snprintf(uri, sizeof(uri), "fd:%d", x[0]);
	CHECK(!gw_chan_connect(uri, 10, NULL, &err) && err.code == EISDIR);
	close(x[0]);
}

static void unused_listener_releases_its_descriptor(void)
{
	struct gw_listener *l;
	int x[2];

	REQUIRE(pipe(x) == 0);
	snprintf(uri, sizeof(uri), "fd:%d", x[0]);
	l = gw_chan_listen(uri, &err);
	REQUIRE(l);
	gw_listener_close(l);
	CHECK(fcntl(x[0], F_GETFD) < 0);
	close(x[1]);
}

static void activated_socket_is_accepted_from(void)
{
	struct gw_listener *l = gw_chan_listen("tcp:127.0.0.1:0", &err), *m;
	struct gw_chan *a, *b;
	struct sockaddr_in in;
	socklen_t len = sizeof(in);
	int fd;

	gw_listener_close(l);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	memset(&in, 0, sizeof(in));
	in.sin_family = AF_INET;
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	REQUIRE(bind(fd, (void *)&in, sizeof(in)) == 0 && listen(fd, 5) == 0);
	getsockname(fd, (void *)&in, &len);
	snprintf(uri, sizeof(uri), "fd:%d", fd);
	CHECK(!gw_chan_connect(uri, 10, NULL, &err));
	CHECK(strstr(err.msg, "listening socket"));
	m = gw_chan_listen(uri, &err);
	REQUIRE(m);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%d", ntohs(in.sin_port));
	for (int i = 0; i < 2; i++) {
		REQUIRE(connect_pair(m, uri, &a, &b));
		ping_pong(a, b);
		gw_chan_close(a);
		gw_chan_close(b);
	}
	gw_listener_close(m);
}

static void one_way_descriptors_have_one_way(void)
{
	struct gw_chan *r, *w;
	int x[2];

	REQUIRE(pipe(x) == 0);
	r = fault_free(gw_chan_from_fd(x[0], "r", &err));
	w = fault_free(gw_chan_from_fd(x[1], "w", &err));
	REQUIRE(r && w);
	CHECK(gw_chan_write(r, "x", 1, &err) == -EBADF);
	CHECK(!strcmp(err.msg, "r cannot be written, only read"));
	CHECK(read_one(w) == -EBADF);
	CHECK(!strcmp(err.msg, "w cannot be read, only written"));
	CHECK_OK(gw_chan_shutdown_write(r, &err), &err);
	CHECK_OK(gw_chan_write(w, "x", 1, &err), &err);
	CHECK(read_one(r) == 1);
	gw_chan_close(w);
	CHECK(read_one(r) == 0);
	gw_chan_close(r);
	CHECK(!gw_chan_from_fds(-1, -1, "none", &err));
	CHECK(!gw_chan_from_fd(-1, "none", &err));
}

static void flags_are_put_back(void)
{
	struct gw_chan *c;
	int x[2], copy;

	REQUIRE(pipe(x) == 0);
	copy = dup(x[0]);
	c = gw_chan_from_fd(x[0], "r", &err);
	REQUIRE(c);
	CHECK(fcntl(copy, F_GETFL) & O_NONBLOCK);
	gw_chan_close(c);
	CHECK(!(fcntl(copy, F_GETFL) & O_NONBLOCK));
	close(copy);
	close(x[1]);
	/* a socket is never touched */
	REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, x) == 0);
	c = gw_chan_from_fd(x[0], "s", &err);
	REQUIRE(c);
	CHECK(!(fcntl(x[1], F_GETFL) & O_NONBLOCK));
	CHECK(!(fcntl(x[0], F_GETFL) & O_NONBLOCK));
	gw_chan_close(c);
	close(x[1]);
}

static void terminal_both_ways(void)
{
	struct gw_chan *a, *b;
	struct termios raw;
	int m, s;
	char buf[5];

	if (openpty(&m, &s, NULL, NULL, NULL) < 0)
		SKIP("no pty here");
	tcgetattr(s, &raw);
	cfmakeraw(&raw);
	tcsetattr(s, TCSANOW, &raw);
	a = fault_free(gw_chan_from_fd(m, "pty", &err));
	b = fault_free(gw_chan_from_fd(s, "tty", &err));
	REQUIRE(a && b);
	CHECK_OK(gw_chan_write(a, "ping", 4, &err), &err);
	CHECK(read_exactly(b, buf, 4) && !memcmp(buf, "ping", 4));
	CHECK_OK(gw_chan_write(b, "pong", 4, &err), &err);
	CHECK(read_exactly(a, buf, 4) && !memcmp(buf, "pong", 4));
	CHECK(gw_chan_shutdown_write(b, &err) == -ENOTSUP);
	gw_chan_close(b);
	CHECK(read_one(a) == 0); /* EIO of the kernel is the end */
	gw_chan_close(a);
}

/* In a child: standard descriptors of this program are not ours to lose. */
static void standard_descriptors_stay_open(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct gw_chan *c;
		struct stat st, null;
		int x[2];

		if (pipe(x) < 0 || dup2(x[1], 1) < 0)
			_exit(1);
		close(x[1]);
		c = gw_chan_connect("fd:1", 10, NULL, &err);
		if (!c || gw_chan_write(c, "x", 1, &err) || c->wfd < 3)
			_exit(2);
		gw_chan_close(c);
		if (read(x[0], &status, 4) != 1 || read(x[0], &status, 4))
			_exit(3); /* the end must come: nobody holds it */
		if (fstat(1, &st) || stat("/dev/null", &null) ||
		    st.st_rdev != null.st_rdev)
			_exit(4);
		_exit(0);
	}
	REQUIRE(waitpid(pid, &status, 0) == pid);
	CHECK(status == 0);
}

/* --- the ends of a wait ------------------------------------------------ */

static void idle_limits_name_peer_and_time(void)
{
	static const char *const kinds[] = { "socketpair", "pipes" };

	for (int i = 0; i < 2; i++) {
		struct gw_chan *a, *b;
		int64_t t0 = gw_now_ns();

		REQUIRE(open_pair(kinds[i], &a, &b));
		a->read_timeout_ms = 60;
		CHECK(read_one(a) == -ETIMEDOUT);
		CHECK(!strcmp(err.msg, "no byte from a for 60 ms"));
		CHECK(gw_now_ns() - t0 >= 60 * GW_NS_PER_MS);
		a->write_timeout_ms = i ? 1000 : 30;
		CHECK(write_until_failure(a) == -ETIMEDOUT);
		CHECK(!strcmp(err.msg, i ? "no byte taken by a for 1 s" :
					   "no byte taken by a for 30 ms"));
		gw_chan_close(a);
		gw_chan_close(b);
	}
}

struct trickle {
	struct gw_chan *c;
	int n;
};

static void *read_slowly(void *arg)
{
	struct trickle *t = arg;
	struct gw_error e;
	char buf[65536];
	struct iovec iov = { buf, sizeof(buf) };

	while (gw_chan_readv(t->c, &iov, 1, &e) > 0 && ++t->n)
		usleep(10000);
	return NULL;
}

/* The limit is on silence, not on the whole transfer. */
static void slow_progress_is_not_idle(void)
{
	static char big[2 << 20];
	struct gw_chan *a, *b;
	struct trickle t;
	pthread_t thread;
	int64_t t0 = gw_now_ns();

	REQUIRE(open_pair("pipes", &a, &b));
	t = (struct trickle){ b, 0 };
	a->write_timeout_ms = 200;
	REQUIRE(!pthread_create(&thread, NULL, read_slowly, &t));
	CHECK_OK(gw_chan_write(a, big, sizeof(big), &err), &err);
	CHECK(gw_now_ns() - t0 > 200 * GW_NS_PER_MS);
	gw_chan_close(a);
	pthread_join(thread, NULL);
	gw_chan_close(b);
}

static void cancel_from_another_thread(void)
{
	static const char *const kinds[] = { "socketpair", "pipes" };

	for (int i = 0; i < 4; i++) {
		struct gw_cancel cancel;
		struct gw_chan *a, *b;
		pthread_t t;

		REQUIRE(open_pair(kinds[i & 1], &a, &b));
		REQUIRE(!gw_cancel_init(&cancel, &err));
		a->cancel = &cancel;
		REQUIRE(!pthread_create(&t, NULL, cancel_soon, &cancel));
		CHECK((i & 2 ? read_one(a) : write_until_failure(a)) ==
		      -ECANCELED);
		CHECK(err.fault == GW_FAULT_CANCELLED);
		pthread_join(t, NULL);
		gw_chan_close(a);
		gw_chan_close(b);
		gw_cancel_fini(&cancel);
	}
}

static struct gw_cancel signal_cancel;

static void on_alarm(int sig)
{
	gw_cancel_request(&signal_cancel);
}

static void cancel_from_a_signal_handler(void)
{
	struct sigaction sa = { .sa_handler = on_alarm }, old;
	struct itimerval in_50ms = { .it_value.tv_usec = 50000 };
	struct gw_chan *a, *b;

	REQUIRE(open_pair("socketpair", &a, &b));
	REQUIRE(!gw_cancel_init(&signal_cancel, &err));
	a->cancel = &signal_cancel;
	sigaction(SIGALRM, &sa, &old);
	setitimer(ITIMER_REAL, &in_50ms, NULL);
	CHECK(read_one(a) == -ECANCELED);
	sigaction(SIGALRM, &old, NULL);
	gw_chan_close(a);
	gw_chan_close(b);
	gw_cancel_fini(&signal_cancel);
}

static void *shutdown_soon(void *arg)
{
	usleep(60000);
	gw_chan_shutdown(arg);
	return NULL;
}

static void shutdown_from_another_thread(void)
{
	static const char *const kinds[] = { "socketpair", "pipes" };

	for (int i = 0; i < 4; i++) {
		struct gw_chan *a, *b;
		pthread_t t;

		REQUIRE(open_pair(kinds[i & 1], &a, &b));
		a->read_timeout_ms = a->write_timeout_ms = -1;
		REQUIRE(!pthread_create(&t, NULL, shutdown_soon, a));
		CHECK((i & 2 ? read_one(a) : write_until_failure(a)) ==
		      -ESHUTDOWN);
		CHECK(!strcmp(err.msg, "connection to a was shut down"));
		pthread_join(t, NULL);
		gw_chan_shutdown(a); /* twice is fine */
		CHECK(read_one(a) == -ESHUTDOWN);
		CHECK(gw_chan_write(a, "x", 1, &err) == -ESHUTDOWN);
		CHECK(gw_chan_shutdown_write(a, &err) == -ESHUTDOWN);
		CHECK(gw_chan_readable(a));
		if (!(i & 1)) /* a socket's peer knows at once */
			CHECK(gw_chan_readable(b));
		gw_chan_close(a);
		gw_chan_close(b);
	}
}

struct stuck {
	struct gw_chan *c;
	int r;
};

static void *stuck_reader(void *arg)
{
	struct stuck *s = arg;
	struct gw_error e;
	char byte;
	struct iovec iov = { &byte, 1 };

	s->r = (int)gw_chan_readv(s->c, &iov, 1, &e);
	return NULL;
}

/* Reader and writer are inside at once; one shutdown wakes both. */
static void shutdown_wakes_both_directions(void)
{
	static const char *const kinds[] = { "socketpair", "pipes" };

	for (int i = 0; i < 2; i++) {
		struct gw_chan *a, *b;
		struct stuck s;
		pthread_t reader, t;

		REQUIRE(open_pair(kinds[i], &a, &b));
		s.c = a;
		REQUIRE(!pthread_create(&reader, NULL, stuck_reader, &s));
		REQUIRE(!pthread_create(&t, NULL, shutdown_soon, a));
		CHECK(write_until_failure(a) == -ESHUTDOWN);
		pthread_join(reader, NULL);
		pthread_join(t, NULL);
		CHECK(s.r == -ESHUTDOWN);
		gw_chan_close(a);
		gw_chan_close(b);
	}
}

static void lost_connection_names_the_peer(void)
{
	struct gw_listener *l = gw_chan_listen("tcp:127.0.0.1:0", &err);
	struct linger hard = { 1, 0 };
	struct gw_chan *a, *b;
	char want[300];

	REQUIRE(l && connect_pair(l, gw_listener_uri(l), &a, &b));
	setsockopt(b->rfd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	gw_chan_close(b); /* RST */
	CHECK(read_one(a) == -ECONNRESET);
	snprintf(want, sizeof(want),
		 "connection to %s lost: Connection reset by peer",
		 gw_listener_uri(l));
	CHECK(!strcmp(err.msg, want));
	gw_chan_close(a);
	gw_listener_close(l);
}

/* --- SIGPIPE ----------------------------------------------------------- */

static int lose_peer(const char *kind)
{
	struct gw_chan *a, *b;
	int r;

	if (!strcmp(kind, "exec")) {
		a = fault_free(
			gw_chan_connect("exec:exit 0", LONG_MS, NULL, &err));
		b = NULL;
	} else if (!open_pair(kind, &a, &b)) {
		return 0;
	}
	if (!a)
		return 0;
	gw_chan_close(b);
	r = write_until_failure(a);
	gw_chan_close(a);
	return r;
}

/* The default action of SIGPIPE is to kill this program. */
static void lost_peers_raise_no_sigpipe(void)
{
	static const char *const kinds[] = { "socketpair", "pipes", "exec" };
	sigset_t pipe_set, old, pending;

	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&pipe_set);
	sigaddset(&pipe_set, SIGPIPE);
	for (int i = 0; i < 3; i++) {
		CHECK(lose_peer(kinds[i]) == -EPIPE);
		/* blocked by the embedder: none left pending */
		pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
		CHECK(lose_peer(kinds[i]) == -EPIPE);
		sigpending(&pending);
		CHECK(!sigismember(&pending, SIGPIPE));
		/* one of somebody else's is not taken away */
		raise(SIGPIPE);
		CHECK(lose_peer(kinds[i]) == -EPIPE);
		sigpending(&pending);
		CHECK(sigismember(&pending, SIGPIPE));
		while (sigtimedwait(&pipe_set, NULL, &(struct timespec){ 0 }) <
			       0 &&
		       errno == EINTR)
			;
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
}

/* --- much data --------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define BULK_BYTES (24ULL << 20)
#else
#define BULK_BYTES (100ULL << 20)
#endif
#define BULK_BUF (4 << 20)

struct bulk {
	struct gw_chan *c;
	uint64_t seed, hash;
	const char *problem;
	struct gw_error err;
};

/* @n bytes of @buf in up to 64 pieces of random length, some of 0. */
static int cut_iov(uint8_t *buf, size_t n, struct iovec *iov, uint64_t *seed)
{
	int k = 0;

	while (n) {
		size_t piece =
			test_rand(seed) % (test_rand(seed) % 3 ? 300 : 200000);

		if (piece > n || k == 63)
			piece = n;
		iov[k++] = (struct iovec){ buf, piece };
		buf += piece;
		n -= piece;
	}
	return k;
}

static void *bulk_write(void *arg)
{
	struct bulk *b = arg;
	XXH3_state_t *h = XXH3_createState();
	uint8_t *buf = malloc(BULK_BUF);
	uint64_t left = BULK_BYTES, seed = b->seed;

	XXH3_64bits_reset(h);
	for (size_t i = 0; i < BULK_BUF; i += 8) {
		uint64_t v = test_rand(&seed);

		memcpy(buf + i, &v, 8);
	}
	while (left && !b->problem) {
		size_t at = test_rand(&seed) % (BULK_BUF / 2);
		size_t n = test_rand(&seed) % (BULK_BUF / 2) + 1;
		struct iovec iov[64];

		if (n > left)
			n = left;
		XXH3_64bits_update(h, buf + at, n);
		if (gw_chan_writev(b->c, iov, cut_iov(buf + at, n, iov, &seed),
				   &b->err))
			b->problem = "write";
		left -= n;
	}
	if (!b->problem && gw_chan_shutdown_write(b->c, &b->err))
		b->problem = "shutdown";
	b->hash = XXH3_64bits_digest(h);
	XXH3_freeState(h);
	free(buf);
	return NULL;
}

static void *bulk_read(void *arg)
{
	struct bulk *b = arg;
	XXH3_state_t *h = XXH3_createState();
	uint8_t *buf = malloc(BULK_BUF);
	uint64_t total = 0, seed = b->seed;
	ssize_t n;

	XXH3_64bits_reset(h);
	do {
		struct iovec iov[64];
		size_t want = test_rand(&seed) % BULK_BUF + 1;

		n = gw_chan_readv(b->c, iov, cut_iov(buf, want, iov, &seed),
				  &b->err);
		if (n > 0)
			XXH3_64bits_update(h, buf, (size_t)n);
		if (n > 0)
			total += (uint64_t)n;
	} while (n > 0);
	if (n < 0)
		b->problem = "read";
	else if (total != BULK_BYTES)
		b->problem = "wrong length";
	b->hash = XXH3_64bits_digest(h);
	XXH3_freeState(h);
	free(buf);
	return NULL;
}

static void bulk_both_ways(struct gw_chan *a, struct gw_chan *b, uint64_t seed)
{
	struct bulk job[4] = { { .c = a, .seed = seed },
			       { .c = b, .seed = seed + 1 },
			       { .c = b, .seed = seed + 2 },
			       { .c = a, .seed = seed + 3 } };
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		REQUIRE(!pthread_create(
			&t[i], NULL, i & 1 ? bulk_read : bulk_write, &job[i]));
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		if (job[i].problem)
			fprintf(stderr, "%d %s: %s\n", i, job[i].problem,
				job[i].err.msg);
		CHECK(!job[i].problem);
	}
	CHECK(job[0].hash == job[1].hash && job[2].hash == job[3].hash);
	CHECK(gw_chan_bytes_written(a) == BULK_BYTES);
	CHECK(gw_chan_bytes_read(a) == BULK_BYTES);
}

static void much_data_both_ways_at_once(void)
{
	const char *uris[] = { "tcp:127.0.0.1:0", in_dir("unix:", "bulk") };
	uint64_t seed = test_seed();
	struct gw_listener *l;
	struct gw_chan *a, *b;

	for (int i = 0; i < 2; i++) {
		l = gw_chan_listen(uris[i], &err);
		REQUIRE(l && connect_pair(l, gw_listener_uri(l), &a, &b));
		bulk_both_ways(a, b, seed + (uint64_t)i);
		gw_chan_close(a);
		gw_chan_close(b);
		gw_listener_close(l);
	}
	REQUIRE(open_pair("pipes", &a, &b));
	bulk_both_ways(a, b, seed + 7);
	gw_chan_close(a);
	gw_chan_close(b);
}

static void *echo_back(void *arg)
{
	struct gw_chan *c = arg;
	struct gw_error e;
	static char buf[65536];

	for (;;) {
		struct iovec iov = { buf, sizeof(buf) };
		ssize_t n = gw_chan_readv(c, &iov, 1, &e);

		if (n <= 0 || gw_chan_write(c, buf, (size_t)n, &e))
			return NULL;
	}
}

/* --- by reference -------------------------------------------------------- */

#define FILE_BYTES (16u << 20)

/* A file in memory full of @seed's numbers; the same at @mem. */
static int random_file(uint64_t seed, uint8_t **mem)
{
	int fd = memfd_create("chan-test", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, FILE_BYTES))
		return -1;
	*mem = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    0);
	for (size_t i = 0; *mem != MAP_FAILED && i < FILE_BYTES; i += 8) {
		uint64_t v = test_rand(&seed);

		memcpy(*mem + i, &v, 8);
	}
	return *mem == MAP_FAILED ? -1 : fd;
}

struct receiver {
	struct gw_chan *c;
	uint8_t *to;
	size_t len;
	bool ok;
};

static void *receive(void *arg)
{
	struct receiver *r = arg;

	r->ok = read_exactly(r->c, r->to, r->len);
	return NULL;
}

static void pieces_of_a_file_arrive(struct gw_chan *a, struct gw_chan *b,
				    int fd, const uint8_t *mem)
{
	uint8_t *got = malloc(FILE_BYTES);
	uint64_t seed = test_seed();
	size_t sent = 0;

	REQUIRE(got);
	for (int i = 0; i < 50; i++) {
		size_t at = test_rand(&seed) % FILE_BYTES;
		size_t len = 1 + test_rand(&seed) % (FILE_BYTES - at);
		struct receiver r = { b, got, len, false };
		pthread_t t;

		REQUIRE(!pthread_create(&t, NULL, receive, &r));
		CHECK_OK(gw_chan_sendfile(a, fd, at, len, &err), &err);
		pthread_join(t, NULL);
		CHECK(r.ok && !memcmp(got, mem + at, len));
		sent += len;
		CHECK(gw_chan_bytes_written(a) == sent);
	}
	free(got);
}

static void unix_sockets_carry_files_by_reference(void)
{
	struct gw_listener *l = gw_chan_listen(in_dir("unix:", "ref"), &err);
	struct gw_chan *a, *b;
	int fd, room = 0;
	socklen_t size = sizeof(room);
	uint8_t *mem, byte;

	fd = random_file(test_seed(), &mem);
	REQUIRE(fd >= 0 && l);
	REQUIRE(connect_pair(l, gw_listener_uri(l), &a, &b));
	/* 208 KiB by itself; not as root as much as wmem_max allows */
	CHECK(!getsockopt(a->wfd, SOL_SOCKET, SO_SNDBUF, &room, &size));
	CHECK(room >= 400 << 10);
	pieces_of_a_file_arrive(a, b, fd, mem);
	/* What is read is what the file has then. */
	mem[4096] = 1;
	CHECK_OK(gw_chan_sendfile(a, fd, 4096, 1, &err), &err);
	mem[4096] = 2;
	CHECK(read_exactly(b, &byte, 1) && byte == 2);
	/* More than there is; nobody reads; nobody is there any more. */
	CHECK(gw_chan_sendfile(a, fd, FILE_BYTES, 1, &err) == -EIO);
	a->write_timeout_ms = 30;
	CHECK(gw_chan_sendfile(a, fd, 0, FILE_BYTES, &err) == -ETIMEDOUT);
	gw_chan_close(b);
	signal(SIGPIPE, SIG_DFL);
	CHECK(gw_chan_sendfile(a, fd, 0, 4096, &err) == -EPIPE);
	gw_chan_shutdown(a);
	CHECK(gw_chan_sendfile(a, fd, 0, 4096, &err) == -ESHUTDOWN);
	gw_chan_close(a);
	gw_listener_close(l);
	munmap(mem, FILE_BYTES);
	close(fd);
}

static void other_channels_refuse_to_and_wrote_nothing(void)
{
	static const char *const kinds[] = { "tcp", "socketpair", "pipes" };
	struct gw_listener *l = gw_chan_listen("tcp:127.0.0.1:0", &err);
	struct gw_chan *a, *b;
	uint8_t *mem;
	int fd = random_file(1, &mem);

	REQUIRE(l && fd >= 0);
	for (int i = 0; i < 3; i++) {
		memset(&err, 0, sizeof(err));
		REQUIRE(i ? open_pair(kinds[i], &a, &b) :
			    connect_pair(l, gw_listener_uri(l), &a, &b));
		CHECK(gw_chan_sendfile(a, fd, 0, 65536, &err) == -ENOTSUP);
		CHECK(!err.code && gw_chan_bytes_written(a) == 0);
		ping_pong(a, b);
		gw_chan_close(a);
		gw_chan_close(b);
	}
	gw_listener_close(l);
	munmap(mem, FILE_BYTES);
	close(fd);
}

static void more_than_iov_max_pieces(void)
{
	static struct iovec iov[5000];
	static uint8_t out[5000], in[5000];
	struct gw_chan *a, *b;
	pthread_t t;

	REQUIRE(open_pair("socketpair", &a, &b));
	REQUIRE(!pthread_create(&t, NULL, echo_back, b));
	for (int i = 0; i < 5000; i++) {
		out[i] = (uint8_t)(i * 7 + i / 251);
		iov[i] = (struct iovec){ out + i, 1 };
	}
	CHECK_OK(gw_chan_writev(a, iov, 5000, &err), &err);
	for (int i = 0; i < 5000; i++)
		iov[i] = (struct iovec){ in + i, 1 };
	for (ssize_t n = 0; n < 5000;) {
		ssize_t r = gw_chan_readv(a, iov + n, (int)(5000 - n), &err);

		REQUIRE(r > 0);
		n += r;
	}
	CHECK(!memcmp(in, out, 5000));
	/* nothing to write is not a failure */
	CHECK_OK(gw_chan_writev(a, iov, 0, &err), &err);
	CHECK_OK(gw_chan_write(a, NULL, 0, &err), &err);
	CHECK_OK(gw_chan_shutdown_write(a, &err), &err);
	pthread_join(t, NULL);
	gw_chan_close(a);
	gw_chan_close(b);
}

static void reader_and_writer_use_a_channel(void)
{
	struct gw_chan *a, *b;
	struct gw_reader r;
	struct gw_writer w;

	REQUIRE(open_pair("socketpair", &a, &b));
	gw_writer_init(&w, gw_chan_flush, a);
	gw_write_be32(&w, 0x51455649);
	gw_write_ref(&w, "payload", 7);
	CHECK_OK(gw_write_flush(&w, &err), &err);
	CHECK_OK(gw_chan_shutdown_write(a, &err), &err);
	REQUIRE(!gw_reader_init(&r, gw_chan_refill, b, 64, &err));
	CHECK(gw_read_be32(&r) == 0x51455649);
	gw_read_skip(&r, 7);
	CHECK(!gw_read_failed(&r) && !gw_read_more(&r));
	gw_reader_fini(&r);
	gw_chan_close(a);
	gw_chan_close(b);
}

/* --- exec -------------------------------------------------------------- */

static struct gw_chan *run(const char *command)
{
	return fault_free(gw_chan_connect(command, LONG_MS, NULL, &err));
}

static void exec_both_ways(void)
{
	struct gw_listener *l = gw_chan_listen("exec:cat", &err);
	struct gw_chan *c;
	char buf[4];

	REQUIRE(l);
	c = fault_free(gw_listener_accept(l, LONG_MS, NULL, &err));
	REQUIRE(c);
	CHECK(!strcmp(c->peer, "exec:cat"));
	CHECK_OK(gw_chan_write(c, "ping", 4, &err), &err);
	CHECK(read_exactly(c, buf, 4) && !memcmp(buf, "ping", 4));
	CHECK_OK(gw_chan_shutdown_write(c, &err), &err);
	CHECK(read_one(c) == 0);
	gw_chan_close(c);
	gw_listener_close(l);
}

static void exec_status_is_the_error(void)
{
	struct gw_chan *c = run("exec:exit 3");

	REQUIRE(c);
	CHECK(read_one(c) == -EPIPE);
	CHECK(!strcmp(err.msg,
		      "exec:exit 3: the command exited with status 3"));
	CHECK(write_until_failure(c) == -EPIPE);
	CHECK(strstr(err.msg, "exited with status 3"));
	gw_chan_close(c);

	c = run("exec:kill -9 $$");
	REQUIRE(c);
	CHECK(read_one(c) == -EPIPE);
	CHECK(strstr(err.msg, "killed by signal 9"));
	gw_chan_close(c);

	c = run("exec:no-such-command-here 2>/dev/null");
	REQUIRE(c);
	CHECK(read_one(c) == -EPIPE);
	CHECK(strstr(err.msg, "status 127 (not found)"));
	gw_chan_close(c);

	c = run("exec:head -c 10 >/dev/null");
	REQUIRE(c);
	CHECK(write_until_failure(c) == -EPIPE);
	CHECK(strstr(err.msg, "before it had read everything"));
	gw_chan_close(c);

	c = run("exec:exit 0");
	REQUIRE(c);
	CHECK(read_one(c) == 0);
	gw_chan_close(c);
}

/* As exec:gzip >FILE: its stdout is closed from the start, what counts is
 * how it ends after our end. */
static void exec_that_fails_late_is_noticed(void)
{
	struct gw_chan *c =
		run("exec:exec >&-; cat >/dev/null; sleep 0.1; exit 5");

	REQUIRE(c);
	CHECK_OK(gw_chan_write(c, "data", 4, &err), &err);
	CHECK_OK(gw_chan_shutdown_write(c, &err), &err);
	CHECK(read_one(c) == -EPIPE);
	CHECK(strstr(err.msg, "status 5"));
	gw_chan_close(c);
}

static void exec_waits_obey_limits(void)
{
	struct gw_chan *c = run("exec:exec >&- sleep 0.6");
	pthread_t t;

	REQUIRE(c);
	CHECK_OK(gw_chan_shutdown_write(c, &err), &err);
	c->read_timeout_ms = 50;
	CHECK(read_one(c) == -ETIMEDOUT);
	c->read_timeout_ms = -1;
	REQUIRE(!pthread_create(&t, NULL, shutdown_soon, c));
	CHECK(read_one(c) == -ESHUTDOWN);
	pthread_join(t, NULL);
	gw_chan_close(c);
}

static void *close_it(void *arg)
{
	gw_chan_close(arg);
	return NULL;
}

static void exec_that_hangs_is_ended(void)
{
	struct gw_chan *
		c = run("exec:sleep 60"),
	       *stubborn = run(
		       "exec:trap '' TERM; echo r; while :; do sleep 0.05; done");
	int64_t t0;
	pthread_t t;

	REQUIRE(c && stubborn);
	CHECK(read_one(stubborn) == 1); /* the trap is set */
	t0 = gw_now_ns();
	REQUIRE(!pthread_create(&t, NULL, close_it, stubborn));
	gw_chan_close(c); /* 2 s, then SIGTERM */
	CHECK(gw_now_ns() - t0 > 1900 * GW_NS_PER_MS);
	CHECK(gw_now_ns() - t0 < 5 * GW_NS_PER_S);
	pthread_join(t, NULL); /* 1 s more, then SIGKILL */
	CHECK(gw_now_ns() - t0 > 2900 * GW_NS_PER_MS);
	CHECK(gw_now_ns() - t0 < 8 * GW_NS_PER_S);
}

static void exec_child_inherits_nothing(void)
{
	sigset_t all, old;
	struct gw_chan *c;
	char buf[512] = "";
	struct iovec iov = { buf, sizeof(buf) - 1 };
	int fd = dup(2); /* without CLOEXEC */

	/* as in a thread of ours, every signal blocked */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	c = run("exec:ls /proc/self/fd | wc -l; grep SigBlk /proc/self/status");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	REQUIRE(c);
	for (size_t n = 0; n < sizeof(buf) - 1;) {
		ssize_t r;

		iov = (struct iovec){ buf + n, sizeof(buf) - 1 - n };
		r = gw_chan_readv(c, &iov, 1, &err);
		if (r <= 0)
			break;
		n += (size_t)r;
	}
	CHECK(atoi(buf) == 4); /* the fourth is that of ls */
	CHECK(strstr(buf, "SigBlk:\t0000000000000000"));
	gw_chan_close(c);
	close(fd);
}

/* --- file -------------------------------------------------------------- */

static void file_write_then_read(void)
{
	struct gw_listener *l;
	struct gw_chan *c;
	struct stat st;
	char buf[16], at[300];

	snprintf(at, sizeof(at), "%s", in_dir("file:", "f"));
	c = fault_free(gw_chan_connect(at, LONG_MS, NULL, &err));
	REQUIRE(c);
	CHECK(c->storage && !strcmp(c->peer, at));
	CHECK_OK(gw_chan_write(c, "0123456789", 10, &err), &err);
	CHECK(read_one(c) == -EBADF);
	CHECK_OK(gw_chan_shutdown_write(c, &err), &err);
	gw_chan_close(c);
	CHECK(stat(path, &st) == 0 && st.st_size == 10);
	CHECK((st.st_mode & 0777) == 0600);
	/* an offset keeps what is before and cuts what is behind */
	snprintf(at, sizeof(at), "file:%s,offset=4", path);
	c = fault_free(gw_chan_connect(at, LONG_MS, NULL, &err));
	REQUIRE(c);
	CHECK_OK(gw_chan_write(c, "abc", 3, &err), &err);
	gw_chan_close(c);
	snprintf(at, sizeof(at), "file:%s,offset=2", path);
	l = gw_chan_listen(at, &err);
	REQUIRE(l);
	c = fault_free(gw_listener_accept(l, LONG_MS, NULL, &err));
	REQUIRE(c);
	CHECK(gw_chan_readable(c));
	CHECK(read_exactly(c, buf, 5) && !memcmp(buf, "23abc", 5));
	CHECK(read_one(c) == 0);
	gw_chan_close(c);
	gw_listener_close(l);
	snprintf(at, sizeof(at), "file:%s,offset=8", path);
	CHECK(!gw_chan_listen(at, &err) && err.fault == GW_FAULT_INPUT);
	CHECK(strstr(err.msg, "only 7 bytes"));
	unlink(path);
}

static void file_errors_are_named(void)
{
	CHECK(!gw_chan_listen(in_dir("file:", "absent"), &err));
	CHECK(err.code == ENOENT && strstr(err.msg, path));
	CHECK(!gw_chan_connect("file:/no/such/dir/x", 0, NULL, &err));
	CHECK(err.code == ENOENT);
	CHECK(!gw_chan_listen("file:/", &err));
	CHECK(strstr(err.msg, "is not a file"));
	in_dir("file:", "fifo");
	REQUIRE(mkfifo(path, 0600) == 0);
	CHECK(!gw_chan_listen(uri, &err) && strstr(err.msg, "FIFO"));
	CHECK(!gw_chan_connect(uri, 0, NULL, &err));
	unlink(path);
}

/* A full disk, and a file larger than allowed (SIGXFSZ would kill us). */
static void file_write_errors_are_returned(void)
{
	struct rlimit old, small = { 4096, 0 };
	struct gw_chan *c = fault_free(
		gw_chan_connect("file:/dev/full", LONG_MS, NULL, &err));

	REQUIRE(c);
	CHECK(gw_chan_write(c, "x", 1, &err) == -ENOSPC);
	CHECK(!strcmp(err.msg,
		      "writing file:/dev/full: No space left on device"));
	gw_chan_close(c);
	c = fault_free(
		gw_chan_connect(in_dir("file:", "big"), LONG_MS, NULL, &err));
	REQUIRE(c);
	getrlimit(RLIMIT_FSIZE, &old);
	small.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_FSIZE, &small);
	CHECK(write_until_failure(c) == -EFBIG);
	setrlimit(RLIMIT_FSIZE, &old);
	gw_chan_close(c);
	unlink(path);
}

/* --- ------------------------------------------------------------------- */

static void bad_uris_open_nothing(void)
{
	CHECK(!gw_chan_connect("tpc:host:1", LONG_MS, NULL, &err));
	CHECK(err.fault == GW_FAULT_USAGE);
	CHECK(!gw_chan_listen("tcp:::1:4444", &err));
	CHECK(!gw_chan_connect("tcp:127.0.0.1:0", LONG_MS, NULL, &err));
	CHECK(strstr(err.msg, "port 0"));
	CHECK(!gw_chan_connect("tcp:127.0.0.1:1,to=2", LONG_MS, NULL, &err));
	gw_chan_close(NULL);
	gw_listener_close(NULL);
	/* without anybody to tell */
	CHECK(!gw_chan_connect("nonsense", 0, NULL, NULL));
	CHECK(!gw_chan_connect("tcp:127.0.0.1:1", 100, NULL, NULL));
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!mkdtemp(dir))
		return 1;
	CASE(every_socket_transport_both_ways);
	CASE(any_address_serves_ipv4_and_ipv6);
	CASE(tcp_sockets_are_tuned);
	CASE(busy_port_names_the_uri);
	CASE(busy_range_is_named);
	CASE(refused_is_final_and_named);
	CASE(connect_to_a_silent_peer);
	CASE(accept_is_ended_by_time_and_cancel);
	CASE(unix_listener_with_a_stale_file);
	CASE(descriptors_both_ways);
	CASE(descriptors_by_uri);
	CASE(unused_listener_releases_its_descriptor);
	CASE(activated_socket_is_accepted_from);
	CASE(one_way_descriptors_have_one_way);
	CASE(flags_are_put_back);
	CASE(terminal_both_ways);
	CASE(standard_descriptors_stay_open);
	CASE(idle_limits_name_peer_and_time);
	CASE(slow_progress_is_not_idle);
	CASE(cancel_from_another_thread);
	CASE(cancel_from_a_signal_handler);
	CASE(shutdown_from_another_thread);
	CASE(shutdown_wakes_both_directions);
	CASE(lost_connection_names_the_peer);
	CASE(lost_peers_raise_no_sigpipe);
	CASE(much_data_both_ways_at_once);
	CASE(unix_sockets_carry_files_by_reference);
	CASE(other_channels_refuse_to_and_wrote_nothing);
	CASE(more_than_iov_max_pieces);
	CASE(reader_and_writer_use_a_channel);
	CASE(exec_both_ways);
	CASE(exec_status_is_the_error);
	CASE(exec_that_fails_late_is_noticed);
	CASE(exec_waits_obey_limits);
	CASE(exec_that_hangs_is_ended);
	CASE(exec_child_inherits_nothing);
	CASE(file_write_then_read);
	CASE(file_errors_are_named);
	CASE(file_write_errors_are_returned);
	CASE(bad_uris_open_nothing);
	CHECK(rmdir(dir) == 0);
	return test_done();
}
