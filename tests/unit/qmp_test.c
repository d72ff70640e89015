/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_test.c - the QMP client against a scripted server at the other end of
 * a socket pair, which can do what no QEMU does; and against a real QEMU.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "vm/qemu/qmp.h"

#define GREETING                                                            \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, "  \
	"\"major\": 10}, \"package\": \"Debian\"}, \"capabilities\": "      \
	"[\"oob\"]}}\r\n"
#define OK1 "{\"return\": {}, \"id\": 1}\r\n"
#define HELLO                                                               \
	{ SEND, GREETING }, { READ, "qmp_capabilities" }, { SEND, OK1 }
#define EVENT(name, data)                                                   \
	"{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 7}, "  \
	"\"event\": \"" name "\", \"data\": " data "}\r\n"

enum what {
	END,   /* wait for the client to hang up */
	SEND,  /* text */
	BYTES, /* text, one byte at a time */
	READ,  /* a command that has text in it */
	FD,    /* the same, with a descriptor of /dev/null */
	PAUSE, /* 60 ms */
	FLOOD, /* text, 300 times */
	HUGE_, /* a message of more than 64 MiB */
	CLOSE,
};

struct step {
	enum what what;
	const char *text;
};

struct server {
	int fd;
	const struct step *script;
	bool ok;
	pthread_t thread;
};

static bool put(int fd, const char *p, size_t n)
{
	ssize_t k = 0;

	for (; n && k >= 0; p += k, n -= (size_t)k)
		k = send(fd, p, n, MSG_NOSIGNAL);
	return k >= 0;
}

static bool put_bytes(int fd, const char *s)
{
	for (; *s; s++)
		if (!put(fd, s, 1))
			return false;
	return true;
}

static bool put_huge(int fd)
{
	static char blanks[1 << 16];
	bool ok = put(fd, "{\"return\": \"", 12);

	memset(blanks, ' ', sizeof(blanks));
	for (int i = 0; ok && i < 1100; i++)
		ok = put(fd, blanks, sizeof(blanks));
	return true; /* the client hangs up in the middle */
}

static bool take_command(int fd, const char *want, bool with_fd)
{
	char control[CMSG_SPACE(sizeof(int))], line[4096] = "";
	size_t n = 0;
	int got = -1;

	while (n < sizeof(line) - 1 && (!n || line[n - 1] != '\n')) {
		struct iovec iov = { line + n, 1 };
		struct msghdr m = { .msg_iov = &iov,
				    .msg_iovlen = 1,
				    .msg_control = control,
				    .msg_controllen = sizeof(control) };

		if (recvmsg(fd, &m, 0) != 1)
			return false;
		if (CMSG_FIRSTHDR(&m))
			memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)),
			       sizeof(got));
		n++;
	}
	if (got >= 0)
		close(got);
	if (!strstr(line, want))
		fprintf(stderr, "server: wanted %s, got %s", want ? want : "-",
			line);
	return strstr(line, want) && with_fd == (got >= 0);
}

static bool play(int fd, const struct step *s)
{
	struct timespec pause = { .tv_nsec = 60 * 1000 * 1000 };
	char c;

	switch (s->what) {
	case SEND:
		return put(fd, s->text, strlen(s->text));
	case BYTES:
		return put_bytes(fd, s->text);
	case READ:
	case FD:
		return take_command(fd, s->text, s->what == FD);
	case PAUSE:
		return !nanosleep(&pause, NULL);
	case FLOOD:
		for (int i = 0; i < 300; i++)
			if (!put(fd, s->text, strlen(s->text)))
				return false;
		return true;
	case HUGE_:
		return put_huge(fd);
	case CLOSE:
		return !shutdown(fd, SHUT_RDWR);
	default:
		while (recv(fd, &c, 1, 0) == 1)
			;
		return true;
	}
}

static void *serve(void *arg)
{
	struct server *s = arg;
	const struct step *step = s->script;

	s->ok = true;
	for (; s->ok && step->what != END; step++)
		s->ok = play(s->fd, step);
	if (s->ok)
		play(s->fd, step);
	close(s->fd);
	return NULL;
}

static struct gw_error err;

static struct gw_qmp *start(struct server *s, const struct step *script,
			    int timeout_ms, const struct gw_cancel *c)
{
	int pair[2];

	memset(&err, 0, sizeof(err));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		abort();
	s->fd = pair[1];
	s->script = script;
	if (pthread_create(&s->thread, NULL, serve, s))
		abort();
	return gw_qmp_open_fd(pair[0], "(test)", timeout_ms, c, &err);
}

static void stop(struct server *s, struct gw_qmp *q)
{
	gw_qmp_close(q);
	pthread_join(s->thread, NULL);
	CHECK(s->ok);
}

static void greeting_tells_the_version(void)
{
	static const struct step script[] = { HELLO, { END, 0 } };
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);

	CHECK(q != NULL);
	if (q) {
		const struct gw_qmp_version *v = gw_qmp_version(q);

		CHECK(v->major == 10 && v->minor == 0 && v->micro == 2);
		CHECK(!strcmp(v->package, "Debian"));
	}
	stop(&s, q);
}

static void fragments_pretty_form_and_events_between(void)
{
	static const struct step script[] = {
		{ BYTES, GREETING },
		{ READ, "qmp_capabilities" },
		{ SEND, EVENT("A", "{}") "{\n  \"return\": {\n" },
		{ PAUSE, 0 },
		{ SEND, "  },\n \"id\"" },
		{ SEND, ": 1\n}" EVENT("STOP", "{\"x\": \"}{][\\\"\\\\\"}") },
		{ READ, "\"arguments\":{\"uri\":\"unix:/x\"}" },
		{ BYTES, EVENT("B", "null") "{\"id\": 2, \"return\": [1]}" },
		{ END, 0 },
	};
	static const char *const stop_only[] = { "RESUME", "STOP", NULL };
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);
	struct gw_qmp_event e;
	json_t *v;

	REQUIRE(q != NULL);
	v = gw_qmp_cmd(q, 2000, &err, "migrate", "{s:s}", "uri", "unix:/x");
	CHECK(json_is_array(v));
	json_decref(v);
	CHECK_OK(gw_qmp_wait_event(q, stop_only, 0, &e, &err), &err);
	CHECK(!strcmp(e.name, "STOP"));
	CHECK(e.realtime_us == 1700000000000007 && e.received_ns > 0);
	CHECK(!strcmp(json_string_value(json_object_get(e.data, "x")),
		      "}{][\"\\"));
	gw_qmp_event_fini(&e);
	CHECK(gw_qmp_wait_event(q, stop_only, 0, &e, &err) == -ETIMEDOUT);
	CHECK_OK(gw_qmp_wait_event(q, NULL, 0, &e, &err), &err);
	CHECK(!strcmp(e.name, "A"));
	gw_qmp_event_fini(&e);
	CHECK(gw_qmp_poll(q, &err) == 1);
	stop(&s, q);
}

static void errors_carry_class_and_text(void)
{
	static const struct step script[] = {
		HELLO,
		{ READ, "migrate" },
		{ SEND, "{\"id\":2,\"error\":{\"class\":\"GenericError\",\"desc\":\"no way\"}}" },
		{ READ, "frobnicate" },
		{ SEND, "{\"id\":3,\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"unknown\"}}" },
		{ READ, "cont" },
		{ SEND, "{\"error\":{\"class\":\"GenericError\",\"desc\":\"JSON parse error\"}}" },
		{ READ, "stop" },
		{ SEND, "{\"id\":5,\"return\":{}}" },
		{ END, 0 },
	};
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);

	REQUIRE(q != NULL);
	CHECK(gw_qmp_do(q, 2000, &err, "migrate", NULL) == -EREMOTEIO);
	CHECK(!strcmp(err.msg, "QMP command 'migrate': no way"));
	CHECK(gw_qmp_do(q, 2000, &err, "frobnicate", NULL) == -ENOSYS);
	CHECK(strstr(err.msg, "unknown (CommandNotFound)"));
	CHECK(gw_qmp_do(q, 2000, &err, "cont", NULL) == -EREMOTEIO);
	CHECK_OK(gw_qmp_do(q, 2000, &err, "stop", NULL), &err);
	CHECK(gw_qmp_do(q, 2000, &err, "x", "{s:s}", "a", "\xff") == -EINVAL);
	stop(&s, q);
}

static void late_replies_are_dropped(void)
{
	static const struct step script[] = {
		HELLO,
		{ READ, "slow" },
		{ PAUSE, 0 },
		{ SEND, "{\"id\":2,\"return\":\"late\"}" },
		{ READ, "fast" },
		{ SEND, "{\"id\":2,\"return\":\"later\"}{\"id\":3,\"return\":\"now\"}" },
		{ END, 0 },
	};
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);
	json_t *v;

	REQUIRE(q != NULL);
	CHECK(gw_qmp_do(q, 5, &err, "slow", NULL) == -ETIMEDOUT);
	CHECK(strstr(err.msg, "'slow': no answer from QEMU within 5 ms"));
	v = gw_qmp_cmd(q, 2000, &err, "fast", NULL);
	CHECK(v && !strcmp(json_string_value(v), "now"));
	json_decref(v);
	stop(&s, q);
}

static void a_command_is_sent_and_answered_later(void)
{
	static const struct step script[] = {
		HELLO,
		{ READ, "first" },
		{ SEND, EVENT("STOP", "{}") },
		{ SEND, "{\"id\":2,\"return\":{}}" },
		{ READ, "second" },
		{ SEND, "{\"id\":3,\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}" },
		{ READ, "given up" },
		{ READ, "another" },
		{ SEND, "{\"id\":4,\"return\":{}}{\"id\":5,\"return\":\"it\"}" },
		{ READ, "never" },
		{ END, 0 },
	};
	struct gw_qmp_event e;
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);
	json_t *v;

	REQUIRE(q != NULL);
	CHECK_OK(gw_qmp_send(q, &err, "first", "{s:i}", "a", 1), &err);
	CHECK_OK(gw_qmp_wait_event(q, NULL, 2000, &e, &err), &err);
	gw_qmp_event_fini(&e);
	CHECK_OK(gw_qmp_reply(q, 2000, &err), &err);
	CHECK_OK(gw_qmp_send(q, &err, "second", NULL), &err);
	CHECK(gw_qmp_reply(q, 2000, &err) == -EREMOTEIO);
	CHECK(strstr(err.msg, "no"));
	CHECK_OK(gw_qmp_send(q, &err, "given up", NULL), &err);
	v = gw_qmp_cmd(q, 2000, &err, "another", NULL);
	CHECK(v && !strcmp(json_string_value(v), "it"));
	json_decref(v);
	CHECK_OK(gw_qmp_send(q, &err, "never", NULL), &err);
	CHECK(gw_qmp_reply(q, 20, &err) == -ETIMEDOUT);
	CHECK(gw_qmp_send(q, &err, "never", "{s:") == -EINVAL);
	stop(&s, q);
}

static void a_descriptor_goes_with_its_command(void)
{
	static const struct step script[] = { HELLO,
					      { FD, "getfd" },
					      { SEND, "{\"id\":2,\"return\":{}}" },
					      { END, 0 } };
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	json_t *args = json_pack("{s:s}", "fdname", "x");

	if (q)
		json_decref(gw_qmp_cmd_json(q, 2000, fd, "getfd", args, &err));
	CHECK(!gw_error_is_set(&err));
	json_decref(args);
	close(fd);
	stop(&s, q);
}

/* What comes instead of the reply to a command, and what that must say. */
static void every_end_of_the_connection_is_final(void)
{
	static const struct {
		struct step step;
		int code;
		const char *text;
	} table[] = {
		{ { CLOSE, 0 }, ECONNRESET, "QEMU went away" },
		{ { SEND, "hello" }, EPROTO, "no JSON object" },
		{ { SEND, "[1]" }, EPROTO, "a list" },
		{ { SEND, "{\"return\": }" }, EPROTO, "not QMP" },
		{ { SEND, "{\"return\": [1}, \"id\": 2]" }, EPROTO, "not QMP" },
		{ { SEND, "{\"retrun\": 1}" }, EPROTO, "neither a reply" },
		{ { SEND, GREETING }, EPROTO, "second greeting" },
		{ { SEND, "{\"a\": \"\xff\xfe\"}" }, EPROTO, "not QMP" },
		{ { HUGE_, 0 }, EPROTO, "64 MiB" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		const struct step script[] = { HELLO,
					       { READ, "query" },
					       table[i].step,
					       { END, 0 } };
		struct server s;
		struct gw_qmp *q = start(&s, script, 2000, NULL);
		struct gw_qmp_event e;

		REQUIRE(q != NULL);
		CHECK(!gw_qmp_cmd(q, 20000, &err, "query", NULL));
		CHECK(err.code == table[i].code);
		CHECK(strstr(err.msg, table[i].text));
		CHECK(gw_qmp_do(q, 10, NULL, "x", NULL) == -table[i].code);
		CHECK(gw_qmp_poll(q, NULL) == -table[i].code);
		CHECK(gw_qmp_wait_event(q, NULL, 0, &e, NULL) ==
		      -table[i].code);
		stop(&s, q);
	}
}

static void deep_nesting_is_refused(void)
{
	char text[4 * GW_QMP_MAX_NESTING] = "{\"return\": ";
	const struct step script[] = { HELLO,
				       { READ, "query" },
				       { SEND, text },
				       { END, 0 } };
	struct server s;
	struct gw_qmp *q;

	memset(text + strlen(text), '[', GW_QMP_MAX_NESTING + 1);
	q = start(&s, script, 2000, NULL);
	REQUIRE(q != NULL);
	CHECK(!gw_qmp_cmd(q, 2000, &err, "query", NULL));
	CHECK(strstr(err.msg, "nested too deep"));
	stop(&s, q);
}

static void a_silent_monitor_is_busy(void)
{
	static const struct step script[] = { { END, 0 } };
	struct server s;
	struct gw_qmp *q = start(&s, script, 30, NULL);

	CHECK(!q && err.code == EBUSY);
	CHECK(strstr(err.msg, "another client holds it"));
	stop(&s, q);
}

static void something_else_than_qmp_greets(void)
{
	static const struct step scripts[][2] = {
		{ { SEND, "SSH-2.0-OpenSSH\r\n" }, { END, 0 } },
		{ { SEND, "{\"QMP\": {\"version\": 3}}" }, { END, 0 } },
		{ { SEND, "{\"return\": {}}" }, { END, 0 } },
	};

	for (size_t i = 0; i < sizeof(scripts) / sizeof(*scripts); i++) {
		struct server s;
		struct gw_qmp *q = start(&s, scripts[i], 2000, NULL);

		CHECK(!q && err.code == EPROTO);
		stop(&s, q);
	}
}

static void the_queue_keeps_what_matters(void)
{
	static const struct step script[] = {
		HELLO,
		{ SEND, EVENT("STOP", "{}") },
		{ FLOOD, EVENT("RTC_CHANGE", "{}") },
		{ SEND, EVENT("RESUME", "{}") },
		{ READ, "sync" },
		{ SEND, "{\"id\":2,\"return\":{}}" },
		{ FLOOD, EVENT("MIGRATION", "{}") },
		{ READ, "sync" },
		{ SEND, "{\"id\":3,\"return\":{}}" },
		{ END, 0 },
	};
	static const char *const want[] = { "STOP", "RESUME", NULL };
	struct server s;
	struct gw_qmp *q = start(&s, script, 2000, NULL);
	struct gw_qmp_event e = { 0 };

	REQUIRE(q != NULL);
	CHECK_OK(gw_qmp_do(q, 2000, &err, "sync", NULL), &err);
	CHECK_OK(gw_qmp_wait_event(q, want, 0, &e, &err), &err);
	CHECK(!strcmp(e.name, "STOP"));
	gw_qmp_event_fini(&e);
	CHECK_OK(gw_qmp_wait_event(q, want, 0, &e, &err), &err);
	CHECK(!strcmp(e.name, "RESUME"));
	gw_qmp_event_fini(&e);
	CHECK_OK(gw_qmp_do(q, 2000, &err, "sync", NULL), &err);
	CHECK(gw_qmp_wait_event(q, want, 0, &e, &err) == -EOVERFLOW);
	CHECK_OK(gw_qmp_wait_event(q, NULL, 0, &e, &err), &err);
	CHECK(!strcmp(e.name, "MIGRATION"));
	gw_qmp_event_fini(&e);
	gw_qmp_drop_events(q);
	CHECK(gw_qmp_poll(q, &err) == 0);
	stop(&s, q);
}

static void *cancel_soon(void *c)
{
	struct timespec pause = { .tv_nsec = 40 * 1000 * 1000 };

	nanosleep(&pause, NULL);
	gw_cancel_request(c);
	return NULL;
}

static void cancel_ends_a_wait(void)
{
	static const struct step script[] = { HELLO, { READ, "hang" }, { END, 0 } };
	int64_t t = gw_now_ns();
	struct gw_cancel c;
	struct server s;
	struct gw_qmp *q;
	pthread_t th;

	CHECK_OK(gw_cancel_init(&c, &err), &err);
	q = start(&s, script, 2000, &c);
	REQUIRE(q != NULL);
	pthread_create(&th, NULL, cancel_soon, &c);
	CHECK(gw_qmp_do(q, 60000, &err, "hang", NULL) == -ECANCELED);
	CHECK(err.fault == GW_FAULT_CANCELLED);
	CHECK(gw_now_ns() - t < 20 * GW_NS_PER_S);
	pthread_join(th, NULL);
	stop(&s, q);
	gw_cancel_fini(&c);
}

/* --- sockets with a name --------------------------------------------------- */

static void set_path(struct sockaddr_un *a)
{
	a->sun_family = AF_UNIX;
	snprintf(a->sun_path, sizeof(a->sun_path), "/tmp/gw-qmp-test-%d.sock",
		 getpid());
	unlink(a->sun_path);
}

static void nobody_listens(void)
{
	struct sockaddr_un a;
	char longer[200];
	int fd;

	set_path(&a);
	CHECK(!gw_qmp_open(a.sun_path, 1000, NULL, &err));
	CHECK(err.code == ENOENT && strstr(err.msg, "no QEMU listens at"));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(!bind(fd, (struct sockaddr *)&a, sizeof(a)));
	CHECK(!gw_qmp_open(a.sun_path, 1000, NULL, &err));
	CHECK(err.code == ECONNREFUSED);
	CHECK(!listen(fd, 0));
	/* the first is queued, the second finds no place */
	CHECK(!gw_qmp_open(a.sun_path, 30, NULL, &err) && err.code == EBUSY);
	CHECK(!gw_qmp_open(a.sun_path, 30, NULL, &err) && err.code == EBUSY);
	close(fd);
	unlink(a.sun_path);
	memset(longer, 'a', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	CHECK(!gw_qmp_open(longer, 30, NULL, &err));
	CHECK(err.code == ENAMETOOLONG);
}

static struct gw_qmp *connect_soon(const char *path)
{
	struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	struct gw_qmp *q = NULL;

	for (int i = 0; i < 500 && !q; i++) {
		q = gw_qmp_open(path, 10000, NULL, &err);
		if (!q)
			nanosleep(&pause, NULL);
	}
	return q;
}

static pid_t start_qemu(const char *path)
{
	const char *qemu = getenv("QEMU");
	char arg[200];
	pid_t pid;

	if (!qemu)
		qemu = "qemu-system-x86_64";
	snprintf(arg, sizeof(arg), "unix:%s,server=on,wait=off", path);
	pid = fork();
	if (pid == 0) {
		execlp(qemu, qemu, "-machine", "none", "-nodefaults",
		       "-display", "none", "-qmp", arg, (char *)NULL);
		_exit(77);
	}
	return pid;
}

static void real_qemu(void)
{
	static const char *const names[] = { "STOP", "RESUME", NULL };
	struct sockaddr_un a;
	struct gw_qmp_event e;
	struct gw_qmp *q;
	json_t *v;
	pid_t pid;
	int status;

	set_path(&a);
	pid = start_qemu(a.sun_path);
	usleep(50000);
	if (waitpid(pid, &status, WNOHANG) == pid)
		SKIP("no QEMU here (set QEMU=)");
	q = connect_soon(a.sun_path);
	REQUIRE(q != NULL);
	CHECK(gw_qmp_version(q)->major >= 7);
	CHECK(gw_qmp_peer_pid(q) == pid);
	CHECK(!gw_qmp_open(a.sun_path, 100, NULL, &err) && err.code == EBUSY);
	CHECK_OK(gw_qmp_do(q, 5000, &err, "stop", NULL), &err);
	CHECK_OK(gw_qmp_wait_event(q, names, 5000, &e, &err), &err);
	CHECK(!strcmp(e.name, "STOP") && e.realtime_us > 0);
	gw_qmp_event_fini(&e);
	v = gw_qmp_cmd(q, 20000, &err, "query-qmp-schema", NULL);
	CHECK(json_array_size(v) > 100);
	json_decref(v);
	CHECK(gw_qmp_do(q, 5000, &err, "no-such-thing", NULL) == -ENOSYS);
	CHECK(gw_qmp_do(q, 5000, &err, "stop", "{s:i}", "x", 1) == -EREMOTEIO);
	CHECK_OK(gw_qmp_do(q, 5000, &err, "quit", NULL), &err);
	CHECK(gw_qmp_wait_event(q, names, 10000, &e, &err) == -ECONNRESET);
	CHECK(strstr(err.msg, "QEMU went away"));
	gw_qmp_close(q);
	waitpid(pid, &status, 0);
	unlink(a.sun_path);
}

int main(void)
{
	RUN(greeting_tells_the_version);
	RUN(fragments_pretty_form_and_events_between);
	RUN(errors_carry_class_and_text);
	RUN(late_replies_are_dropped);
	RUN(a_command_is_sent_and_answered_later);
	RUN(a_descriptor_goes_with_its_command);
	RUN(every_end_of_the_connection_is_final);
	RUN(deep_nesting_is_refused);
	RUN(a_silent_monitor_is_busy);
	RUN(something_else_than_qmp_greets);
	RUN(the_queue_keeps_what_matters);
	RUN(cancel_ends_a_wait);
	RUN(nobody_listens);
	RUN(real_qemu);
	return test_done();
}
