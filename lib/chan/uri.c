/* SPDX-License-Identifier: BSD-3-Clause */
/* uri.c - see uri.h. One table of schemes, one parser per row. */
#include "chan/uri.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/units.h"

_Static_assert(GW_URI_SUN_MAX + 1 ==
		       sizeof(((struct sockaddr_un *)0)->sun_path),
	       "sun_path");

/* @text for a message: one line, no control characters, bounded. */
static void show(char *dst, size_t cap, const char *text)
{
	size_t n = strnlen(text, cap);
	bool cut = n >= cap;

	if (cut)
		n = cap - 4;
	for (size_t i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)text[i];

		dst[i] = ch < 0x20 || ch == 0x7f ? '?' : (char)ch;
	}
	memcpy(dst + n, cut ? "..." : "", cut ? 4 : 1);
}

static int bad(const struct gw_uri *u, struct gw_error *err, int code,
	       const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static int bad(const struct gw_uri *u, struct gw_error *err, int code,
	       const char *fmt, ...)
{
	va_list ap;
	char why[512];

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return gw_fail_as(err, GW_FAULT_USAGE, code, "migration URI '%s': %s",
			  u->shown, why);
}

/* Copy @len bytes of @src as a string of at most @cap - 1. */
static int take(const struct gw_uri *u, char *dst, size_t cap, const char *src,
		size_t len, const char *what, struct gw_error *err)
{
	if (len >= cap)
		return bad(u, err, ENAMETOOLONG,
			   "the %s is %zu bytes, the limit is %zu", what, len,
			   cap - 1);
	memcpy(dst, src, len);
	dst[len] = '\0';
	return 0;
}

/* --- tcp: -------------------------------------------------------------- */

/* A decimal port, nothing else in it. */
static bool parse_port(const char *s, uint16_t *port)
{
	unsigned v = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (!isdigit((unsigned char)*s))
			return false;
		v = v * 10 + (unsigned)(*s - '0');
		if (v > 65535)
			return false;
	}
	*port = (uint16_t)v;
	return true;
}

/* 1 or 0 for absent, "on", "off"; -1 for anything else. */
static int parse_on_off(const char *v)
{
	if (!v || !strcmp(v, "on"))
		return 1;
	return strcmp(v, "off") ? -1 : 0;
}

struct tcp_flags {
	int ipv4, ipv6; /* -1: not said */
};

static int tcp_option(struct gw_uri *u, struct tcp_flags *f, char *opt,
		      struct gw_error *err)
{
	char *v = strchr(opt, '='), name[48];
	int on;

	if (v)
		*v++ = '\0';
	show(name, sizeof(name), opt);
	if (!strcmp(opt, "to")) {
		if (!v || !parse_port(v, &u->port_to))
			return bad(u, err, EINVAL,
				   "option 'to' wants a port number");
		if (!u->port_is_number || u->port_to < u->port_number)
			return bad(u, err, EINVAL, "'to=%u' is below port '%s'",
				   u->port_to, u->port);
		return 0;
	}
	on = parse_on_off(v);
	if (!strcmp(opt, "ipv4"))
		f->ipv4 = on;
	else if (!strcmp(opt, "ipv6"))
		f->ipv6 = on;
	else if (!strcmp(opt, "keep-alive"))
		u->keep_alive = on > 0;
	else
		return bad(
			u, err, EINVAL,
			"unknown option '%s'; possible are to=PORT, ipv4, ipv6, keep-alive",
			name);
	if (on < 0)
		return bad(u, err, EINVAL, "option '%s' is 'on' or 'off'",
			   name);
	return 0;
}

static int tcp_options(struct gw_uri *u, const char *opts, struct gw_error *err)
{
	struct tcp_flags f = { -1, -1 };
	char buf[256], *save = NULL, *o;
	int r = take(u, buf, sizeof(buf), opts, strlen(opts), "option list",
		     err);

	for (o = strtok_r(buf, ",", &save); !r && o;
	     o = strtok_r(NULL, ",", &save))
		r = tcp_option(u, &f, o, err);
	if (r)
		return r;
	/* As QEMU: naming one family excludes the other, "off" too. */
	u->want_ipv4 = f.ipv4 == 1 || (f.ipv4 < 0 && f.ipv6 != 1);
	u->want_ipv6 = f.ipv6 == 1 || (f.ipv6 < 0 && f.ipv4 != 1);
	if (!u->want_ipv4 && !u->want_ipv6)
		return bad(u, err, EINVAL,
			   "neither IPv4 nor IPv6 is allowed by the options");
	return 0;
}

/* "[ADDRESS]": check it, as a name could never look like this. */
static int tcp_bracketed(struct gw_uri *u, const char **pos, const char *end,
			 struct gw_error *err)
{
	const char *p = *pos + 1, *close = memchr(p, ']', (size_t)(end - p));
	char bare[GW_URI_HOST_MAX + 1], *scope;
	struct in6_addr in6;
	int r;

	if (!close)
		return bad(u, err, EINVAL, "']' is missing");
	r = take(u, u->host, sizeof(u->host), p, (size_t)(close - p), "host",
		 err);
	if (r)
		return r;
	memcpy(bare, u->host, sizeof(bare));
	scope = strchr(bare, '%');
	if (scope)
		*scope = '\0';
	if (inet_pton(AF_INET6, bare, &in6) != 1)
		return bad(u, err, EINVAL,
			   "what is in brackets is not an IPv6 address");
	*pos = close + 1;
	return 0;
}

static int tcp_plain_host(struct gw_uri *u, const char **pos, const char *end,
			  struct gw_error *err)
{
	const char *p = *pos, *colon = memchr(p, ':', (size_t)(end - p));
	int r;

	if (!colon)
		return bad(
			u, err, EINVAL,
			"HOST:PORT expected, e.g. tcp:192.0.2.1:4444, or tcp::4444 for any address");
	if (memchr(colon + 1, ':', (size_t)(end - colon - 1)))
		return bad(
			u, err, EINVAL,
			"more than one ':'; an IPv6 address goes in brackets, e.g. tcp:[2001:db8::1]:4444");
	for (const char *s = p; s < colon; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-_.", *s))
			return bad(u, err, EINVAL,
				   "'%c' cannot be in a host name",
				   isprint((unsigned char)*s) ? *s : '?');
	r = take(u, u->host, sizeof(u->host), p, (size_t)(colon - p), "host",
		 err);
	if (!strcmp(u->host, "0")) /* QEMU users' word for "any" */
		u->host[0] = '\0';
	*pos = colon;
	return r;
}

static int tcp_port(struct gw_uri *u, const char *p, const char *end,
		    struct gw_error *err)
{
	bool letter = false;
	int r = take(u, u->port, sizeof(u->port), p, (size_t)(end - p), "port",
		     err);

	if (r)
		return r;
	u->port_is_number = parse_port(u->port, &u->port_number);
	u->port_to = u->port_number;
	if (u->port_is_number)
		return 0;
	for (p = u->port; *p; p++) {
		if (!isalnum((unsigned char)*p) && *p != '-')
			break;
		letter |= isalpha((unsigned char)*p) != 0;
	}
	if (*p || !letter)
		return bad(
			u, err, EINVAL,
			"the port must be a number from 0 to 65535 or a service name");
	return 0;
}

static int parse_tcp(struct gw_uri *u, const char *rest, struct gw_error *err)
{
	const char *comma = strchr(rest, ','), *pos = rest;
	const char *end = comma ? comma : rest + strlen(rest);
	int r;

	u->keep_alive = true;
	r = *rest == '[' ? tcp_bracketed(u, &pos, end, err) :
			   tcp_plain_host(u, &pos, end, err);
	if (r)
		return r;
	if (pos == end || *pos != ':')
		return bad(u, err, EINVAL, "':PORT' is missing");
	r = tcp_port(u, pos + 1, end, err);
	return r ? r : tcp_options(u, comma ? comma + 1 : "", err);
}

/* --- the others -------------------------------------------------------- */

static int parse_unix(struct gw_uri *u, const char *rest, struct gw_error *err)
{
	if (!*rest)
		return bad(u, err, EINVAL, "the path is missing: unix:PATH");
	return take(u, u->path, GW_URI_SUN_MAX + 1, rest, strlen(rest),
		    "path of a unix socket", err);
}

static int parse_fd(struct gw_uri *u, const char *rest, struct gw_error *err)
{
	long v = 0;
	const char *p;

	for (p = rest; isdigit((unsigned char)*p) && v <= INT_MAX; p++)
		v = v * 10 + (*p - '0');
	if (p == rest || *p || v > INT_MAX)
		return bad(
			u, err, EINVAL,
			"fd: wants the number of an open descriptor, e.g. fd:5");
	u->fd = (int)v;
	return 0;
}

static int parse_exec(struct gw_uri *u, const char *rest, struct gw_error *err)
{
	if (!rest[strspn(rest, " \t\n")])
		return bad(u, err, EINVAL,
			   "the command is missing: exec:COMMAND");
	u->command = rest;
	return 0;
}

/* QEMU 10.0 migration/file.c: file_parse_offset(), the first ",offset=". */
static int parse_file(struct gw_uri *u, const char *rest, struct gw_error *err)
{
	static const char key[] = ",offset=";
	const char *o = strstr(rest, key);
	size_t len = o ? (size_t)(o - rest) : strlen(rest);
	int r;

	if (!len)
		return bad(u, err, EINVAL, "the path is missing: file:PATH");
	r = take(u, u->path, sizeof(u->path), rest, len, "path", err);
	if (r || !o)
		return r;
	r = gw_parse_size("offset", o + strlen(key), &u->offset, NULL);
	if (r || u->offset > INT64_MAX)
		return bad(
			u, err, EINVAL,
			"the offset is not a size: a number of bytes, or one with a suffix k, M, G or T");
	return 0;
}

/* The spec itself is checked by gw_chan_fault(): here only its extent. */
static int parse_fault(struct gw_uri *u, const char *rest, struct gw_error *err)
{
	const char *plus = strchr(rest, '+'), *in = rest;
	struct gw_uri inner;
	int r, depth;

	if (!plus)
		return bad(
			u, err, EINVAL,
			"fault:SPEC+URI expected, e.g. fault:cut-write=1M+tcp:127.0.0.1:4444");
	for (depth = 1; (in = strchr(in, '+')) && !strncmp(in, "+fault:", 7);
	     in++)
		if (++depth > GW_URI_NEST_MAX)
			return bad(u, err, EINVAL, "more than %d times fault:",
				   GW_URI_NEST_MAX);
	r = take(u, u->fault, sizeof(u->fault), rest, (size_t)(plus - rest),
		 "fault specification", err);
	if (r)
		return r;
	u->inner = plus + 1;
	r = gw_uri_parse(&inner, u->inner, err);
	u->can = inner.can | GW_URI_TEST;
	return r;
}

const struct gw_uri_scheme gw_uri_schemes[] = {
	{ "tcp",
	  "tcp:HOST:PORT[,to=PORT][,ipv4[=on|off]][,ipv6[=on|off]][,keep-alive[=on|off]]",
	  GW_URI_TCP, GW_URI_CONNECT | GW_URI_LISTEN | GW_URI_MULTI,
	  parse_tcp },
	{ "unix", "unix:PATH", GW_URI_UNIX,
	  GW_URI_CONNECT | GW_URI_LISTEN | GW_URI_MULTI, parse_unix },
	{ "fd", "fd:N", GW_URI_FD, GW_URI_CONNECT | GW_URI_LISTEN, parse_fd },
	{ "exec", "exec:COMMAND", GW_URI_EXEC, GW_URI_CONNECT | GW_URI_LISTEN,
	  parse_exec },
	{ "file", "file:PATH[,offset=N]", GW_URI_FILE,
	  GW_URI_CONNECT | GW_URI_LISTEN | GW_URI_SEEK, parse_file },
	{ "fault", "fault:SPEC+URI", GW_URI_FAULT, GW_URI_TEST, parse_fault },
	{ 0 },
};
_Static_assert(sizeof(gw_uri_schemes) / sizeof(*gw_uri_schemes) ==
		       GW_URI_NKINDS + 1,
	       "one row per kind");

static int unknown(const struct gw_uri *u, const char *text, size_t len,
		   struct gw_error *err)
{
	char list[128] = "", word[48];
	size_t n = 0;

	for (const struct gw_uri_scheme *s = gw_uri_schemes; s->name; s++)
		if (!(s->can & GW_URI_TEST))
			n += (size_t)snprintf(list + n, sizeof(list) - n,
					      "%s%s:", n ? ", " : "", s->name);
	if (text[len] != ':')
		return bad(u, err, EINVAL,
			   "no transport is named; possible are %s", list);
	show(word, sizeof(word), text);
	if (len < sizeof(word))
		word[len] = '\0';
	return bad(u, err, EINVAL, "unknown transport '%s'; possible are %s",
		   word, list);
}

int gw_uri_parse(struct gw_uri *u, const char *text, struct gw_error *err)
{
	size_t len = strcspn(text, ":");

	memset(u, 0, sizeof(*u));
	u->fd = -1;
	show(u->shown, sizeof(u->shown), text);
	if (strnlen(text, GW_URI_MAX + 1) > GW_URI_MAX)
		return bad(u, err, ENAMETOOLONG,
			   "it is longer than the limit of %d bytes",
			   GW_URI_MAX);
	for (const struct gw_uri_scheme *s = gw_uri_schemes; s->name; s++) {
		if (text[len] != ':' || strlen(s->name) != len ||
		    strncmp(s->name, text, len))
			continue;
		u->scheme = s;
		u->can = s->can;
		return s->parse(u, text + len + 1, err);
	}
	return unknown(u, text, len, err);
}

int gw_uri_check_role(const struct gw_uri *u, enum gw_uri_can role,
		      struct gw_error *err)
{
	if (role != GW_URI_CONNECT || u->scheme->kind != GW_URI_TCP)
		return 0;
	if (u->port_is_number && !u->port_number)
		return bad(
			u, err, EINVAL,
			"port 0 (any free port) is only possible for listening");
	if (u->port_to != u->port_number)
		return bad(
			u, err, EINVAL,
			"',to=' (a range of ports) is only possible for listening");
	return 0;
}
