/* SPDX-License-Identifier: BSD-3-Clause */
/* upstream.c - see upstream.h. */
#include "control/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"
#include "vm/qemu/qmp.h"

#define OPEN_TIMEOUT_MS 10000
#define ASK_TIMEOUT_MS	30000
#define READ_SIZE	65536

/* A command on its way to QEMU. */
struct chunk {
	struct chunk *next;
	size_t len, done;
	int fd[GW_UPSTREAM_MAX_FDS], nfds; /* go with the first byte */
	char text[];
};

/* A command that QEMU has not answered. */
struct pending {
	struct pending *next;
	uint64_t id, who;
};

struct gw_upstream {
	int fd;
	const struct gw_upstream_ops *ops;
	void *data;
	char name[128];
	struct gw_qmp_text in;
	struct chunk *first, **last;
	struct pending *pending;
	uint64_t id;
	char *greeting;
	bool oob;
	/* gw_upstream_ask() */
	uint64_t asked;
	json_t *answer;
	bool greeted, negotiated;
};

static int gone(struct gw_upstream *u, struct gw_error *err)
{
	return gw_fail(err, ECONNRESET, "QEMU went away: its monitor %s was closed",
		       u->name);
}

static int strange(struct gw_upstream *u, struct gw_error *err,
		   const char *what)
{
	return gw_fail(err, EPROTO,
		       "what QEMU's monitor %s sent is not QMP: %s", u->name,
		       what);
}

/* --- out ------------------------------------------------------------------ */

static void free_chunk(struct chunk *c)
{
	for (int i = 0; i < c->nfds; i++)
		close(c->fd[i]);
	free(c);
}

static int send_chunk(struct gw_upstream *u, struct chunk *c,
		      struct gw_error *err)
{
	char control[CMSG_SPACE(sizeof(int) * GW_UPSTREAM_MAX_FDS)] = "";
	struct iovec iov = { c->text + c->done, c->len - c->done };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t nbytes = sizeof(int) * (size_t)c->nfds;
	struct cmsghdr *h;
	ssize_t n;

	if (c->nfds) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(nbytes);
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(nbytes);
		memcpy(CMSG_DATA(h), c->fd, nbytes);
	}
	n = sendmsg(u->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN :
							   gone(u, err);
	for (; c->nfds; c->nfds--)
		close(c->fd[c->nfds - 1]);
	c->done += (size_t)n;
	return 0;
}

static int flush(struct gw_upstream *u, struct gw_error *err)
{
	while (u->first) {
		struct chunk *c = u->first;
		int r = send_chunk(u, c, err);

		if (r)
			return r == -EAGAIN ? 0 : r;
		if (c->done < c->len)
			continue;
		u->first = c->next;
		if (!u->first)
			u->last = &u->first;
		free_chunk(c);
	}
	return 0;
}

/* @text without its member "id", with ours. Return: bytes. */
static size_t rewrite(char *to, struct gw_span text, uint64_t id)
{
	size_t pos = 0, n = (size_t)sprintf(to, "{\"id\": %" PRIu64, id);
	struct gw_span key, value;
	char name[8];

	while (gw_json_member(text, &pos, &key, &value)) {
		if (gw_json_string(key, name, sizeof(name)) &&
		    !strcmp(name, "id"))
			continue;
		to[n++] = ',';
		to[n++] = ' ';
		memcpy(to + n, key.p, key.len);
		n += key.len;
		to[n++] = ':';
		to[n++] = ' ';
		memcpy(to + n, value.p, value.len);
		n += value.len;
	}
	to[n++] = '}';
	to[n++] = '\n';
	return n;
}

int gw_upstream_send(struct gw_upstream *u, uint64_t who, struct gw_span text,
		     const int *fds, int nfds)
{
	/* A member grows by three bytes at most, and is five at least. */
	struct chunk *c = malloc(sizeof(*c) + 2 * text.len + 64);
	struct pending *p = calloc(1, sizeof(*p));
	struct pending **at = &u->pending;

	if (!c || !p) {
		for (int i = 0; i < nfds; i++)
			close(fds[i]);
		free(c);
		free(p);
		return -ENOMEM;
	}
	p->id = ++u->id;
	p->who = who;
	while (*at)
		at = &(*at)->next;
	*at = p;
	c->next = NULL;
	c->done = 0;
	c->nfds = nfds;
	if (nfds)
		memcpy(c->fd, fds, sizeof(int) * (size_t)nfds);
	c->len = rewrite(c->text, text, p->id);
	*u->last = c;
	u->last = &c->next;
	return 0;
}

/* --- in ------------------------------------------------------------------- */

/*
 * QEMU answers in the order of the commands, but for those out-of-band. What
 * it could not parse it answers without an id: that is the oldest.
 */
static int sort_reply(struct gw_upstream *u, struct gw_span text,
		      struct gw_span id, struct gw_error *err)
{
	struct pending **at = &u->pending, *p;
	uint64_t n = id.p ? strtoull(id.p, NULL, 10) : 0, who;

	while (id.p && *at && (*at)->id != n)
		at = &(*at)->next;
	p = *at;
	if (!p) /* its time limit was over */
		return 0;
	*at = p->next;
	who = p->who;
	n = p->id;
	free(p);
	if (n == u->asked) {
		u->answer = gw_json_load(text);
		if (!u->answer)
			return strange(u, err, "bad JSON");
	} else if (u->ops && who) {
		u->ops->reply(u->data, who, text, id);
	}
	return 0;
}

static int sort(struct gw_upstream *u, struct gw_span text,
		struct gw_error *err)
{
	struct gw_span event = gw_json_get(text, "event");
	struct gw_span id = gw_json_get(text, "id");
	char name[64];

	if (event.p && gw_json_string(event, name, sizeof(name))) {
		if (u->ops)
			u->ops->event(u->data, name, text);
		return 0;
	}
	if (id.p || (u->pending && gw_json_get(text, "error").p))
		return sort_reply(u, text, id, err);
	if (!u->greeted && gw_json_get(text, "QMP").p) {
		u->greeted = true;
		u->greeting = strndup(text.p, text.len);
		return u->greeting ? 0 : gw_fail(err, ENOMEM, "no memory");
	}
	return strange(u, err, "neither a reply nor an event");
}

static int digest(struct gw_upstream *u, struct gw_error *err)
{
	char why[GW_QMP_WHY];
	struct gw_span v;
	int r = 0;

	/* One after the other: what follows the greeting is for later. */
	while (u->greeted <= u->negotiated &&
	       (r = gw_qmp_text_next(&u->in, &v, why)) > 0) {
		if (gw_json_check(v, why) || *v.p != '{')
			return strange(u, err, why);
		r = sort(u, v, err);
		if (r)
			return r;
	}
	return r ? strange(u, err, why) : 0;
}

int gw_upstream_work(struct gw_upstream *u, struct gw_error *err)
{
	char buf[READ_SIZE];
	int r = flush(u, err);
	ssize_t n;

	if (!r)
		r = digest(u, err);
	while (!r) {
		n = recv(u->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return gone(u, err);
		if (gw_qmp_text_add(&u->in, buf, (size_t)n))
			return gw_fail(err, ENOMEM, "no memory");
		r = digest(u, err);
	}
	return r;
}

struct pollfd gw_upstream_poll(const struct gw_upstream *u)
{
	return (struct pollfd){ .fd = u->fd,
				.events = u->first ? POLLIN | POLLOUT :
						     POLLIN };
}

/* --- asking --------------------------------------------------------------- */

static int pump(struct gw_upstream *u, const bool *done, json_t **answer,
		int64_t deadline, struct gw_error *err)
{
	int r = 0;

	while (!r && !(done ? *done : *answer != NULL)) {
		struct pollfd p;

		r = gw_upstream_work(u, err);
		if (r || (done ? *done : *answer != NULL))
			break;
		p = gw_upstream_poll(u);
		r = gw_wait_fd(u->fd, p.events, deadline, NULL);
		if (r)
			gw_fail(err, -r, "no answer from QEMU's monitor %s%s",
				u->name,
				done ? ": another client holds it, or QEMU hangs" :
				       "");
	}
	return r;
}

json_t *gw_upstream_ask(struct gw_upstream *u, const char *command,
			json_t *args, struct gw_error *err)
{
	json_t *msg = json_pack("{s:s, s:o*}", "execute", command, "arguments",
				args);
	gw_autofree char *text = msg ? json_dumps(msg, 0) : NULL;
	json_t *answer = NULL;
	int r = -ENOMEM;

	json_decref(msg);
	if (text)
		r = gw_upstream_send(u, 0,
				     (struct gw_span){ text, strlen(text) },
				     NULL, 0);
	if (r) {
		gw_fail(err, ENOMEM, "no memory to ask QEMU for %s", command);
		return NULL;
	}
	u->asked = u->id;
	r = pump(u, NULL, &u->answer, gw_deadline_ms(ASK_TIMEOUT_MS), err);
	answer = u->answer;
	u->answer = NULL;
	u->asked = 0;
	return answer;
}

/* --- opening -------------------------------------------------------------- */

static bool offers_oob(const char *greeting)
{
	json_t *g = json_loads(greeting, 0, NULL), *v;
	bool oob = false;
	size_t i;

	json_array_foreach(json_object_get(json_object_get(g, "QMP"),
					   "capabilities"),
			   i, v)
		oob |= json_is_string(v) &&
		       !strcmp(json_string_value(v), "oob");
	json_decref(g);
	return oob;
}

static int greet(struct gw_upstream *u, struct gw_error *err)
{
	json_t *answer;
	int r = pump(u, &u->greeted, NULL, gw_deadline_ms(OPEN_TIMEOUT_MS),
		     err);

	if (r)
		return r == -ETIMEDOUT ? -EBUSY : r;
	u->oob = offers_oob(u->greeting);
	u->negotiated = true;
	answer = gw_upstream_ask(u, "qmp_capabilities",
				 u->oob ? json_pack("{s:[s]}", "enable",
						    "oob") :
					  NULL,
				 err);
	if (!answer)
		return -EPROTO;
	if (!json_object_get(answer, "return"))
		r = strange(u, err, "it refuses the greeting");
	json_decref(answer);
	return r;
}

struct gw_upstream *gw_upstream_open_fd(int fd, const char *name,
					const struct gw_upstream_ops *ops,
					void *data, struct gw_error *err)
{
	struct gw_upstream *u = calloc(1, sizeof(*u));

	if (!u) {
		close(fd);
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	u->fd = fd;
	u->ops = ops;
	u->data = data;
	u->last = &u->first;
	u->in.max = GW_QMP_MAX_MESSAGE;
	snprintf(u->name, sizeof(u->name), "%s", name);
	if (greet(u, err)) {
		gw_upstream_close(u);
		return NULL;
	}
	return u;
}

struct gw_upstream *gw_upstream_open(const char *path,
				     const struct gw_upstream_ops *ops,
				     void *data, struct gw_error *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	gw_autoclose int fd = -1;

	if (strlen(path) >= sizeof(a.sun_path)) {
		gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
			   "the socket path '%s' has more than %zu bytes",
			   path, sizeof(a.sun_path) - 1);
		return NULL;
	}
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		int code = errno;

		if (code == EAGAIN)
			gw_fail(err, EBUSY,
				"QEMU's monitor %s is busy: other clients hold it",
				path);
		else if (code == ENOENT)
			gw_fail(err, code,
				"there is no %s: a VM started by an earlier godwit has no monitor for this",
				path);
		else
			gw_fail_errno(err, code, "QEMU's monitor %s", path);
		return NULL;
	}
	return gw_upstream_open_fd(gw_take_fd(&fd), path, ops, data, err);
}

void gw_upstream_close(struct gw_upstream *u)
{
	struct pending *p;
	struct chunk *c;

	if (!u)
		return;
	while ((c = u->first)) {
		u->first = c->next;
		free_chunk(c);
	}
	while ((p = u->pending)) {
		u->pending = p->next;
		free(p);
	}
	gw_qmp_text_fini(&u->in);
	json_decref(u->answer);
	free(u->greeting);
	close(u->fd);
	free(u);
}

struct gw_span gw_upstream_greeting(const struct gw_upstream *u)
{
	return (struct gw_span){ u->greeting, strlen(u->greeting) };
}

bool gw_upstream_oob(const struct gw_upstream *u)
{
	return u->oob;
}
