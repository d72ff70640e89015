/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp.c - see qmp.h.
 *
 *	socket --fill()--> buf --next_end()--> one message --dispatch()-->
 *		reply of the current command | event queue | dropped
 *
 * A message ends where its outermost brace closes, so both QEMU's one-line
 * form and the "pretty" one are understood.
 */
#include "vm/qemu/qmp.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"

#define GW_LOG_MODULE "vm"
#include "base/log.h"

#define FIRST_BUFFER (16u << 10)
#define BUSY_RETRY_MS 20
#define SEND_TIMEOUT_MS 10000 /* QEMU reads its monitor */

struct gw_qmp {
	/* set once by open */
	int fd;
	const struct gw_cancel *cancel;
	char name[PATH_MAX]; /* of the monitor, for messages */
	struct gw_qmp_version version;

	/* incoming bytes [start, end) of buf; [start, scan) are scanned */
	char *buf;
	size_t cap, start, scan, end;
	int depth; /* of braces and brackets at scan */
	bool in_string, escaped;

	/* the command under way */
	json_int_t id;
	json_t *reply; /* the whole message, once it is here */

	struct gw_qmp_event event[GW_QMP_MAX_EVENTS]; /* a ring */
	unsigned int first, nevents;
	bool lost; /* one that must not be missed was dropped */

	struct gw_error broken; /* sticky */
};

/* Every later call fails with this. */
#define broken(q, err, fault, code, ...)                                    \
	(gw_fail_as(&(q)->broken, fault, code, __VA_ARGS__), check(q, err))

static int check(const struct gw_qmp *q, struct gw_error *err)
{
	if (!gw_error_is_set(&q->broken))
		return 0;
	if (err)
		*err = q->broken;
	return -q->broken.code;
}

static int garbage(struct gw_qmp *q, struct gw_error *err, const char *what)
{
	return broken(q, err, GW_FAULT_FAILED, EPROTO,
		      "what QEMU's monitor %s sent is not QMP: %s", q->name,
		      what);
}

/* Wait for POLLIN or POLLOUT. Return: 0, or -errno without text. */
static int wait_io(struct gw_qmp *q, short events, int64_t deadline)
{
	return gw_wait_fd(q->fd, events, deadline, q->cancel);
}

static int make_room(struct gw_qmp *q, struct gw_error *err)
{
	size_t used = q->end - q->start;
	char *p;

	if (q->start) {
		memmove(q->buf, q->buf + q->start, used);
		q->scan -= q->start;
		q->end = used;
		q->start = 0;
	}
	if (q->end < q->cap)
		return 0;
	if (q->cap >= GW_QMP_MAX_MESSAGE)
		return garbage(q, err, "a message of more than 64 MiB");
	p = realloc(q->buf, q->cap ? 2 * q->cap : FIRST_BUFFER);
	if (!p)
		return broken(q, err, GW_FAULT_FAILED, ENOMEM,
			      "no memory for a QMP message of %zu bytes",
			      used);
	q->buf = p;
	q->cap = q->cap ? 2 * q->cap : FIRST_BUFFER;
	return 0;
}

/* Read once, without waiting. Return: 0, -EAGAIN, or the sticky error. */
static int fill(struct gw_qmp *q, struct gw_error *err)
{
	ssize_t n;

	if (make_room(q, err))
		return check(q, err);
	n = recv(q->fd, q->buf + q->end, q->cap - q->end, MSG_DONTWAIT);
	if (n > 0) {
		q->end += (size_t)n;
		return 0;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	return broken(q, err, GW_FAULT_FAILED, ECONNRESET,
		      "QEMU went away: its monitor %s was closed%s", q->name,
		      q->end > q->start ? " in the middle of a message" : "");
}

/*
 * Scan on, up to the end of the outermost object. Brackets are only counted:
 * the JSON parser finds those that do not match.
 * Return: 1 a message is [start, scan), 0 more is needed, or -EPROTO.
 */
static int next_end(struct gw_qmp *q, struct gw_error *err)
{
	while (q->scan < q->end) {
		char c = q->buf[q->scan++];

		if (q->in_string) {
			if (q->escaped)
				q->escaped = false;
			else if (c == '\\')
				q->escaped = true;
			else if (c == '"')
				q->in_string = false;
		} else if (c == '{' || c == '[') {
			if (q->depth == 0 && c == '[')
				return garbage(q, err, "a list");
			if (++q->depth > GW_QMP_MAX_NESTING)
				return garbage(q, err, "nested too deep");
		} else if (q->depth == 0) {
			if (!c || !strchr(" \t\r\n", c))
				return garbage(q, err, "no JSON object");
			q->start = q->scan;
		} else if (c == '}' || c == ']') {
			if (--q->depth == 0)
				return 1;
		} else if (c == '"') {
			q->in_string = true;
		}
	}
	return 0;
}

static bool must_not_miss(const char *name)
{
	static const char *const names[] = { "STOP", "RESUME", "SHUTDOWN",
					     "MIGRATION" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

static struct gw_qmp_event *event_at(struct gw_qmp *q, unsigned int i)
{
	return &q->event[(q->first + i) % GW_QMP_MAX_EVENTS];
}

/* Take the @i-th queued event out, keeping the order of the others. */
static void event_take(struct gw_qmp *q, unsigned int i,
		       struct gw_qmp_event *out)
{
	*out = *event_at(q, i);
	for (; i > 0; i--)
		*event_at(q, i) = *event_at(q, i - 1);
	q->first = (q->first + 1) % GW_QMP_MAX_EVENTS;
	q->nevents--;
}

/* The queue is full: the oldest goes that may be missed, else the oldest. */
static void event_make_room(struct gw_qmp *q)
{
	struct gw_qmp_event old;
	unsigned int i = 0;

	while (i < q->nevents && must_not_miss(event_at(q, i)->name))
		i++;
	if (i == q->nevents) {
		q->lost = true;
		i = 0;
	}
	event_take(q, i, &old);
	gw_qmp_event_fini(&old);
}

static void event_add(struct gw_qmp *q, const char *name, json_t *msg)
{
	struct gw_qmp_event e = { .realtime_us = -1,
				  .received_ns = gw_now_ns() };
	json_int_t s, us;

	if (q->nevents == GW_QMP_MAX_EVENTS)
		event_make_room(q);
	snprintf(e.name, sizeof(e.name), "%s", name);
	if (!json_unpack(msg, "{s:{s:I,s:I}}", "timestamp", "seconds", &s,
			 "microseconds", &us) &&
	    s >= 0 && s < INT64_MAX / 2000000 && us >= 0 && us < 1000000)
		e.realtime_us = s * 1000000 + us;
	e.data = json_incref(json_object_get(msg, "data"));
	*event_at(q, q->nevents++) = e;
}

/* Whose reply is it? One without an id answers a command QEMU could not
 * parse, that is the current one. */
static bool is_reply_to(const json_t *msg, json_int_t id)
{
	const json_t *v = json_object_get(msg, "id");

	return !v || (json_is_integer(v) && json_integer_value(v) == id);
}

/* Sort one message. Takes @msg over. */
static int dispatch(struct gw_qmp *q, json_t *msg, struct gw_error *err)
{
	const char *event = json_string_value(json_object_get(msg, "event"));
	int r = 0;

	if (event)
		event_add(q, event, msg);
	else if (!json_object_get(msg, "return") &&
		 !json_object_get(msg, "error") && !json_object_get(msg, "QMP"))
		r = garbage(q, err, "neither a reply nor an event");
	else if (!q->reply && is_reply_to(msg, q->id))
		q->reply = json_incref(msg);
	json_decref(msg);
	return r;
}

/* Handle every complete message of the buffer. */
static int digest(struct gw_qmp *q, struct gw_error *err)
{
	json_error_t je;
	json_t *msg;
	int r;

	while ((r = next_end(q, err)) == 1) {
		msg = json_loadb(q->buf + q->start, q->scan - q->start, 0,
				 &je);
		q->start = q->scan;
		if (!msg)
			return garbage(q, err, je.text);
		if (dispatch(q, msg, err))
			return check(q, err);
	}
	return r;
}

/* Read and sort what is there; if that is nothing, wait for something.
 * Return: 0, -ETIMEDOUT or -ECANCELED without text, or the sticky error. */
static int advance(struct gw_qmp *q, int64_t deadline, struct gw_error *err)
{
	int r = fill(q, err);

	if (r == -EAGAIN) {
		r = wait_io(q, POLLIN, deadline);
		return r == -ETIMEDOUT || r == -ECANCELED || !r ?
			       r :
			       broken(q, err, GW_FAULT_FAILED, -r,
				      "poll of %s: %s", q->name, strerror(-r));
	}
	return r ? r : digest(q, err);
}

static int send_some(struct gw_qmp *q, const char *p, size_t n, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { (void *)(uintptr_t)p, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;
	ssize_t sent;

	if (fd >= 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	sent = sendmsg(q->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent < 0 ? -errno : (int)sent;
}

/* Send @len bytes of @text, @fd with the first one. */
static int send_all(struct gw_qmp *q, const char *text, size_t len, int fd,
		    int64_t deadline, struct gw_error *err)
{
	size_t done = 0;
	int r;

	while (done < len) {
		r = send_some(q, text + done, len - done, done ? -1 : fd);
		if (r >= 0) {
			done += (size_t)r;
			continue;
		}
		if (r == -EAGAIN || r == -EINTR)
			r = wait_io(q, POLLOUT, deadline);
		if (r == 0)
			continue;
		if ((r == -ETIMEDOUT || r == -ECANCELED) && done == 0)
			return r;
		/* half a command is out: nothing can follow it */
		return broken(q, err, GW_FAULT_FAILED, -r,
			      r == -EPIPE || r == -ECONNRESET ?
				      "QEMU went away: its monitor %s was closed" :
				      "QEMU does not read its monitor %s",
			      q->name);
	}
	return 0;
}

/* QEMU's error classes (qapi/error.json) that a caller may want to tell. */
static int class_code(const char *class)
{
	static const struct {
		const char *class;
		int code;
	} table[] = { { "CommandNotFound", ENOSYS },
		      { "DeviceNotFound", ENODEV },
		      { "DeviceNotActive", ENODEV } };

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (!strcmp(class, table[i].class))
			return table[i].code;
	return EREMOTEIO;
}

/* The value of a reply. Takes @reply over. */
static json_t *reply_value(struct gw_qmp *q, json_t *reply,
			   struct gw_error *err)
{
	json_t *value = json_incref(json_object_get(reply, "return"));
	const json_t *e = json_object_get(reply, "error");
	const char *class = json_string_value(json_object_get(e, "class"));
	const char *desc = json_string_value(json_object_get(e, "desc"));

	if (!value && !e)
		garbage(q, err, "a second greeting");
	else if (!value && !class)
		gw_fail(err, EREMOTEIO, "an error without a reason");
	else if (!value && !strcmp(class, "GenericError"))
		gw_fail(err, EREMOTEIO, "%s", desc ? desc : "(no reason)");
	else if (!value)
		gw_fail(err, class_code(class), "%s (%s)",
			desc ? desc : "(no reason)", class);
	json_decref(reply);
	return value;
}

static void fail_wait(int r, int timeout_ms, struct gw_error *err)
{
	if (r == -ECANCELED)
		gw_cancel_fail(err);
	else if (r == -ETIMEDOUT)
		gw_fail(err, ETIMEDOUT, "no answer from QEMU within %d ms",
			timeout_ms);
}

/* @command as a line of text, with a new id; its length in *@len. */
static char *compose(struct gw_qmp *q, const char *command, json_t *args,
		     size_t *len, struct gw_error *err)
{
	json_t *msg = json_pack("{s:s,s:I,s:O*}", "execute", command, "id",
				++q->id, "arguments", args);
	char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;

	json_decref(msg);
	if (!text) {
		gw_fail(err, EINVAL, "its arguments are not valid JSON");
		return NULL;
	}
	*len = strlen(text);
	text[(*len)++] = '\n'; /* for who reads along; in place of the 0 */
	return text;
}

static int send_command(struct gw_qmp *q, int timeout_ms, int fd,
			const char *command, json_t *args,
			struct gw_error *err)
{
	gw_autofree char *text = NULL;
	size_t len;
	int r = check(q, err);

	if (r)
		return r;
	text = compose(q, command, args, &len, err);
	if (!text)
		return -EINVAL;
	json_decref(q->reply); /* of a command nobody waits for any more */
	q->reply = NULL;
	r = send_all(q, text, len, fd, gw_deadline_ms(timeout_ms), err);
	fail_wait(r, timeout_ms, err);
	return r;
}

static json_t *take_reply(struct gw_qmp *q, int timeout_ms, int64_t deadline,
			  struct gw_error *err)
{
	json_t *reply;
	int r = 0;

	while (!r && !q->reply)
		r = advance(q, deadline, err);
	if (!q->reply) {
		fail_wait(r, timeout_ms, err);
		return NULL;
	}
	reply = q->reply;
	q->reply = NULL;
	return reply_value(q, reply, err);
}

json_t *gw_qmp_cmd_json(struct gw_qmp *q, int timeout_ms, int fd,
			const char *command, json_t *args,
			struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms), begun = gw_now_ns();
	json_t *value = NULL;

	if (!send_command(q, timeout_ms, fd, command, args, err))
		value = take_reply(q, timeout_ms, deadline, err);
	gw_log_at(GW_LOG_TRACE, "at %lld us: QMP %s (%lld us)",
		  (long long)gw_now_ns() / 1000, command,
		  (long long)(gw_now_ns() - begun) / 1000);
	if (!value)
		gw_error_prefix(err, "QMP command '%s'", command);
	return value;
}

int gw_qmp_send(struct gw_qmp *q, struct gw_error *err, const char *command,
		const char *args_fmt, ...)
{
	json_t *args = NULL;
	va_list ap;
	int r;

	if (args_fmt) {
		va_start(ap, args_fmt);
		args = json_vpack_ex(NULL, 0, args_fmt, ap);
		va_end(ap);
	}
	if (args_fmt && !args)
		r = gw_fail(err, EINVAL, "its arguments are not valid JSON");
	else
		r = send_command(q, SEND_TIMEOUT_MS, -1, command, args, err);
	json_decref(args);
	if (r)
		gw_error_prefix(err, "QMP command '%s'", command);
	return r;
}

int gw_qmp_reply(struct gw_qmp *q, int timeout_ms, struct gw_error *err)
{
	json_t *v = take_reply(q, timeout_ms, gw_deadline_ms(timeout_ms), err);

	if (!v)
		return -err->code;
	json_decref(v);
	return 0;
}

static json_t *cmd_va(struct gw_qmp *q, int timeout_ms, struct gw_error *err,
		      const char *command, const char *fmt, va_list ap)
{
	json_t *args = NULL, *value;
	json_error_t je;

	if (fmt) {
		args = json_vpack_ex(&je, 0, fmt, ap);
		if (!args) {
			gw_fail(err, EINVAL, "QMP command '%s': arguments: %s",
				command, je.text);
			return NULL;
		}
	}
	value = gw_qmp_cmd_json(q, timeout_ms, -1, command, args, err);
	json_decref(args);
	return value;
}

json_t *gw_qmp_cmd(struct gw_qmp *q, int timeout_ms, struct gw_error *err,
		   const char *command, const char *args_fmt, ...)
{
	json_t *value;
	va_list ap;

	va_start(ap, args_fmt);
	value = cmd_va(q, timeout_ms, err, command, args_fmt, ap);
	va_end(ap);
	return value;
}

int gw_qmp_do(struct gw_qmp *q, int timeout_ms, struct gw_error *err,
	      const char *command, const char *args_fmt, ...)
{
	struct gw_error local = { 0 };
	json_t *value;
	va_list ap;

	va_start(ap, args_fmt);
	value = cmd_va(q, timeout_ms, &local, command, args_fmt, ap);
	va_end(ap);
	if (value) {
		json_decref(value);
		return 0;
	}
	if (err)
		*err = local;
	return -local.code;
}

int gw_qmp_poll(struct gw_qmp *q, struct gw_error *err)
{
	int r = check(q, err);

	while (!r) {
		r = fill(q, err);
		if (!r)
			r = digest(q, err);
	}
	return r == -EAGAIN || q->nevents ? (int)q->nevents : r;
}

static bool wanted(const char *const *names, const char *name)
{
	if (!names)
		return true;
	for (; *names; names++)
		if (!strcmp(*names, name))
			return true;
	return false;
}

int gw_qmp_wait_event(struct gw_qmp *q, const char *const *names,
		      int timeout_ms, struct gw_qmp_event *event,
		      struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);
	int r = 0;

	for (;;) {
		if (q->lost) {
			q->lost = false;
			return gw_fail(err, EOVERFLOW,
				       "more events from QEMU than can be queued");
		}
		for (unsigned int i = 0; i < q->nevents; i++) {
			if (wanted(names, event_at(q, i)->name)) {
				event_take(q, i, event);
				return 0;
			}
		}
		if (r) {
			fail_wait(r, timeout_ms, err);
			return r;
		}
		r = check(q, err);
		if (!r)
			r = advance(q, deadline, err);
	}
}

void gw_qmp_event_fini(struct gw_qmp_event *event)
{
	json_decref(event->data);
	event->data = NULL;
}

void gw_qmp_drop_events(struct gw_qmp *q)
{
	while (q->nevents)
		gw_qmp_event_fini(event_at(q, --q->nevents));
	q->lost = false;
}

/* A monitor serves one client: the second one can connect, but the greeting
 * does not come before the first one leaves. */
static int no_greeting(struct gw_qmp *q, int timeout_ms, struct gw_error *err)
{
	return gw_fail(err, EBUSY,
		       "no greeting from QEMU's monitor %s within %d ms: another client holds it, or QEMU hangs",
		       q->name, timeout_ms);
}

static int read_greeting(struct gw_qmp *q, int timeout_ms, int64_t deadline,
			 struct gw_error *err)
{
	struct gw_qmp_version *v = &q->version;
	const char *package = "";
	int r = 0;

	while (!r && !q->reply)
		r = advance(q, deadline, err);
	if (r == -ETIMEDOUT)
		return no_greeting(q, timeout_ms, err);
	if (!q->reply) {
		fail_wait(r, timeout_ms, err);
		return r;
	}
	r = json_unpack(q->reply, "{s:{s:{s:{s:i,s:i,s:i},s?s}}}", "QMP",
			"version", "qemu", "major", &v->major, "minor",
			&v->minor, "micro", &v->micro, "package", &package);
	if (!r)
		snprintf(v->package, sizeof(v->package), "%s", package);
	json_decref(q->reply);
	q->reply = NULL;
	return r ? garbage(q, err, "no greeting") : 0;
}

struct gw_qmp *gw_qmp_open_fd(int fd, const char *name, int timeout_ms,
			      const struct gw_cancel *cancel,
			      struct gw_error *err)
{
	int64_t deadline = gw_deadline_ms(timeout_ms);
	struct gw_qmp *q = calloc(1, sizeof(*q));
	int left;

	if (!q) {
		close(fd);
		gw_fail(err, ENOMEM, "no memory for a QMP client");
		return NULL;
	}
	q->fd = fd;
	q->cancel = cancel;
	snprintf(q->name, sizeof(q->name), "%s", name);
	if (read_greeting(q, timeout_ms, deadline, err))
		goto fail;
	left = gw_deadline_left_ms(deadline);
	if (gw_qmp_do(q, left, err, "qmp_capabilities", NULL))
		goto fail;
	return q;
fail:
	gw_qmp_close(q);
	return NULL;
}

/* A full queue of clients waiting to be accepted is EAGAIN, not a wait. */
static int connect_retry(int fd, const struct sockaddr_un *addr,
			 int64_t deadline, const struct gw_cancel *cancel)
{
	for (;;) {
		int64_t pause = gw_deadline_ms(BUSY_RETRY_MS);
		int r;

		if (!connect(fd, (const struct sockaddr *)addr,
			     sizeof(*addr)))
			return 0;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (deadline && gw_deadline_left_ms(deadline) == 0)
			return -ETIMEDOUT;
		r = gw_wait_fd(-1, 0, pause, cancel);
		if (r == -ECANCELED)
			return r;
	}
}

struct gw_qmp *gw_qmp_open(const char *path, int timeout_ms,
			   const struct gw_cancel *cancel,
			   struct gw_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int64_t deadline = gw_deadline_ms(timeout_ms);
	gw_autoclose int fd = -1;
	int r;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
			   "the socket path '%s' has more than %zu bytes",
			   path, sizeof(addr.sun_path) - 1);
		return NULL;
	}
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		gw_fail_errno(err, errno, "socket");
		return NULL;
	}
	r = connect_retry(fd, &addr, deadline, cancel);
	if (r == -ECANCELED)
		gw_cancel_fail(err);
	else if (r == -ETIMEDOUT)
		gw_fail(err, EBUSY,
			"QEMU's monitor %s is busy: other clients hold it",
			path);
	else if (r == -ENOENT || r == -ECONNREFUSED)
		gw_fail(err, -r, "no QEMU listens at %s", path);
	else if (r)
		gw_fail_errno(err, -r, "connect to %s", path);
	if (r)
		return NULL;
	return gw_qmp_open_fd(gw_take_fd(&fd), path,
			      gw_deadline_left_ms(deadline), cancel, err);
}

void gw_qmp_close(struct gw_qmp *q)
{
	if (!q)
		return;
	gw_qmp_drop_events(q);
	json_decref(q->reply);
	free(q->buf);
	close(q->fd);
	free(q);
}

const struct gw_qmp_version *gw_qmp_version(const struct gw_qmp *q)
{
	return &q->version;
}

pid_t gw_qmp_peer_pid(const struct gw_qmp *q)
{
	struct ucred u = { 0 };
	socklen_t len = sizeof(u);

	if (getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &u, &len))
		return 0;
	return u.pid;
}
