/* SPDX-License-Identifier: BSD-3-Clause */
/* uri_test.c - what gw_uri_parse() takes, and what it says when it does not. */
#include "test.h"

#include <errno.h>

#include "chan/uri.h"

static struct gw_uri u;
static struct gw_error err;

static int parse(const char *text)
{
	memset(&err, 0, sizeof(err));
	return gw_uri_parse(&u, text, &err);
}

static void tcp_forms_are_understood(void)
{
	static const struct {
		const char *text, *host, *port;
		int number, to;
		bool v4, v6, keep;
	} t[] = {
		{ "tcp:192.0.2.1:4444", "192.0.2.1", "4444", 4444, 4444, 1, 1, 1 },
		{ "tcp::4444", "", "4444", 4444, 4444, 1, 1, 1 },
		{ "tcp:0:4444", "", "4444", 4444, 4444, 1, 1, 1 },
		{ "tcp:0.0.0.0:0", "0.0.0.0", "0", 0, 0, 1, 1, 1 },
		{ "tcp:[2001:db8::1]:65535", "2001:db8::1", "65535", 65535, 65535, 1, 1, 1 },
		{ "tcp:[fe80::1%eth0]:1", "fe80::1%eth0", "1", 1, 1, 1, 1, 1 },
		{ "tcp:[::]:9", "::", "9", 9, 9, 1, 1, 1 },
		{ "tcp:host-1.example_x:http", "host-1.example_x", "http", 0, 0, 1, 1, 1 },
		{ "tcp:h:10,to=20", "h", "10", 10, 20, 1, 1, 1 },
		{ "tcp:h:10,ipv4", "h", "10", 10, 10, 1, 0, 1 },
		{ "tcp:h:10,ipv4=on", "h", "10", 10, 10, 1, 0, 1 },
		{ "tcp:h:10,ipv4=off", "h", "10", 10, 10, 0, 1, 1 },
		{ "tcp:h:10,ipv6", "h", "10", 10, 10, 0, 1, 1 },
		{ "tcp:h:10,ipv6=off", "h", "10", 10, 10, 1, 0, 1 },
		{ "tcp:h:10,ipv4,ipv6", "h", "10", 10, 10, 1, 1, 1 },
		{ "tcp:h:10,keep-alive=off,to=11", "h", "10", 10, 11, 1, 1, 0 },
		{ "tcp:h:10,keep-alive", "h", "10", 10, 10, 1, 1, 1 },
		{ "tcp:h:010", "h", "010", 10, 10, 1, 1, 1 },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		CHECK_OK(parse(t[i].text), &err);
		if (err.code)
			continue;
		CHECK(u.scheme->kind == GW_URI_TCP);
		CHECK(!strcmp(u.host, t[i].host));
		CHECK(!strcmp(u.port, t[i].port));
		CHECK(u.port_number == t[i].number && u.port_to == t[i].to);
		CHECK(u.want_ipv4 == t[i].v4 && u.want_ipv6 == t[i].v6);
		CHECK(u.keep_alive == t[i].keep);
	}
}

static void other_forms_are_understood(void)
{
	CHECK_OK(parse("unix:/run/a,b:c"), &err);
	CHECK(u.scheme->kind == GW_URI_UNIX && !strcmp(u.path, "/run/a,b:c"));
	CHECK(u.can & GW_URI_MULTI);
	CHECK_OK(parse("fd:0"), &err);
	CHECK(u.fd == 0 && !(u.can & GW_URI_MULTI));
	CHECK_OK(parse("fd:2147483647"), &err);
	CHECK(u.fd == 2147483647);
	CHECK_OK(parse("exec:ssh host 'cat >x'"), &err);
	CHECK(!strcmp(u.command, "ssh host 'cat >x'"));
	CHECK_OK(parse("file:/a b,c"), &err);
	CHECK(!strcmp(u.path, "/a b,c") && !u.offset && u.can & GW_URI_SEEK);
}

static void file_offsets_are_sizes(void)
{
	CHECK_OK(parse("file:x,offset=4k"), &err);
	CHECK(!strcmp(u.path, "x") && u.offset == 4096);
	CHECK(parse("file:x,offset=") == -EINVAL);
	CHECK(parse("file:x,offset=-1") == -EINVAL);
	CHECK(parse("file:x,offset=99999999T") == -EINVAL);
	CHECK(parse("file:,offset=1") == -EINVAL);
}

static void fault_wraps_another(void)
{
	CHECK_OK(parse("fault:cut-write=1M,seed=7+tcp:h:1"), &err);
	CHECK(u.scheme->kind == GW_URI_FAULT);
	CHECK(!strcmp(u.fault, "cut-write=1M,seed=7"));
	CHECK(!strcmp(u.inner, "tcp:h:1"));
	CHECK((u.can & (GW_URI_MULTI | GW_URI_TEST | GW_URI_SEEK)) ==
	      (GW_URI_MULTI | GW_URI_TEST));
	CHECK_OK(parse("fault:+exec:a + b"), &err);
	CHECK(!*u.fault && !strcmp(u.inner, "exec:a + b"));
	CHECK_OK(parse("fault:short=3+fault:rate=1+unix:/x+y"), &err);
	CHECK(parse("fault:a+fault:a+fault:a+fault:a+fd:1") == 0);
	CHECK(parse("fault:a+fault:a+fault:a+fault:a+fault:a+fd:1") == -EINVAL);
	CHECK(parse("fault:short=3") == -EINVAL);
	CHECK(parse("fault:short=3+tpc:h:1") == -EINVAL);
	CHECK(strstr(err.msg, "'tpc'"));
}

static void errors_say_what_and_what_is_possible(void)
{
	static const struct {
		const char *text, *says;
	} t[] = {
		{ "", "no transport is named; possible are tcp:, unix:, fd:, exec:, file:" },
		{ "/run/x", "no transport is named" },
		{ ":", "unknown transport ''" },
		{ "tpc:host:1", "migration URI 'tpc:host:1': unknown transport 'tpc'; possible are tcp:, unix:, fd:, exec:, file:" },
		{ "TCP:host:1", "unknown transport 'TCP'" },
		{ "tc:host:1", "unknown transport 'tc'" },
		{ "rdma:host:1", "unknown transport 'rdma'" },
		{ "tcp:", "HOST:PORT expected" },
		{ "tcp:4444", "HOST:PORT expected" },
		{ "tcp:host:", "port must be" },
		{ "tcp:host:65536", "port must be" },
		{ "tcp:host:-1", "port must be" },
		{ "tcp:host:99999999999999999999", "port must be" },
		{ "tcp:host:44 44", "port must be" },
		{ "tcp:host:0123456789012345678901234567890123456789", "limit is 32" },
		{ "tcp:2001:db8::1:4444", "tcp:[2001:db8::1]:4444" },
		{ "tcp:::1:4444", "goes in brackets" },
		{ "tcp:[::1", "']' is missing" },
		{ "tcp:[::1]", "':PORT' is missing" },
		{ "tcp:[::1]4444", "':PORT' is missing" },
		{ "tcp:[::1],to=3", "':PORT' is missing" },
		{ "tcp:[host]:1", "not an IPv6 address" },
		{ "tcp:[192.0.2.1]:1", "not an IPv6 address" },
		{ "tcp:a b:1", "cannot be in a host name" },
		{ "tcp:a/b:1", "cannot be in a host name" },
		{ "tcp:h:1,foo", "unknown option 'foo'; possible are to=PORT, ipv4, ipv6, keep-alive" },
		{ "tcp:h:1,mptcp", "unknown option 'mptcp'" },
		{ "tcp:h:1,to", "wants a port number" },
		{ "tcp:h:1,to=", "wants a port number" },
		{ "tcp:h:1,to=99999", "wants a port number" },
		{ "tcp:h:5,to=4", "below port" },
		{ "tcp:h:http,to=90", "below port" },
		{ "tcp:h:1,ipv4=maybe", "'on' or 'off'" },
		{ "tcp:h:1,ipv4=off,ipv6=off", "neither IPv4 nor IPv6" },
		{ "unix:", "the path is missing" },
		{ "fd:", "number of an open descriptor" },
		{ "fd:name", "number of an open descriptor" },
		{ "fd:-1", "number of an open descriptor" },
		{ "fd:1x", "number of an open descriptor" },
		{ "fd:2147483648", "number of an open descriptor" },
		{ "exec:", "the command is missing" },
		{ "exec:  ", "the command is missing" },
		{ "file:", "the path is missing" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		int r = parse(t[i].text);

		CHECK(r < 0);
		CHECK(err.code == -r && err.fault == GW_FAULT_USAGE);
		if (!strstr(err.msg, t[i].says))
			fprintf(stderr, "%s: got \"%s\"\n", t[i].text, err.msg);
		CHECK(strstr(err.msg, t[i].says));
	}
}

static void lengths_are_limited(void)
{
	static char big[GW_URI_MAX + 16];

	memset(big, 'a', sizeof(big) - 1);
	memcpy(big, "unix:", 5);
	big[5 + GW_URI_SUN_MAX] = '\0';
	CHECK_OK(parse(big), &err);
	big[5 + GW_URI_SUN_MAX] = 'a';
	big[6 + GW_URI_SUN_MAX] = '\0';
	CHECK(parse(big) == -ENAMETOOLONG);
	CHECK(strstr(err.msg, "108 bytes, the limit is 107"));
	big[6 + GW_URI_SUN_MAX] = 'a';
	memcpy(big, "file:", 5);
	big[5 + GW_URI_PATH_MAX + 1] = '\0';
	CHECK(parse(big) == -ENAMETOOLONG);
	big[5 + GW_URI_PATH_MAX + 1] = 'a';
	memcpy(big, "exec:", 5);
	CHECK(parse(big) == -ENAMETOOLONG);
	CHECK(strlen(err.msg) < 300);
	big[GW_URI_MAX] = '\0';
	CHECK_OK(parse(big), &err);
	big[400] = '\0';
	memcpy(big, "tcp:a", 5);
	memcpy(big + 390, ":1", 3);
	CHECK(parse(big) == -ENAMETOOLONG);
}

static void messages_are_one_printable_line(void)
{
	CHECK(parse("tpc\n\x1b[2J:x\n") < 0);
	for (const char *p = err.msg; *p; p++)
		CHECK((unsigned char)*p >= 0x20);
}

static void roles_are_checked(void)
{
	CHECK_OK(parse("tcp::0"), &err);
	CHECK_OK(gw_uri_check_role(&u, GW_URI_LISTEN, &err), &err);
	CHECK(gw_uri_check_role(&u, GW_URI_CONNECT, &err) == -EINVAL);
	CHECK(strstr(err.msg, "port 0"));
	CHECK_OK(parse("tcp::5,to=6"), &err);
	CHECK_OK(gw_uri_check_role(&u, GW_URI_LISTEN, &err), &err);
	CHECK(gw_uri_check_role(&u, GW_URI_CONNECT, &err) == -EINVAL);
	CHECK_OK(parse("tcp:h:http"), &err);
	CHECK_OK(gw_uri_check_role(&u, GW_URI_CONNECT, &err), &err);
}

/* Mutations of valid uris: never a crash, always a verdict with a text. */
static void mutated_uris_get_a_verdict(void)
{
	static const char *const base[] = {
		"tcp:[2001:db8::1]:4444,to=4450,ipv6=on", "unix:/run/x",
		"file:/x,offset=4096", "fault:short=1-9+tcp:h:1", "fd:77",
		"exec:cat",
	};
	uint64_t seed = test_seed();

	for (int i = 0; i < 200000; i++) {
		char s[64];
		size_t n;

		snprintf(s, sizeof(s), "%s", base[test_rand(&seed) % 6]);
		n = strlen(s);
		for (uint64_t k = test_rand(&seed) % 4; k; k--)
			s[test_rand(&seed) % n] =
				":,=[]+0a-\n"[test_rand(&seed) % 10];
		if (parse(s) < 0)
			CHECK(err.code && *err.msg);
		else
			CHECK(u.scheme && !err.code);
	}
}

int main(void)
{
	RUN(tcp_forms_are_understood);
	RUN(other_forms_are_understood);
	RUN(file_offsets_are_sizes);
	RUN(fault_wraps_another);
	RUN(errors_say_what_and_what_is_possible);
	RUN(lengths_are_limited);
	RUN(messages_are_one_printable_line);
	RUN(roles_are_checked);
	RUN(mutated_uris_get_a_verdict);
	return test_done();
}
