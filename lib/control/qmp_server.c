/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_server.c - see qmp_server.h: clients, and who gets what.
 *
 *	client --value()--> godwit's command | forward() --> upstream
 *	upstream --on_reply()--> the client that asked
 *	upstream --on_event()--> every client
 *	session --on_session()--> every client, and the one who began it
 */
#include "control/qmp_server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/caps.h"
#include "control/qmp_internal.h"

#define GW_LOG_MODULE "control"
#include "base/log.h"

#define READ_SIZE   65536
#define OUT_ENOUGH  (1u << 20)	/* read no more commands from who has this */
#define OUT_TOO_MUCH (64u << 20) /* and drop who has this */
#define MAX_ASKED    8	/* commands of one client that QEMU has */
#define GENERIC	    "GenericError"
#define NOT_FOUND   "CommandNotFound"

/* --- out ------------------------------------------------------------------ */

static void put(struct gw_qmp_client *c, const char *p, size_t len)
{
	size_t cap = c->out_cap ? c->out_cap : 4096;
	char *n;

	if (c->dead)
		return;
	while (cap - c->out_len < len)
		cap *= 2;
	n = cap == c->out_cap ? c->out : realloc(c->out, cap);
	if (!n || c->out_len + len > OUT_TOO_MUCH) {
		gw_warn("a QMP client that does not read was dropped");
		c->dead = true;
		c->out = n ? n : c->out;
		return;
	}
	c->out = n;
	c->out_cap = cap;
	memcpy(c->out + c->out_len, p, len);
	c->out_len += len;
}

static void put_text(struct gw_qmp_client *c, const char *s)
{
	put(c, s, strlen(s));
}

static void put_json(struct gw_qmp_client *c, const json_t *j)
{
	char *text = json_dumps(j, JSON_ENSURE_ASCII | JSON_ENCODE_ANY);

	put_text(c, text ? text : "null");
	free(text);
}

void gw_qmp_return(struct gw_qmp_client *c, const char *id, json_t *value)
{
	put_text(c, "{\"return\": ");
	put_json(c, value);
	if (id) {
		put_text(c, ", \"id\": ");
		put_text(c, id);
	}
	put_text(c, "}\r\n");
	json_decref(value);
}

void gw_qmp_error(struct gw_qmp_client *c, const char *id, const char *class,
		  const char *desc)
{
	json_t *e = json_pack("{s:s, s:s}", "class", class, "desc", desc);

	if (!e) /* a text from outside that is not UTF-8 */
		e = json_pack("{s:s, s:s}", "class", class, "desc", "?");
	put_text(c, "{");
	if (id) {
		put_text(c, "\"id\": ");
		put_text(c, id);
		put_text(c, ", ");
	}
	put_text(c, "\"error\": ");
	put_json(c, e);
	put_text(c, "}\r\n");
	json_decref(e);
}

json_t *gw_qmp_hmp_text(const char *text)
{
	char *to = malloc(2 * strlen(text) + 1), *p = to;
	json_t *j;

	if (!to)
		return json_string("");
	for (; *text; text++) {
		if (*text == '\n')
			*p++ = '\r';
		*p++ = *text;
	}
	*p = '\0';
	j = json_string(to);
	free(to);
	return j ? j : json_string("");
}

static struct gw_qmp_client *client_by_id(struct gw_qmp_server *s, uint64_t id)
{
	for (int i = 0; i < GW_QMP_MAX_CLIENTS; i++)
		if (s->client[i] && s->client[i]->id == id)
			return s->client[i];
	return NULL;
}

static void broadcast(struct gw_qmp_server *s, const char *p, size_t len)
{
	for (int i = 0; i < GW_QMP_MAX_CLIENTS; i++) {
		if (!s->client[i] || !s->client[i]->negotiated)
			continue;
		put(s->client[i], p, len);
		put(s->client[i], "\r\n", 2);
	}
}

/* --- named descriptors ---------------------------------------------------- */

static struct gw_qmp_named *named(struct gw_qmp_server *s, const char *name)
{
	for (int i = 0; i < GW_QMP_MAX_NAMED; i++)
		if (!strcmp(s->named[i].name, name))
			return &s->named[i];
	return NULL;
}

int gw_qmp_named_fd(struct gw_qmp_server *s, const char *name)
{
	struct gw_qmp_named *n = *name ? named(s, name) : NULL;

	return n ? fcntl(n->fd, F_DUPFD_CLOEXEC, 3) : -1;
}

static void forget_named(struct gw_qmp_server *s, const char *name)
{
	struct gw_qmp_named *n = *name ? named(s, name) : NULL;

	if (!n)
		return;
	close(n->fd);
	n->name[0] = '\0';
}

/* QEMU has it under this name: so have we. */
static void keep_named(struct gw_qmp_server *s, struct gw_qmp_forward *f)
{
	struct gw_qmp_named *n;

	forget_named(s, f->name);
	n = f->fd >= 0 ? named(s, "") : NULL;
	if (!n)
		return;
	strcpy(n->name, f->name);
	n->fd = gw_take_fd(&f->fd);
}

/* --- what QEMU says ------------------------------------------------------- */

static void free_forward(struct gw_qmp_forward *f)
{
	if (f->fd >= 0)
		close(f->fd);
	free(f->id);
	free(f);
}

static struct gw_qmp_forward *take_forward(struct gw_qmp_server *s,
					   uint64_t who)
{
	struct gw_qmp_forward **at = &s->forward, *f;

	while (*at && (*at)->who != who)
		at = &(*at)->next;
	f = *at;
	if (f)
		*at = f->next;
	return f;
}

/* The answer as it came, with the client's id; without one it goes, and the
 * comma beside it. */
static void put_reply(struct gw_qmp_client *c, const char *id,
		      struct gw_span text, struct gw_span ours)
{
	const char *end = text.p + text.len;
	struct gw_span key, value;
	size_t pos = 0;
	bool first = true;
	char name[16];

	if (!ours.p) { /* QEMU could not read the client's either */
		put(c, text.p, text.len);
		put_text(c, "\r\n");
		return;
	}
	if (id) {
		put(c, text.p, (size_t)(ours.p - text.p));
		put_text(c, id);
		put(c, ours.p + ours.len, (size_t)(end - ours.p) - ours.len);
		put_text(c, "\r\n");
		return;
	}
	put_text(c, "{");
	while (gw_json_member(text, &pos, &key, &value)) {
		if (gw_json_string(key, name, sizeof(name)) &&
		    !strcmp(name, "id"))
			continue;
		if (!first)
			put_text(c, ", ");
		first = false;
		put(c, key.p, key.len);
		put_text(c, ": ");
		put(c, value.p, value.len);
	}
	put_text(c, "}\r\n");
}

static void on_reply(void *data, uint64_t who, struct gw_span text,
		     struct gw_span id)
{
	struct gw_qmp_server *s = data;
	struct gw_qmp_forward *f = take_forward(s, who);
	struct gw_qmp_client *c;

	if (!f)
		return;
	if (*f->name && gw_json_get(text, "return").p)
		keep_named(s, f);
	c = client_by_id(s, f->client);
	if (c) {
		c->asked--;
		put_reply(c, f->id, text, id);
	}
	free_forward(f);
}

static void on_event(void *data, const char *name, struct gw_span text)
{
	if (strcmp(name, "MIGRATION") && strcmp(name, "MIGRATION_PASS"))
		broadcast(data, text.p, text.len);
}

static const struct gw_upstream_ops upstream_ops = { on_reply, on_event };

/* --- what the migration says ---------------------------------------------- */

static void send_event(struct gw_qmp_server *s, const struct gw_event *e,
		       const char *name, json_t *data)
{
	json_t *j = json_pack("{s:{s:I, s:I}, s:s, s:o}", "timestamp",
			      "seconds", (json_int_t)(e->realtime_us / 1000000),
			      "microseconds",
			      (json_int_t)(e->realtime_us % 1000000), "event",
			      name, "data", data);
	char *text = json_dumps(j, 0);

	if (text && gw_cap_has(s->front.caps, "events"))
		broadcast(s, text, strlen(text));
	free(text);
	json_decref(j);
}

void gw_qmp_defer(struct gw_qmp_call *call, bool hmp, int fd)
{
	call->s->deferred = (struct gw_qmp_deferred){
		.active = true,
		.hmp = hmp,
		.client = call->c->id,
		.id = call->id ? strdup(call->id) : NULL,
		.fd = fd,
	};
}

/* It is under way, or @why not. */
static void answer_deferred(struct gw_qmp_server *s, const char *why)
{
	struct gw_qmp_deferred *d = &s->deferred;
	struct gw_qmp_client *c = client_by_id(s, d->client);
	char text[GW_ERROR_MAX + 16] = "";

	if (!d->active)
		return;
	if (why)
		snprintf(text, sizeof(text), "Error: %s\n", why);
	if (c && d->hmp)
		gw_qmp_return(c, d->id, gw_qmp_hmp_text(text));
	else if (c && why)
		gw_qmp_error(c, d->id, GENERIC, why);
	else if (c)
		gw_qmp_return(c, d->id, json_object());
	if (why && d->fd >= 0)
		close(d->fd);
	free(d->id);
	memset(d, 0, sizeof(*d));
}

static void on_session(struct gw_qmp_server *s)
{
	struct gw_session_state state;
	struct gw_event e;

	while (gw_session_event(s->front.session, &e)) {
		switch (e.kind) {
		case GW_EVENT_STATUS:
			send_event(s, &e, "MIGRATION",
				   json_pack("{s:s}", "status", e.status));
			break;
		case GW_EVENT_PASS:
			send_event(s, &e, "MIGRATION_PASS",
				   json_pack("{s:I}", "pass",
					     (json_int_t)e.pass));
			break;
		case GW_EVENT_STARTED:
			answer_deferred(s, NULL);
			break;
		case GW_EVENT_REFUSED:
			gw_session_state(s->front.session, &state);
			answer_deferred(s, state.error.msg);
			break;
		case GW_EVENT_ENDED:
			break;
		}
	}
}

/* --- what a client says --------------------------------------------------- */

/* A message taken apart. */
struct message {
	struct gw_span text, execute, oob, arguments, id;
	bool odd; /* QEMU says what is wrong with it */
	char command[64];
	char *id_text;
};

static void take_apart(struct gw_span v, struct message *m)
{
	const struct {
		const char *name;
		struct gw_span *to;
	} known[] = { { "execute", &m->execute },
		      { "exec-oob", &m->oob },
		      { "arguments", &m->arguments },
		      { "id", &m->id } };
	struct gw_span key, value;
	size_t pos = 0, i;
	char name[32];

	memset(m, 0, sizeof(*m));
	m->text = v;
	while (gw_json_member(v, &pos, &key, &value)) {
		gw_json_string(key, name, sizeof(name));
		for (i = 0; i < 4 && strcmp(known[i].name, name); i++)
			;
		if (i == 4 || known[i].to->p)
			m->odd = true;
		else
			*known[i].to = value;
	}
	m->odd |= m->oob.p || !m->execute.p ||
		  !gw_json_string(m->execute, m->command, sizeof(m->command)) ||
		  (m->arguments.p && *m->arguments.p != '{');
}

static void drop_fds(struct gw_qmp_client *c)
{
	while (c->nfds)
		close(c->fds[--c->nfds]);
}

/* Remember which descriptor gets or loses which name. */
static void look_at_fds(struct gw_qmp_client *c, const struct message *m,
			struct gw_qmp_forward *f)
{
	struct gw_span name = { NULL, 0 };
	bool get = !strcmp(m->command, "getfd") && c->nfds;

	if (!m->odd && m->arguments.p &&
	    (get || !strcmp(m->command, "closefd")))
		name = gw_json_get(m->arguments, "fdname");
	/* QEMU takes the first one. */
	if (name.p && name.len < sizeof(f->name) &&
	    gw_json_string(name, f->name, sizeof(f->name)) && get)
		f->fd = fcntl(c->fds[0], F_DUPFD_CLOEXEC, 3);
}

static void forward(struct gw_qmp_server *s, struct gw_qmp_client *c,
		    struct message *m)
{
	struct gw_qmp_forward *f = calloc(1, sizeof(*f));

	if (!f) {
		gw_qmp_error(c, m->id_text, GENERIC, "no memory");
		return;
	}
	f->fd = -1;
	f->who = ++s->last_who;
	f->client = c->id;
	look_at_fds(c, m, f);
	if (gw_upstream_send(s->front.up, f->who, m->text, c->fds, c->nfds)) {
		c->nfds = 0;
		free_forward(f);
		gw_qmp_error(c, m->id_text, GENERIC, "no memory");
		return;
	}
	c->nfds = 0; /* QEMU's now */
	f->id = m->id_text;
	m->id_text = NULL;
	f->next = s->forward;
	s->forward = f;
	c->asked++;
}

/* qmp_capabilities, the first command. */
static void negotiate(struct gw_qmp_server *s, struct gw_qmp_client *c,
		      const struct message *m, json_t *args)
{
	json_t *enable = json_object_get(args, "enable"), *v;
	char why[GW_QMP_WHY] = "";
	const char *key;
	bool oob = false;
	size_t i;

	json_object_foreach(args, key, v) {
		if (strcmp(key, "enable"))
			snprintf(why, sizeof(why),
				 "Parameter '%.64s' is unexpected", key);
	}
	if (enable && !json_is_array(enable))
		strcpy(why,
		       "Invalid parameter type for 'enable', expected: array");
	json_array_foreach(enable, i, v) {
		const char *name = json_string_value(v);

		if (!name || strcmp(name, "oob"))
			snprintf(why, sizeof(why),
				 "Parameter 'enable' does not accept value '%.64s'",
				 name ? name : "null");
		else if (!gw_upstream_oob(s->front.up))
			strcpy(why, "Capability 'oob' is not available");
		else
			oob = true;
	}
	if (*why) {
		gw_qmp_error(c, m->id_text, GENERIC, why);
		return;
	}
	c->negotiated = true;
	c->oob = oob;
	gw_qmp_return(c, m->id_text, json_object());
}

/* Before and after the greeting is answered. Return: was it dealt with? */
static bool greet(struct gw_qmp_server *s, struct gw_qmp_client *c,
		  const struct message *m, json_t *args)
{
	bool first = !m->odd && !strcmp(m->command, "qmp_capabilities");

	if (!c->negotiated && first)
		negotiate(s, c, m, args);
	else if (first)
		gw_qmp_error(c, m->id_text, NOT_FOUND,
			     "Capabilities negotiation is already complete, command ignored");
	else if (!c->negotiated && (!m->odd || m->oob.p))
		gw_qmp_error(c, m->id_text, NOT_FOUND,
			     "Expecting capabilities negotiation with 'qmp_capabilities'");
	else if (m->oob.p && !c->oob)
		gw_qmp_error(c, m->id_text, GENERIC,
			     "QMP input member 'exec-oob' is unexpected");
	else
		return false;
	return true;
}

static void command(struct gw_qmp_server *s, struct gw_qmp_client *c,
		    struct message *m)
{
	const struct gw_qmp_command *cmd =
		m->odd ? NULL : gw_qmp_command_find(m->command);
	struct gw_qmp_call call = { s, c, m->id_text, NULL };

	if (!m->odd && (cmd || !c->negotiated)) {
		call.args = m->arguments.p ? gw_json_load(m->arguments) :
					     json_object();
		if (!call.args) {
			gw_qmp_error(c, NULL, GENERIC,
				     "JSON parse error, duplicate key");
			return;
		}
	}
	if (!greet(s, c, m, call.args)) {
		if (cmd && (strcmp(cmd->name, "human-monitor-command") ||
			    gw_qmp_is_our_hmp(call.args)))
			cmd->run(&call);
		else
			forward(s, c, m);
	}
	json_decref(call.args);
}

static void value(struct gw_qmp_server *s, struct gw_qmp_client *c,
		  struct gw_span v)
{
	char why[GW_QMP_WHY];
	struct message m;

	if (gw_json_check(v, why)) {
		gw_qmp_error(c, NULL, GENERIC, why);
		return;
	}
	if (*v.p != '{') {
		gw_qmp_error(c, NULL, GENERIC,
			     "QMP input must be a JSON object");
		return;
	}
	take_apart(v, &m);
	if (m.id.p) {
		json_t *id = gw_json_load(m.id);

		/* In our spelling if it is in single quotes, say. */
		m.id_text = id && memchr(m.id.p, '\'', m.id.len) ?
				    json_dumps(id, JSON_ENCODE_ANY) :
				    strndup(m.id.p, m.id.len);
		json_decref(id);
	}
	command(s, c, &m);
	free(m.id_text);
}

/* Whoever asks much does not keep the others from QEMU. */
static bool takes_more(const struct gw_qmp_client *c)
{
	return !c->dead && c->out_len < OUT_ENOUGH && c->asked < MAX_ASKED;
}

/* Commands one after the other, but not faster than they are answered. */
static void digest(struct gw_qmp_server *s, struct gw_qmp_client *c)
{
	char why[GW_QMP_WHY];
	struct gw_span v;

	while (takes_more(c)) {
		int r = gw_qmp_text_next(&c->in, &v, why);

		if (!r)
			break;
		if (r < 0)
			gw_qmp_error(c, NULL, GENERIC, why);
		else
			value(s, c, v);
	}
}

/* --- sockets -------------------------------------------------------------- */

static void take_fds(struct gw_qmp_client *c, struct msghdr *m)
{
	struct cmsghdr *h;

	for (h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		size_t n;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		drop_fds(c); /* what nobody asked for, as in QEMU */
		n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int),
			       sizeof(int));
			if (c->nfds < GW_UPSTREAM_MAX_FDS)
				c->fds[c->nfds++] = fd;
			else
				close(fd);
		}
	}
}

static void read_client(struct gw_qmp_server *s, struct gw_qmp_client *c)
{
	char control[CMSG_SPACE(sizeof(int) * GW_UPSTREAM_MAX_FDS)];
	char buf[READ_SIZE];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		c->dead = true;
		return;
	}
	take_fds(c, &m);
	if (gw_qmp_text_add(&c->in, buf, (size_t)n))
		c->dead = true;
	digest(s, c);
}

static void write_client(struct gw_qmp_client *c)
{
	ssize_t n = send(c->fd, c->out, c->out_len,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		c->dead = true;
	if (n <= 0)
		return;
	c->out_len -= (size_t)n;
	memmove(c->out, c->out + n, c->out_len);
}

static void free_client(struct gw_qmp_client *c)
{
	if (!c)
		return;
	drop_fds(c);
	gw_qmp_text_fini(&c->in);
	free(c->out);
	close(c->fd);
	free(c);
}

static int free_place(const struct gw_qmp_server *s)
{
	for (int i = 0; i < GW_QMP_MAX_CLIENTS; i++)
		if (!s->client[i])
			return i;
	return -1;
}

void gw_qmp_server_add(struct gw_qmp_server *s, int fd)
{
	struct gw_span hello = gw_upstream_greeting(s->front.up);
	struct gw_qmp_client *c = calloc(1, sizeof(*c));
	int i = free_place(s);

	if (!c || i < 0) {
		free(c);
		close(fd);
		return;
	}
	c->fd = fd;
	c->id = ++s->last_client;
	s->client[i] = c;
	put(c, hello.p, hello.len);
	put_text(c, "\r\n");
}

/* One that exists and answers belongs to somebody. */
static int remove_stale(const struct sockaddr_un *a, struct gw_error *err)
{
	gw_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat st;

	if (lstat(a->sun_path, &st))
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return gw_fail_as(err, GW_FAULT_USAGE, EEXIST,
				  "%s is there and is no socket: use another path",
				  a->sun_path);
	if (fd < 0 || !connect(fd, (const struct sockaddr *)a, sizeof(*a)))
		return gw_fail_as(err, GW_FAULT_USAGE, EADDRINUSE,
				  "somebody listens at %s already",
				  a->sun_path);
	unlink(a->sun_path);
	return 0;
}

int gw_qmp_server_listen(struct gw_qmp_server *s, const char *path,
			 struct gw_error *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	gw_autoclose int fd = -1;
	int r;

	if (strlen(path) >= sizeof(a.sun_path))
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "the socket path '%s' has more than %zu bytes",
				  path, sizeof(a.sun_path) - 1);
	strcpy(a.sun_path, path);
	r = remove_stale(&a, err);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* For its owner only, from the first moment on. */
	if (fd < 0 || fchmod(fd, 0600) ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 8))
		return gw_fail_errno(err, errno, "cannot listen at %s", path);
	strcpy(s->path, path);
	s->listener = gw_take_fd(&fd);
	return 0;
}

/* --- the loop ------------------------------------------------------------- */

enum { P_UPSTREAM, P_SESSION, P_CANCEL, P_LISTENER, P_CLIENTS };

static void fill_poll(struct gw_qmp_server *s, struct pollfd *p,
		      const struct gw_cancel *cancel)
{
	p[P_UPSTREAM] = gw_upstream_poll(s->front.up);
	p[P_SESSION] = (struct pollfd){ gw_session_fd(s->front.session),
					POLLIN, 0 };
	p[P_CANCEL] = (struct pollfd){ gw_cancel_fd(cancel), POLLIN, 0 };
	p[P_LISTENER] = (struct pollfd){
		free_place(s) < 0 ? -1 : s->listener, POLLIN, 0
	};
	for (int i = 0; i < GW_QMP_MAX_CLIENTS; i++) {
		const struct gw_qmp_client *c = s->client[i];
		short events = 0;

		if (c && takes_more(c))
			events |= POLLIN;
		if (c && c->out_len)
			events |= POLLOUT;
		p[P_CLIENTS + i] = (struct pollfd){ c ? c->fd : -1, events, 0 };
	}
}

static void serve_client(struct gw_qmp_server *s, int i, short revents)
{
	struct gw_qmp_client *c = s->client[i];

	if (!c)
		return;
	if (c->out_len && !c->dead)
		write_client(c);
	digest(s, c); /* what waited */
	if (revents & (POLLIN | POLLHUP | POLLERR))
		read_client(s, c);
	if (c->out_len && !c->dead)
		write_client(c);
	digest(s, c); /* there may be room now, and nothing else to wake us */
	if (c->dead) {
		free_client(c);
		s->client[i] = NULL;
	}
}

int gw_qmp_server_step(struct gw_qmp_server *s, int timeout_ms,
		       const struct gw_cancel *cancel, struct gw_error *err)
{
	struct pollfd p[P_CLIENTS + GW_QMP_MAX_CLIENTS];
	int fd, r;

	fill_poll(s, p, cancel);
	if (poll(p, P_CLIENTS + GW_QMP_MAX_CLIENTS, timeout_ms) < 0)
		return errno == EINTR ? 0 :
					gw_fail_errno(err, errno, "poll");
	r = gw_upstream_work(s->front.up, err);
	if (r)
		return r;
	on_session(s);
	if (p[P_LISTENER].revents) {
		fd = accept4(s->listener, NULL, NULL,
			     SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			gw_qmp_server_add(s, fd);
	}
	for (int i = 0; i < GW_QMP_MAX_CLIENTS; i++)
		serve_client(s, i, p[P_CLIENTS + i].revents);
	return 0;
}

int gw_qmp_server_run(struct gw_qmp_server *s, const struct gw_cancel *cancel,
		      struct gw_error *err)
{
	int r = 0;

	while (!r && !gw_cancel_requested(cancel))
		r = gw_qmp_server_step(s, -1, cancel, err);
	gw_session_cancel(s->front.session);
	/* Clients see how it ends. */
	while (!r && gw_session_busy(s->front.session))
		r = gw_qmp_server_step(s, 100, NULL, err);
	if (!r)
		r = gw_qmp_server_step(s, 0, NULL, err);
	return r == -ECONNRESET ? 0 : r;
}

static struct gw_qmp_server *server_new(const struct gw_qmp_server_config *c,
					int fd, struct gw_error *err)
{
	struct gw_qmp_server *s = calloc(1, sizeof(*s));

	if (!s) {
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	s->listener = -1;
	s->front.params = c->params;
	s->front.caps = gw_caps_of(&c->params);
	s->front.session = gw_session_new(c->vm, err);
	if (s->front.session)
		s->front.up = fd < 0 ? gw_upstream_open(c->front,
							&upstream_ops, s,
							err) :
				       gw_upstream_open_fd(fd, "(socket)",
							   &upstream_ops, s,
							   err);
	if (!s->front.up ||
	    (c->capabilities &&
	     gw_front_set_caps(&s->front, c->capabilities, err))) {
		gw_qmp_server_free(s);
		return NULL;
	}
	return s;
}

struct gw_qmp_server *gw_qmp_server_new(const struct gw_qmp_server_config *c,
					struct gw_error *err)
{
	return server_new(c, -1, err);
}

struct gw_qmp_server *gw_qmp_server_new_fd(const struct gw_qmp_server_config *c,
					   int fd, struct gw_error *err)
{
	return server_new(c, fd, err);
}

void gw_qmp_server_free(struct gw_qmp_server *s)
{
	struct gw_qmp_forward *f;

	if (!s)
		return;
	if (s->listener >= 0) {
		unlink(s->path);
		close(s->listener);
	}
	gw_session_free(s->front.session);
	for (int i = 0; i < GW_QMP_MAX_CLIENTS; i++)
		free_client(s->client[i]);
	gw_upstream_close(s->front.up);
	while ((f = s->forward)) {
		s->forward = f->next;
		free_forward(f);
	}
	for (int i = 0; i < GW_QMP_MAX_NAMED; i++)
		if (*s->named[i].name)
			close(s->named[i].fd);
	free(s->deferred.id);
	free(s);
}
