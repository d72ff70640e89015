/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_cmds.c - the QMP commands that are godwit's: their arguments, and
 * QEMU's words for what is wrong with them. What they do is in front.c.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "control/hmp.h"
#include "control/qmp_internal.h"

#define GENERIC "GenericError"

/* --- arguments ------------------------------------------------------------ */

/* A member of an object. */
struct member {
	const char *name;
	enum { STRING, BOOL, ARRAY, OBJECT } type;
	bool optional;
};

static bool has_type(const json_t *v, const struct member *m)
{
	switch (m->type) {
	case STRING:
		return json_is_string(v);
	case BOOL:
		return json_is_boolean(v);
	case ARRAY:
		return json_is_array(v);
	default:
		return json_is_object(v);
	}
}

/* @m ends with a NULL name; @where: "" or "capabilities[0].". */
static int check_members(const json_t *object, const struct member *m,
			 const char *where, struct gw_error *err)
{
	static const char *const types[] = { "string", "boolean", "array",
					     "object" };
	const char *key;
	json_t *v;
	int i;

	for (i = 0; m[i].name; i++) {
		v = json_object_get(object, m[i].name);
		if (!v && !m[i].optional)
			return gw_fail(err, EINVAL,
				       "Parameter '%s%s' is missing", where,
				       m[i].name);
		if (v && !has_type(v, &m[i]))
			return gw_fail(
				err, EINVAL,
				"Invalid parameter type for '%s%s', expected: %s",
				where, m[i].name, types[m[i].type]);
	}
	json_object_foreach((json_t *)(uintptr_t)object, key, v) {
		for (i = 0; m[i].name && strcmp(m[i].name, key); i++)
			;
		if (!m[i].name)
			return gw_fail(err, EINVAL,
				       "Parameter '%s%.80s' is unexpected",
				       where, key);
	}
	return 0;
}

static const struct member nothing[] = { { NULL, STRING, false } };

static const char *text_of(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

/* The answer to @call: an error if @r, else nothing more than that. */
static void finish(struct gw_qmp_call *call, int r, const struct gw_error *err)
{
	if (r)
		gw_qmp_error(call->c, call->id, GENERIC, err->msg);
	else
		gw_qmp_return(call->c, call->id, json_object());
}

/* --- where to ------------------------------------------------------------- */

/* "HOST:PORT", an IPv6 address in brackets. */
static int inet_uri(const json_t *a, FILE *f, struct gw_error *err)
{
	static const struct member m[] = {
		{ "transport", STRING, false },
		{ "type", STRING, true },
		{ "host", STRING, false },
		{ "port", STRING, false },
		{ "numeric", BOOL, true },
		{ "ipv4", BOOL, true },
		{ "ipv6", BOOL, true },
		{ "keep-alive", BOOL, true },
		{ NULL, STRING, false },
	};
	static const char *const flags[] = { "ipv4", "ipv6", "keep-alive" };
	const char *host = text_of(a, "host");
	bool brackets = strchr(host, ':');

	if (check_members(a, m, "channels[0].addr.", err))
		return -EINVAL;
	fprintf(f, "tcp:%s%s%s:%s", brackets ? "[" : "", host,
		brackets ? "]" : "", text_of(a, "port"));
	for (int i = 0; i < 3; i++) {
		const json_t *v = json_object_get(a, flags[i]);

		if (v)
			fprintf(f, ",%s=%s", flags[i],
				json_is_true(v) ? "on" : "off");
	}
	return 0;
}

/* What a shell takes as one word. */
static void shell_word(FILE *f, const char *s)
{
	fputc('\'', f);
	for (; *s; s++) {
		if (*s == '\'')
			fputs("'\\''", f);
		else
			fputc(*s, f);
	}
	fputc('\'', f);
}

static int exec_uri(const json_t *a, FILE *f, struct gw_error *err)
{
	const json_t *args = json_object_get(a, "args"), *v;
	size_t i;

	if (!json_array_size(args))
		return gw_fail(err, EINVAL,
			       "Parameter 'channels[0].addr.args' is missing");
	fprintf(f, "exec:");
	json_array_foreach(args, i, v) {
		const char *s = json_string_value(v);

		if (!s)
			return gw_fail(
				err, EINVAL,
				"Invalid parameter type for 'channels[0].addr.args[%zu]', expected: string",
				i);
		if (i)
			fputc(' ', f);
		shell_word(f, s);
	}
	return 0;
}

static int socket_uri(const json_t *a, FILE *f, struct gw_error *err)
{
	const char *type = text_of(a, "type");
	const char *key = !strcmp(type, "unix") ? "path" : "str";

	if (!strcmp(type, "inet"))
		return inet_uri(a, f, err);
	if (strcmp(type, "unix") && strcmp(type, "fd"))
		return gw_fail(err, EINVAL,
			       "Parameter 'type' does not accept value '%.80s'",
			       type);
	if (!*text_of(a, key))
		return gw_fail(err, EINVAL,
			       "Parameter 'channels[0].addr.%s' is missing",
			       key);
	fprintf(f, "%s:%s", type, text_of(a, key));
	return 0;
}

static int channel_uri(const json_t *channel, FILE *f, struct gw_error *err)
{
	static const struct member m[] = { { "channel-type", STRING, false },
					   { "addr", OBJECT, false },
					   { NULL, STRING, false } };
	const json_t *a = json_object_get(channel, "addr");
	const char *transport = text_of(a, "transport");

	if (!json_is_object(channel))
		return gw_fail(
			err, EINVAL,
			"Invalid parameter type for 'channels[0]', expected: object");
	if (check_members(channel, m, "channels[0].", err))
		return -EINVAL;
	if (strcmp(text_of(channel, "channel-type"), "main"))
		return gw_fail(err, EINVAL,
			       "Parameter 'channel-type' does not accept value '%.80s'",
			       text_of(channel, "channel-type"));
	if (!json_object_get(a, "transport"))
		return gw_fail(
			err, EINVAL,
			"Parameter 'channels[0].addr.transport' is missing");
	if (!strcmp(transport, "socket"))
		return socket_uri(a, f, err);
	if (!strcmp(transport, "exec"))
		return exec_uri(a, f, err);
	return gw_fail(err, EINVAL,
		       "Parameter 'transport' does not accept value '%.80s'",
		       transport);
}

/* From "uri" or "channels". NULL with @err; to be freed. */
static char *get_uri(const json_t *args, struct gw_error *err)
{
	const json_t *channels = json_object_get(args, "channels");
	const char *uri = json_string_value(json_object_get(args, "uri"));
	char *text = NULL;
	size_t len;
	FILE *f;
	int r;

	if (uri && json_array_size(channels)) {
		gw_fail(err, EINVAL,
			"uri and channels are mutually exclusive; exactly one of the two should be present in 'migrate' qmp command ");
		return NULL;
	}
	if (!uri && !json_array_size(channels)) {
		gw_fail(err, EINVAL,
			"need either 'uri' or 'channels' argument");
		return NULL;
	}
	f = open_memstream(&text, &len);
	if (!f) {
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	r = 0;
	if (uri)
		fputs(uri, f);
	else if (json_array_size(channels) > 1)
		r = gw_fail(err, EINVAL,
			    "Channel list must have only one entry, for type 'main'");
	else
		r = channel_uri(json_array_get(channels, 0), f, err);
	fclose(f);
	if (r) {
		free(text);
		return NULL;
	}
	return text;
}

/*
 * fd:NAME is what a client gave us and QEMU by getfd: our copy of it in *@fd,
 * and *@uri says its number. QEMU lets go of its own.
 */
static int named_uri(struct gw_qmp_call *call, char **uri, int *fd,
		     struct gw_error *err)
{
	const char *name = *uri + 3;
	json_t *msg;
	char *text;

	*fd = -1;
	if (strncmp(*uri, "fd:", 3))
		return 0;
	*fd = isdigit((unsigned char)*name) ? -1 :
					      gw_qmp_named_fd(call->s, name);
	if (*fd < 0)
		return gw_fail(err, ENOENT,
			       "File descriptor named '%.80s' has not been found",
			       name);
	msg = json_pack("{s:s, s:{s:s}}", "execute", "closefd", "arguments",
			"fdname", name);
	text = msg ? json_dumps(msg, 0) : NULL;
	json_decref(msg);
	/* Nobody waits for the answer; without memory QEMU keeps it open. */
	if (text)
		(void)!gw_upstream_send(call->s->front.up, 0,
					(struct gw_span){ text, strlen(text) },
					NULL, 0);
	free(text);
	free(*uri);
	*uri = NULL;
	if (asprintf(uri, "fd:%d", *fd) < 0) {
		*uri = NULL;
		return gw_fail(err, ENOMEM, "no memory");
	}
	return 0;
}

/* --- migrate, migrate-incoming -------------------------------------------- */

static int start(struct gw_qmp_call *call, bool incoming, struct gw_error *err)
{
	struct gw_front *f = &call->s->front;
	gw_autofree char *uri = get_uri(call->args, err);
	int fd = -1, r = uri ? 0 : -EINVAL;

	if (!r && (call->s->deferred.active || gw_session_busy(f->session)))
		r = gw_fail(err, EBUSY, "%s",
			    incoming ?
				    "The incoming migration has already been started" :
				    "There's a migration process in progress");
	if (!r)
		r = named_uri(call, &uri, &fd, err);
	if (!r)
		r = incoming ? gw_front_incoming(f, uri, err) :
			       gw_front_migrate(f, uri, NULL, err);
	if (r && fd >= 0)
		close(fd);
	if (!r)
		gw_qmp_defer(call, false, fd);
	return r;
}

static void migrate(struct gw_qmp_call *call)
{
	static const struct member m[] = { { "uri", STRING, true },
					   { "channels", ARRAY, true },
					   { "detach", BOOL, true },
					   { "resume", BOOL, true },
					   { NULL, STRING, false } };
	struct gw_error err = { 0 };
	int r = check_members(call->args, m, "", &err);

	if (!r && json_is_true(json_object_get(call->args, "resume")))
		r = gw_fail(&err, EINVAL,
			    "Cannot resume if there is no paused migration");
	if (!r)
		r = start(call, false, &err);
	if (r)
		finish(call, r, &err);
}

static void migrate_incoming(struct gw_qmp_call *call)
{
	static const struct member m[] = { { "uri", STRING, true },
					   { "channels", ARRAY, true },
					   { "exit-on-error", BOOL, true },
					   { NULL, STRING, false } };
	struct gw_error err = { 0 };
	int r = check_members(call->args, m, "", &err);

	if (!r)
		r = start(call, true, &err);
	if (r)
		finish(call, r, &err);
}

static void migrate_cancel(struct gw_qmp_call *call)
{
	struct gw_error err = { 0 };
	int r = check_members(call->args, nothing, "", &err);

	if (!r)
		gw_session_cancel(call->s->front.session);
	finish(call, r, &err);
}

static bool is_status(const char *s)
{
	static const char *const all[] = {
		"none", "setup", "cancelling", "cancelled", "active",
		"postcopy-active", "postcopy-paused", "postcopy-recover-setup",
		"postcopy-recover", "completed", "failed", "colo",
		"pre-switchover", "device", "wait-unplug",
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(all[i], s))
			return true;
	return false;
}

static void migrate_continue(struct gw_qmp_call *call)
{
	static const struct member m[] = { { "state", STRING, false },
					   { NULL, STRING, false } };
	const char *state = text_of(call->args, "state");
	struct gw_error err = { 0 };
	int r = check_members(call->args, m, "", &err);

	if (!r && !is_status(state))
		r = gw_fail(&err, EINVAL,
			    "Parameter 'state' does not accept value '%.80s'",
			    state);
	if (!r)
		r = gw_session_continue(call->s->front.session, state, &err);
	finish(call, r, &err);
}

/* --- settings and queries ------------------------------------------------- */

static void set_capabilities(struct gw_qmp_call *call)
{
	static const struct member m[] = { { "capabilities", ARRAY, false },
					   { NULL, STRING, false } };
	static const struct member one[] = { { "capability", STRING, false },
					     { "state", BOOL, false },
					     { NULL, STRING, false } };
	const json_t *list = json_object_get(call->args, "capabilities"), *v;
	struct gw_error err = { 0 };
	int r = check_members(call->args, m, "", &err);
	char where[48];
	size_t i;

	json_array_foreach(list, i, v) {
		snprintf(where, sizeof(where), "capabilities[%zu].", i);
		if (!r && !json_is_object(v))
			r = gw_fail(
				&err, EINVAL,
				"Invalid parameter type for 'capabilities[%zu]', expected: object",
				i);
		if (!r)
			r = check_members(v, one, where, &err);
	}
	if (!r)
		r = gw_front_set_caps(&call->s->front, list, &err);
	finish(call, r, &err);
}

static void set_parameters(struct gw_qmp_call *call)
{
	struct gw_error err = { 0 };

	finish(call, gw_front_set_params(&call->s->front, call->args, &err),
	       &err);
}

static void query(struct gw_qmp_call *call,
		  json_t *(*fn)(struct gw_front *f, struct gw_error *err))
{
	struct gw_error err = { 0 };
	int r = check_members(call->args, nothing, "", &err);
	json_t *j = r ? NULL : fn(&call->s->front, &err);

	if (j)
		gw_qmp_return(call->c, call->id, j);
	else
		gw_qmp_error(call->c, call->id, GENERIC, err.msg);
}

static void query_migrate(struct gw_qmp_call *call)
{
	query(call, gw_front_query);
}

static void query_capabilities(struct gw_qmp_call *call)
{
	query(call, gw_front_caps);
}

static void query_parameters(struct gw_qmp_call *call)
{
	query(call, gw_front_params);
}

/* --- HMP in QMP ----------------------------------------------------------- */

bool gw_qmp_is_our_hmp(const json_t *args)
{
	const char *line =
		json_string_value(json_object_get(args, "command-line"));

	return line && json_object_size(args) == 1 && gw_hmp_owns(line, true);
}

static void human_monitor_command(struct gw_qmp_call *call)
{
	const char *line = text_of(call->args, "command-line");
	enum gw_hmp_next next = GW_HMP_DONE;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f) {
		gw_qmp_error(call->c, call->id, GENERIC, "no memory");
		return;
	}
	if (call->s->deferred.active &&
	    (!strncmp(line, "migrate ", 8) ||
	     !strncmp(line, "migrate_incoming ", 17)))
		fprintf(f, "Error: There's a migration process in progress\n");
	else
		(void)!gw_hmp_run(&call->s->front, line, true, f, &next);
	fclose(f);
	if (next == GW_HMP_DONE)
		gw_qmp_return(call->c, call->id, gw_qmp_hmp_text(text));
	else
		gw_qmp_defer(call, true, -1);
	free(text);
}

static const struct gw_qmp_command commands[] = {
	{ "migrate", migrate },
	{ "migrate-incoming", migrate_incoming },
	{ "migrate_cancel", migrate_cancel },
	{ "migrate-continue", migrate_continue },
	{ "migrate-set-capabilities", set_capabilities },
	{ "query-migrate-capabilities", query_capabilities },
	{ "migrate-set-parameters", set_parameters },
	{ "query-migrate-parameters", query_parameters },
	{ "query-migrate", query_migrate },
	/* only with a command line that is godwit's */
	{ "human-monitor-command", human_monitor_command },
};

const struct gw_qmp_command *gw_qmp_command_find(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}
