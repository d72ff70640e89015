/* SPDX-License-Identifier: BSD-3-Clause */
/* hmp.c - see hmp.h. */
#include "control/hmp.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "control/caps.h"
#include "control/params.h"
#include "control/stats.h"

struct call {
	struct gw_front *f;
	const char *line;
	bool nested;
	int argc; /* without the command itself */
	char **argv;
	FILE *out;
	enum gw_hmp_next *next;
};

struct command {
	const char *name; /* one word, or "info WORD" */
	const char *args, *help;
	int min, max; /* words behind it */
	bool not_nested;
	int (*run)(struct call *c, struct gw_error *err);
};

static const struct command commands[];

void gw_hmp_error(FILE *out, const struct gw_error *err)
{
	fprintf(out, "Error: %s\n", err->msg);
}

/* --- words ---------------------------------------------------------------- */

/* One word in quotes, from behind the opening one. Return: behind the closing
 * one, NULL with @err. */
static const char *quoted(const char *p, char **to, struct gw_error *err)
{
	static const char from[] = "nr\\'\"", is[] = "\n\r\\'\"";
	const char *hit;

	for (; *p != '"'; p++) {
		if (*p == '\\') {
			hit = p[1] ? strchr(from, p[1]) : NULL;
			if (!hit) {
				gw_fail(err, EINVAL,
					"unsupported escape code: '\\%c'",
					p[1]);
				return NULL;
			}
			*(*to)++ = is[hit - from];
			p++;
			continue;
		}
		if (!*p) {
			gw_fail(err, EINVAL, "unterminated string");
			return NULL;
		}
		*(*to)++ = *p;
	}
	return p + 1;
}

int gw_hmp_split(const char *line, char *buf, char *words[GW_HMP_MAX_WORDS],
		 struct gw_error *err)
{
	const char *p = line;
	int n = 0;

	for (;;) {
		while (isspace((unsigned char)*p))
			p++;
		if (!*p)
			return n;
		if (n == GW_HMP_MAX_WORDS)
			return gw_fail(err, EINVAL,
				       "a command has at most %d words",
				       GW_HMP_MAX_WORDS);
		words[n++] = buf;
		if (*p == '"') {
			p = quoted(p + 1, &buf, err);
			if (!p)
				return -EINVAL;
		}
		while (*p && !isspace((unsigned char)*p))
			*buf++ = *p++;
		*buf++ = '\0';
	}
}

/* --- QEMU's own ----------------------------------------------------------- */

/* QEMU's answer to @line; NULL with @err. To be freed. */
static char *qemu_says(struct gw_front *f, const char *line,
		       struct gw_error *err)
{
	json_t *answer = gw_upstream_ask(f->up, "human-monitor-command",
					 json_pack("{s:s}", "command-line",
						   line),
					 err);
	const char *text = json_string_value(json_object_get(answer, "return"));
	const char *why = json_string_value(json_object_get(
		json_object_get(answer, "error"), "desc"));
	char *copy = text ? strdup(text) : NULL, *to = copy;

	if (answer && !text)
		gw_fail(err, EREMOTEIO, "%s", why ? why : "(no reason)");
	else if (answer && !copy)
		gw_fail(err, ENOMEM, "no memory");
	for (const char *p = text; copy && *p; p++)
		if (*p != '\r')
			*to++ = *p;
	if (copy)
		*to = '\0';
	json_decref(answer);
	return copy;
}

static int pass(struct gw_front *f, const char *line, FILE *out,
		struct gw_error *err)
{
	gw_autofree char *text = qemu_says(f, line, err);

	if (!text)
		return -EREMOTEIO;
	fputs(text, out);
	/* That is all it says of an error. */
	return strncmp(text, "Error:", 6) &&
			       strncmp(text, "unknown command:", 16) ?
		       0 :
		       -EREMOTEIO;
}

/* --- migrating ------------------------------------------------------------ */

static int bad_option(const struct call *c, char option, struct gw_error *err)
{
	if (option == 'r')
		return gw_fail(err, EINVAL,
			       "Cannot resume if there is no paused migration");
	return gw_fail(err, EINVAL, "migrate has no option -%c", option);
}

static int migrate(struct call *c, struct gw_error *err)
{
	struct gw_front_extra extra = { 0 };
	bool detach = c->nested; /* QMP does not wait */
	int i = 0, r;

	for (; i < c->argc && c->argv[i][0] == '-'; i++) {
		for (const char *p = c->argv[i] + 1; *p; p++) {
			if (*p == 'd')
				detach = true;
			else if (*p == 'x')
				extra.xbzrle = true;
			else if (*p == 'b')
				extra.disks = "full";
			else if (*p == 'i')
				extra.disks = "incremental";
			else
				return bad_option(c, *p, err);
		}
	}
	if (i + 1 != c->argc)
		return gw_fail(err, EINVAL, "%s",
			       i == c->argc ?
				       "migrate: the URI is missing" :
				       "migrate: more than one URI (one with blanks goes in \"quotes\")");
	r = gw_front_migrate(c->f, c->argv[i], &extra, err);
	if (!r)
		*c->next = detach ? GW_HMP_BEGUN : GW_HMP_BEGUN_WAIT;
	return r;
}

static int migrate_incoming(struct call *c, struct gw_error *err)
{
	int r = gw_front_incoming(c->f, c->argv[0], err);

	if (!r)
		*c->next = GW_HMP_BEGUN;
	return r;
}

static int migrate_cancel(struct call *c, struct gw_error *err)
{
	gw_session_cancel(c->f->session);
	return 0;
}

static int migrate_continue(struct call *c, struct gw_error *err)
{
	return gw_session_continue(c->f->session, c->argv[0], err);
}

/* --- settings ------------------------------------------------------------- */

/* A number alone is MiB here, as it always was. */
static const char *mebibytes(const char *s, char buf[64])
{
	size_t n = strlen(s);

	if (!n || !isdigit((unsigned char)s[n - 1]))
		return s;
	snprintf(buf, 64, "%.60sM", s);
	return buf;
}

static int set_ours(struct call *c, const char *ours, const char *value,
		    struct gw_error *err)
{
	return gw_front_set_own(c->f, gw_param_find(ours), value, err);
}

static int migrate_set_cachesize(struct call *c, struct gw_error *err)
{
	char buf[64];

	return set_ours(c, "cache-size", mebibytes(c->argv[0], buf), err);
}

static int migrate_set_speed(struct call *c, struct gw_error *err)
{
	char buf[64];

	return set_ours(c, "max-bandwidth", mebibytes(c->argv[0], buf), err);
}

/* A number alone is seconds. */
static int migrate_set_downtime(struct call *c, struct gw_error *err)
{
	const char *s = c->argv[0];
	size_t n = strlen(s);
	char buf[64];

	if (n && isdigit((unsigned char)s[n - 1])) {
		snprintf(buf, sizeof(buf), "%.60ss", s);
		s = buf;
	}
	return set_ours(c, "downtime-limit", s, err);
}

static int set_capability(struct call *c, struct gw_error *err)
{
	bool on = !strcmp(c->argv[1], "on");
	json_t *list;
	int r;

	if (!on && strcmp(c->argv[1], "off"))
		return gw_fail(err, EINVAL, "Expected 'on' or 'off'");
	if (gw_cap_find(c->argv[0]) < 0)
		return gw_fail(err, EINVAL, "invalid parameter value: %s",
			       c->argv[0]);
	list = json_pack("[{s:s, s:b}]", "capability", c->argv[0], "state",
			 on);
	r = list ? gw_front_set_caps(c->f, list, err) : -ENOMEM;
	json_decref(list);
	return r;
}

static int possible(const struct gw_qmp_param *q, const char *value,
		    struct gw_error *err)
{
	for (int i = 0; q->possible && q->possible[i]; i++)
		if (!strcmp(q->possible[i], value))
			return 0;
	if (!q->possible)
		return 0;
	return gw_fail(err, EINVAL,
		       "Parameter '%s' does not accept value '%s': %s", q->qmp,
		       value, q->why);
}

static int set_parameter(struct call *c, struct gw_error *err)
{
	const struct gw_qmp_param *q = gw_qmp_param_find(c->argv[0]);
	const struct gw_param *own = gw_front_own_param(c->argv[0]);
	const char *value = c->argv[1];
	char buf[64];
	int r;

	if (own)
		return gw_front_set_own(c->f, own, value, err);
	if (q && q->ours) {
		if (!strcmp(q->ours, "max-bandwidth"))
			value = mebibytes(value, buf);
		return set_ours(c, q->ours, value, err);
	}
	r = q ? possible(q, value, err) : 0;
	return r ? r : pass(c->f, c->line, c->out, err);
}

/* --- looking -------------------------------------------------------------- */

static int info_migrate(struct call *c, struct gw_error *err)
{
	json_t *j = gw_front_query(c->f, err);

	if (!j)
		return -EREMOTEIO;
	gw_stats_print(j, c->out);
	json_decref(j);
	return 0;
}

static int info_capabilities(struct call *c, struct gw_error *err)
{
	json_t *list = gw_front_caps(c->f, err), *j;
	size_t i;

	json_array_foreach(list, i, j) {
		fprintf(c->out, "%s: %s\n",
			json_string_value(json_object_get(j, "capability")),
			json_is_true(json_object_get(j, "state")) ? "on" :
								    "off");
	}
	json_decref(list);
	return list ? 0 : -EREMOTEIO;
}

/* QEMU's line "NAME: NUMBER UNIT", with our number where it is ours. */
static void print_parameter(struct call *c, const char *line, size_t len)
{
	size_t n = strcspn(line, ":"), digits;
	const struct gw_qmp_param *q;
	const struct gw_param *d;
	char name[64];
	int64_t v;

	snprintf(name, sizeof(name), "%.*s", n < len ? (int)n : (int)len,
		 line);
	q = gw_qmp_param_find(name);
	if (!q || !q->ours || n + 2 > len) {
		fprintf(c->out, "%.*s\n", (int)len, line);
		return;
	}
	d = gw_param_find(q->ours);
	v = gw_param_number(&c->f->params, d);
	if (q->unit == GW_UNIT_MS)
		v /= 1000000;
	digits = strspn(line + n + 2, "0123456789");
	fprintf(c->out, "%s: %lld%.*s\n", name, (long long)v,
		(int)(len - n - 2 - digits), line + n + 2 + digits);
}

static void print_own(struct call *c, const struct gw_param *d)
{
	const struct godwit_params *p = &c->f->params;
	char text[64];

	fprintf(c->out, "%s: ", d->name);
	if (d->type == GW_PARAM_NAME || d->type == GW_PARAM_METHOD)
		fprintf(c->out, "%s\n", gw_param_text(p, d, text));
	else if (d->type == GW_PARAM_BOOL)
		fprintf(c->out, "%s\n", gw_param_number(p, d) ? "on" : "off");
	else if (d->type == GW_PARAM_TIME)
		fprintf(c->out, "%lld ms\n",
			(long long)gw_param_number(p, d) / 1000000);
	else
		fprintf(c->out, "%lld\n", (long long)gw_param_number(p, d));
}

static int info_parameters(struct call *c, struct gw_error *err)
{
	gw_autofree char *text =
		qemu_says(c->f, "info migrate_parameters", err);
	const char *p = text;

	if (!text)
		return -EREMOTEIO;
	while (*p) {
		size_t len = strcspn(p, "\n");

		print_parameter(c, p, len);
		p += len + (p[len] == '\n');
	}
	for (size_t i = 0; i < gw_nparams; i++)
		if (gw_front_own_param(gw_params[i].name))
			print_own(c, &gw_params[i]);
	return 0;
}

/* --- the table ------------------------------------------------------------ */

static const struct command *find(char *const *words, int n, bool nested);

static int help(struct call *c, struct gw_error *err)
{
	const struct command *one = find(c->argv, c->argc, false);

	if (c->argc && !one)
		return pass(c->f, c->line, c->out, err);
	for (const struct command *i = commands; i->name; i++)
		if (!one || one == i)
			fprintf(c->out, "%s %s -- %s\n", i->name, i->args,
				i->help);
	if (!one)
		fprintf(c->out, "Everything else goes to QEMU's own monitor: 'help COMMAND' asks it.\n");
	return 0;
}

static int quit(struct call *c, struct gw_error *err)
{
	*c->next = GW_HMP_QUIT;
	return 0;
}

static const struct command commands[] = {
	{ "migrate", "[-d] [-x] [-b] [-i] uri",
	  "move the VM (-d: do not wait; -x: xbzrle; -b: copy its disks; -i: what is above their backing files)",
	  0, 5, false, migrate },
	{ "migrate_incoming", "uri", "take a VM in, in one run with --incoming",
	  1, 1, false, migrate_incoming },
	{ "migrate_cancel", "", "cancel; the VM goes on here", 0, 0, false,
	  migrate_cancel },
	{ "migrate_continue", "state",
	  "go on from state pre-switchover (capability pause-before-switchover)",
	  1, 1, false, migrate_continue },
	{ "migrate_set_cachesize", "value",
	  "bytes of pages xbzrle remembers, '256m'; a number alone is MiB", 1,
	  1, false, migrate_set_cachesize },
	{ "migrate_set_speed", "value",
	  "bytes per second at most, '1g'; a number alone is MiB; 0: no limit",
	  1, 1, false, migrate_set_speed },
	{ "migrate_set_downtime", "value",
	  "downtime to aim for; a number alone is seconds", 1, 1, false,
	  migrate_set_downtime },
	{ "migrate_set_capability", "capability on|off", "see info", 2, 2,
	  false, set_capability },
	{ "migrate_set_parameter", "parameter value",
	  "see info; max-bandwidth without a suffix is MiB/s", 2, 2, false,
	  set_parameter },
	{ "info migrate", "", "how it stands", 0, 0, false, info_migrate },
	{ "info migrate_capabilities", "", "on or off", 0, 0, false,
	  info_capabilities },
	{ "info migrate_parameters", "", "QEMU's and godwit's", 0, 0, false,
	  info_parameters },
	{ "help", "[command]", "this", 0, GW_HMP_MAX_WORDS, true, help },
	{ "quit", "", "leave this monitor; the VM goes on", 0, 0, true, quit },
	{ "q", "", "the same", 0, 0, true, quit },
	{ NULL, NULL, NULL, 0, 0, false, NULL },
};

/* The command that @words begin with. */
static const struct command *find(char *const *words, int n, bool nested)
{
	for (const struct command *c = commands; c->name; c++) {
		const char *second = strchr(c->name, ' ');
		size_t len = second ? (size_t)(second - c->name) :
				      strlen(c->name);

		if (n < (second ? 2 : 1) || (nested && c->not_nested) ||
		    strlen(words[0]) != len || strncmp(words[0], c->name, len))
			continue;
		if (!second || !strcmp(words[1], second + 1))
			return c;
	}
	return NULL;
}

static int check_count(const struct command *cmd, int n, struct gw_error *err)
{
	if (n >= cmd->min && n <= cmd->max)
		return 0;
	return gw_fail(err, EINVAL, "usage: %s %s", cmd->name, cmd->args);
}

bool gw_hmp_owns(const char *line, bool nested)
{
	gw_autofree char *buf = malloc(strlen(line) + 1);
	char *words[GW_HMP_MAX_WORDS];
	int n = buf ? gw_hmp_split(line, buf, words, NULL) : 0;

	return n > 0 && find(words, n, nested);
}

int gw_hmp_run(struct gw_front *f, const char *line, bool nested, FILE *out,
	       enum gw_hmp_next *next)
{
	gw_autofree char *buf = malloc(strlen(line) + 1);
	char *words[GW_HMP_MAX_WORDS];
	const struct command *cmd;
	struct gw_error err = { 0 };
	struct call c = { .f = f, .line = line, .nested = nested, .out = out,
			  .next = next };
	int n = buf ? gw_hmp_split(line, buf, words, NULL) : 0, r, skip;

	*next = GW_HMP_DONE;
	/* What only QEMU can take apart is QEMU's. */
	cmd = n > 0 ? find(words, n, nested) : NULL;
	if (n == 0)
		return 0;
	if (!cmd) {
		r = pass(f, line, out, &err);
	} else {
		skip = strchr(cmd->name, ' ') ? 2 : 1;
		c.argc = n - skip;
		c.argv = words + skip;
		r = check_count(cmd, c.argc, &err);
		if (!r)
			r = cmd->run(&c, &err);
	}
	if (r && err.code)
		gw_hmp_error(out, &err);
	return r;
}
