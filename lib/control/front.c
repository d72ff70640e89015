/* SPDX-License-Identifier: BSD-3-Clause */
/* front.c - see front.h. */
#include "control/front.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "chan/uri.h"
#include "control/caps.h"
#include "control/params.h"
#include "control/stats.h"

#define MOST_BYTES 9000000000000000000LL /* what gw_parse_size() takes */

/* --- QEMU's parameters ---------------------------------------------------- */

static const char *const empty[] = { "", NULL };
static const char *const normal[] = { "normal", NULL };
static const char *const methods[] = { "none", "zlib", "zstd", NULL };

#define NO_TLS "there is no TLS here: protect the connection by a tunnel"

const struct gw_qmp_param gw_qmp_params[] = {
	{ "max-bandwidth", "max-bandwidth", GW_UNIT_BYTES, NULL, NULL },
	{ "downtime-limit", "downtime-limit", GW_UNIT_MS, NULL, NULL },
	{ "xbzrle-cache-size", "cache-size", GW_UNIT_BYTES, NULL, NULL },
	{ "cpu-throttle-initial", "cpu-throttle-initial", GW_UNIT_NUMBER, NULL,
	  NULL },
	{ "cpu-throttle-increment", "cpu-throttle-increment", GW_UNIT_NUMBER,
	  NULL, NULL },
	{ "max-cpu-throttle", "max-cpu-throttle", GW_UNIT_NUMBER, NULL, NULL },
	{ "throttle-trigger-threshold", "throttle-trigger-threshold",
	  GW_UNIT_NUMBER, NULL, NULL },
	/* kept by QEMU, and read when a migration with multifd begins */
	{ "multifd-channels", NULL, GW_UNIT_NUMBER, NULL, NULL },
	{ "multifd-compression", NULL, GW_UNIT_NUMBER, methods,
	  "of QEMU's methods those are known here" },
	{ "multifd-zlib-level", NULL, GW_UNIT_NUMBER, NULL, NULL },
	{ "multifd-zstd-level", NULL, GW_UNIT_NUMBER, NULL, NULL },
	/* QEMU would apply them to what it sends to godwit */
	{ "tls-creds", NULL, GW_UNIT_NUMBER, empty, NO_TLS },
	{ "tls-hostname", NULL, GW_UNIT_NUMBER, empty, NO_TLS },
	{ "tls-authz", NULL, GW_UNIT_NUMBER, empty, NO_TLS },
	{ "mode", NULL, GW_UNIT_NUMBER, normal,
	  "QEMU's other ways leave godwit out" },
	{ NULL, NULL, GW_UNIT_NUMBER, NULL, NULL },
};

const struct gw_qmp_param *gw_qmp_param_find(const char *qmp)
{
	for (const struct gw_qmp_param *q = gw_qmp_params; q->qmp; q++)
		if (!strcmp(q->qmp, qmp))
			return q;
	return NULL;
}

const struct gw_param *gw_front_own_param(const char *name)
{
	const struct gw_param *d = gw_param_find(name);
	int cap = gw_cap_find(name);

	if (!d || !(d->uses & (GW_USE_MIGRATE | GW_USE_RECEIVE)) ||
	    d->type == GW_PARAM_TEXT || /* nobody here would keep it */
	    (cap >= 0 && gw_caps[cap].kind == GW_CAP_PARAM))
		return NULL;
	for (const struct gw_qmp_param *q = gw_qmp_params; q->qmp; q++)
		if (q->ours && !strcmp(q->ours, name))
			return NULL;
	return d;
}

/* --- asking QEMU ---------------------------------------------------------- */

/* The value of an answer (a new reference), or its reason in @err. */
static json_t *ask(struct gw_front *f, const char *command, json_t *args,
		   struct gw_error *err)
{
	json_t *answer = gw_upstream_ask(f->up, command, args, err);
	json_t *value = json_incref(json_object_get(answer, "return"));
	const char *why = json_string_value(json_object_get(
		json_object_get(answer, "error"), "desc"));

	if (answer && !value)
		gw_fail(err, EREMOTEIO, "%s", why ? why : "(no reason)");
	json_decref(answer);
	return value;
}

static int tell(struct gw_front *f, const char *command, json_t *args,
		struct gw_error *err)
{
	json_t *v = ask(f, command, args, err);

	json_decref(v);
	return v ? 0 : -EREMOTEIO;
}

/* --- capabilities --------------------------------------------------------- */

static const char *text_of(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

int gw_front_set_caps(struct gw_front *f, const json_t *list,
		      struct gw_error *err)
{
	json_t *qemus = json_array(), *c;
	uint64_t set = f->caps;
	size_t i;
	int r = 0;

	if (gw_session_busy(f->session))
		r = gw_fail(err, EBUSY,
			    "There's a migration process in progress");
	json_array_foreach(list, i, c) {
		const char *name = text_of(c, "capability");
		bool on = json_is_true(json_object_get(c, "state"));
		int n = gw_cap_find(name);

		if (r)
			break;
		if (n < 0) {
			r = gw_fail(err, EINVAL,
				    "Parameter 'capability' does not accept value '%s'",
				    name);
			break;
		}
		set = (set & ~(1ULL << n)) | (uint64_t)on << n;
		if (gw_caps[n].kind == GW_CAP_QEMU)
			json_array_append(qemus, c);
	}
	if (!r)
		r = gw_caps_check(set, err);
	if (!r && json_array_size(qemus))
		r = tell(f, "migrate-set-capabilities",
			 json_pack("{s:O}", "capabilities", qemus), err);
	json_decref(qemus);
	if (!r)
		f->caps = set;
	return r;
}

json_t *gw_front_caps(struct gw_front *f, struct gw_error *err)
{
	json_t *list = ask(f, "query-migrate-capabilities", NULL, err), *c;
	size_t i;

	json_array_foreach(list, i, c) {
		int n = gw_cap_find(text_of(c, "capability"));

		if (n >= 0)
			json_object_set_new(c, "state",
					    json_boolean(f->caps >> n & 1));
	}
	return list;
}

/* --- parameters ----------------------------------------------------------- */

/* @v as gw_param_set() takes it. Return: 0, or -EINVAL: not a value for
 * that. */
static int value_text(const struct gw_param *d, const json_t *v, char *buf,
		      size_t size)
{
	double real = json_number_value(v);
	json_int_t n = real >= (double)MOST_BYTES ? MOST_BYTES :
						    json_integer_value(v);

	switch (d->type) {
	case GW_PARAM_BOOL:
		snprintf(buf, size, "%s", json_is_true(v) ? "on" : "off");
		return json_is_boolean(v) ? 0 : -EINVAL;
	case GW_PARAM_NAME:
	case GW_PARAM_METHOD:
		snprintf(buf, size, "%s",
			 json_is_string(v) ? json_string_value(v) : "");
		return json_is_string(v) ? 0 : -EINVAL;
	default:
		if (json_is_string(v)) {
			snprintf(buf, size, "%s", json_string_value(v));
			return 0;
		}
		if (n < 0 || (!json_is_integer(v) && real < (double)MOST_BYTES))
			return -EINVAL;
		snprintf(buf, size, "%lld%s", (long long)n,
			 d->type == GW_PARAM_TIME ? "ms" : "");
		return 0;
	}
}

static int wrong_type(const char *name, const struct gw_param *d,
		      struct gw_error *err)
{
	if (d->type == GW_PARAM_BOOL)
		return gw_fail(err, EINVAL,
			       "Invalid parameter type for '%s', expected: boolean",
			       name);
	return gw_fail(err, EINVAL, "Parameter '%s' expects %s", name,
		       d->type == GW_PARAM_NAME || d->type == GW_PARAM_METHOD ?
			       "a string" :
		       d->type == GW_PARAM_COUNT ? "uint8" :
						   "uint64");
}

static int check_possible(const struct gw_qmp_param *q, const json_t *v,
			  struct gw_error *err)
{
	const char *s = json_is_null(v) ? "" : json_string_value(v);

	for (int i = 0; s && q->possible && q->possible[i]; i++)
		if (!strcmp(q->possible[i], s))
			return 0;
	if (!s || !q->possible) /* QEMU finds the words */
		return 0;
	return gw_fail(err, EINVAL,
		       "Parameter '%s' does not accept value '%s': %s", q->qmp,
		       s, q->why);
}

/* One member into @p; *@theirs: QEMU keeps it. */
static int set_one(struct godwit_params *p, const char *name, const json_t *v,
		   bool *theirs, struct gw_error *err)
{
	const struct gw_qmp_param *q = gw_qmp_param_find(name);
	const struct gw_param *d = q && q->ours ? gw_param_find(q->ours) :
				   q		? NULL :
						  gw_front_own_param(name);
	char text[64];

	*theirs = !d;
	if (!d)
		return q ? check_possible(q, v, err) : 0;
	if (value_text(d, v, text, sizeof(text)) ||
	    (q && json_is_string(v)))
		return wrong_type(name, d, err);
	if (!gw_param_set(p, d, text, err))
		return 0;
	gw_error_prefix(err, "Parameter '%s'", name);
	return -err->code;
}

static void value_of(const struct godwit_params *p, const struct gw_param *d,
		     char *buf, size_t size)
{
	snprintf(buf, size, "%lld%s", (long long)gw_param_number(p, d),
		 d->type == GW_PARAM_TIME ? "ns" : "");
}

/* Keep @next, and tell the operation that runs what it can still change. */
static int keep(struct gw_front *f, const struct godwit_params *next,
		struct gw_error *err)
{
	struct godwit_params old = f->params;
	int r = 0;

	f->params = *next;
	/* Channels are what the capability stands for. */
	if (next->channels != old.channels) {
		uint64_t bit = 1ULL << gw_cap_find("multifd");

		f->caps = next->channels ? f->caps | bit : f->caps & ~bit;
	}
	for (size_t i = 0; i < gw_nparams && !r; i++) {
		const struct gw_param *d = &gw_params[i];
		char text[64];

		if (!(d->uses & GW_USE_NOW) ||
		    gw_param_number(&old, d) == gw_param_number(next, d))
			continue;
		value_of(next, d, text, sizeof(text));
		r = gw_session_set(f->session, d->name, text, err);
	}
	return r;
}

int gw_front_set_params(struct gw_front *f, const json_t *params,
			struct gw_error *err)
{
	struct godwit_params next = f->params;
	json_t *rest = json_object(), *v;
	const char *name;
	bool theirs;
	int r = 0;

	json_object_foreach((json_t *)(uintptr_t)params, name, v) {
		r = set_one(&next, name, v, &theirs, err);
		if (r)
			break;
		if (theirs)
			json_object_set(rest, name, v);
	}
	if (!r)
		r = gw_params_check(&next, err);
	if (!r && json_object_size(rest))
		r = tell(f, "migrate-set-parameters", json_incref(rest), err);
	json_decref(rest);
	return r ? r : keep(f, &next, err);
}

int gw_front_set_own(struct gw_front *f, const struct gw_param *d,
		     const char *value, struct gw_error *err)
{
	struct godwit_params next = f->params;
	int r = gw_param_set(&next, d, value, err);

	if (!r)
		r = gw_params_check(&next, err);
	return r ? r : keep(f, &next, err);
}

static json_t *value_json(const struct godwit_params *p,
			  const struct gw_param *d)
{
	char text[64];

	switch (d->type) {
	case GW_PARAM_BOOL:
		return json_boolean(gw_param_number(p, d));
	case GW_PARAM_NAME:
	case GW_PARAM_METHOD:
		return json_string(gw_param_text(p, d, text));
	case GW_PARAM_TIME:
		return json_integer(gw_param_number(p, d) / GW_NS_PER_MS);
	default:
		return json_integer(gw_param_number(p, d));
	}
}

json_t *gw_front_params(struct gw_front *f, struct gw_error *err)
{
	json_t *j = ask(f, "query-migrate-parameters", NULL, err);

	if (!j)
		return NULL;
	for (const struct gw_qmp_param *q = gw_qmp_params; q->qmp; q++)
		if (q->ours)
			json_object_set_new(
				j, q->qmp,
				value_json(&f->params,
					   gw_param_find(q->ours)));
	for (size_t i = 0; i < gw_nparams; i++)
		if (gw_front_own_param(gw_params[i].name))
			json_object_set_new(j, gw_params[i].name,
					    value_json(&f->params,
						       &gw_params[i]));
	return j;
}

/* --- operations ----------------------------------------------------------- */

/* "multifd": what QEMU keeps of it. The user's own --channels and --compress
 * come first. */
static int apply_multifd(struct gw_front *f, struct godwit_params *p,
			 struct gw_error *err)
{
	json_t *j = ask(f, "query-migrate-parameters", NULL, err);
	const char *method = text_of(j, "multifd-compression");
	char text[64], key[64];
	int r = j ? 0 : -EREMOTEIO;

	if (!r && !p->channels) {
		snprintf(text, sizeof(text), "%lld",
			 (long long)json_integer_value(
				 json_object_get(j, "multifd-channels")));
		r = gw_param_set(p, gw_param_find("channels"), text, err);
	}
	if (!r && !strcmp(p->compress, "none") && strcmp(method, "none")) {
		snprintf(key, sizeof(key), "multifd-%.32s-level", method);
		snprintf(text, sizeof(text), "%.32s:%lld", method,
			 (long long)json_integer_value(
				 json_object_get(j, key)));
		r = gw_param_set(p, gw_param_find("compress"), text, err);
	}
	json_decref(j);
	return r;
}

static int begin(struct gw_front *f, struct gw_session_plan *plan, bool xbzrle,
		 enum gw_uri_can role, struct gw_error *err)
{
	struct gw_uri u;
	int r = gw_uri_parse(&u, plan->uri, err);

	if (!r)
		r = gw_uri_check_role(&u, role, err);
	if (!r && gw_session_busy(f->session))
		r = gw_fail(err, EBUSY,
			    "There's a migration process in progress");
	if (r)
		return r;
	gw_caps_apply(f->caps, &plan->params);
	plan->params.xbzrle |= xbzrle;
	if (gw_cap_has(f->caps, "multifd"))
		r = apply_multifd(f, &plan->params, err);
	else
		plan->params.channels = 0;
	return r ? r : gw_session_begin(f->session, plan, err);
}

int gw_front_migrate(struct gw_front *f, const char *uri,
		     const struct gw_front_extra *extra, struct gw_error *err)
{
	static const struct gw_front_extra none;
	struct gw_session_plan plan = {
		.uri = uri,
		.params = f->params,
		.pause = gw_cap_has(f->caps, "pause-before-switchover"),
	};

	if (!extra)
		extra = &none;
	if (extra->disks && gw_param_set(&plan.params, gw_param_find("disks"),
					 extra->disks, err))
		return -err->code;
	return begin(f, &plan, extra->xbzrle, GW_URI_CONNECT, err);
}

int gw_front_incoming(struct gw_front *f, const char *uri,
		      struct gw_error *err)
{
	struct gw_session_plan plan = { .incoming = true,
					.uri = uri,
					.params = f->params };

	return begin(f, &plan, false, GW_URI_LISTEN, err);
}

/* Where it listens, as QEMU's SocketAddress. */
static json_t *address_json(const char *uri)
{
	struct gw_uri u;

	if (gw_uri_parse(&u, uri, NULL))
		return NULL;
	if (u.scheme->kind == GW_URI_UNIX)
		return json_pack("{s:s, s:s}", "type", "unix", "path", u.path);
	if (u.scheme->kind == GW_URI_TCP)
		return json_pack("{s:s, s:s, s:s, s:b}", "type", "inet",
				 "host", *u.host ? u.host : "0.0.0.0", "port",
				 u.port, strchr(u.host, ':') ? "ipv6" : "ipv4",
				 1);
	return NULL;
}

/* Devices that cannot move are known to QEMU, and it is only asked while
 * nothing moves: it may be busy then. */
static int add_blockers(struct gw_front *f, json_t *j, struct gw_error *err)
{
	json_t *q = ask(f, "query-migrate", NULL, err);
	json_t *list = json_object_get(q, "blocked-reasons");

	if (list)
		json_object_set(j, "blocked-reasons", list);
	json_decref(q);
	return q ? 0 : -EREMOTEIO;
}

json_t *gw_front_query(struct gw_front *f, struct gw_error *err)
{
	struct gw_session_state s;
	json_t *j, *a;

	gw_session_state(f->session, &s);
	/* QEMU has the numbers of its cache as soon as it is wanted. */
	if (s.xbzrle && !s.stats.xbzrle_cache_size)
		s.stats.xbzrle_cache_size = f->params.cache_size;
	if (!strcmp(s.status, "none"))
		j = json_object();
	else
		j = gw_stats_query(&s.stats, s.status, !s.incoming, &s.error);
	if (j && *s.listening && !strcmp(s.status, "setup")) {
		a = address_json(s.listening);
		if (a)
			json_object_set_new(j, "socket-address",
					    json_pack("[o]", a));
	}
	if (j && !s.busy && add_blockers(f, j, err)) {
		json_decref(j);
		return NULL;
	}
	return j;
}
