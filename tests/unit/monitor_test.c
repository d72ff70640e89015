/* SPDX-License-Identifier: BSD-3-Clause */
/* monitor_test.c - capabilities, parameters that change while an operation
 * runs, words of HMP, QMP as text, and a server between two sockets. */
#include "test.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/caps.h"
#include "control/hmp.h"
#include "control/params.h"
#include "control/qmp_server.h"
#include "control/stats.h"

/* --- tables --------------------------------------------------------------- */

static void every_capability_is_honest(void)
{
	CHECK(gw_ncaps <= 64);
	for (size_t i = 0; i < gw_ncaps; i++) {
		const struct gw_cap *c = &gw_caps[i];
		struct gw_error err = { 0 };

		CHECK(gw_cap_find(c->name) == (int)i);
		CHECK(c->help && *c->help);
		CHECK((c->kind == GW_CAP_PARAM) == (c->param != NULL));
		if (c->param)
			CHECK(gw_param_find(c->param) &&
			      gw_param_find(c->param)->type == GW_PARAM_BOOL);
		if (c->needs)
			CHECK(gw_cap_find(c->needs) >= 0);
		if (c->kind == GW_CAP_REFUSED) {
			CHECK(gw_caps_check(1ULL << i, &err) == -ENOTSUP);
			CHECK(strstr(err.msg, c->name) &&
			      strstr(err.msg, c->help));
		}
	}
	CHECK(gw_cap_find("multi") == -ENOENT);
}

static uint64_t bit(const char *name)
{
	return 1ULL << gw_cap_find(name);
}

static void capabilities_are_switches(void)
{
	struct godwit_params p;
	struct gw_error err = { 0 };

	godwit_params_init(&p);
	CHECK(gw_caps_of(&p) == 0);
	gw_caps_apply(bit("xbzrle") | bit("events"), &p);
	CHECK(p.xbzrle && !p.auto_converge);
	CHECK(gw_caps_of(&p) == bit("xbzrle"));
	gw_caps_apply(0, &p);
	CHECK(!p.xbzrle);
	/* together, which QEMU refuses */
	CHECK_OK(gw_caps_check(bit("xbzrle") | bit("multifd"), &err), &err);
	CHECK(gw_caps_check(bit("switchover-ack"), &err) == -EINVAL);
	CHECK(strstr(err.msg, "'return-path'"));
	CHECK_OK(gw_caps_check(bit("switchover-ack") | bit("return-path"),
			       &err),
		 &err);
	CHECK_OK(gw_cap_assign(&p, "multifd=on", &err), &err);
	CHECK(p.channels == 2);
	p.channels = 5;
	CHECK_OK(gw_cap_assign(&p, "multifd=on", &err), &err);
	CHECK(p.channels == 5);
	CHECK_OK(gw_cap_assign(&p, "multifd=off", &err), &err);
	CHECK(p.channels == 0);
	CHECK(gw_cap_assign(&p, "colour=on", &err) == -ENOENT);
	CHECK(gw_cap_assign(&p, "xbzrle=maybe", &err) == -EINVAL);
	CHECK(gw_cap_assign(&p, "xbzrle", &err) == -EINVAL);
	CHECK(gw_cap_assign(&p, "x-colo=on", &err) == -ENOTSUP);
	CHECK(gw_cap_assign(&p, "dirty-bitmaps=on", &err) == -ENOTSUP);
}

static void some_parameters_change_while_it_runs(void)
{
	struct godwit_error err = { 0 };
	struct godwit_op *op = godwit_op_new(NULL, NULL, NULL, NULL, &err);
	unsigned int n = 0;

	REQUIRE(op);
	CHECK(!godwit_op_set(op, "max-bandwidth", "1G", &err));
	CHECK(!godwit_op_set(op, "downtime-limit", "20ms", &err));
	CHECK(godwit_op_set(op, "tracker", "auto", &err) == -EBUSY);
	CHECK(godwit_op_set(op, "colour", "blue", &err) == -EINVAL);
	CHECK(godwit_op_set(op, "cpu-throttle-initial", "100", &err) ==
	      -ERANGE);
	CHECK(!godwit_op_set(op, "max-cpu-throttle", "40", &err));
	/* two that belong together */
	CHECK(godwit_op_set(op, "cpu-throttle-initial", "50", &err) ==
	      -ERANGE);
	CHECK(strstr(err.msg, "max-cpu-throttle 40"));
	CHECK(!godwit_op_set(op, "cpu-throttle-initial", "40", &err));
	for (size_t i = 0; i < gw_nparams; i++)
		n += !!(gw_params[i].uses & GW_USE_NOW);
	CHECK(n == 9);
	CHECK(!godwit_op_set(op, "interval", "20ms", &err));
	CHECK(godwit_op_set(op, "timeout", "2s", &err) == -EBUSY);
	godwit_op_free(op);
}

static void numbers_and_texts_come_back(void)
{
	struct godwit_params p, q;
	struct gw_error err = { 0 };
	char text[64];

	godwit_params_init(&p);
	godwit_params_init(&q);
	CHECK_OK(gw_param_assign(&p, GW_USE_ALL, "compress=zstd:7", &err),
		 &err);
	CHECK(!strcmp(gw_param_text(&p, gw_param_find("compress"), text),
		      "zstd:7"));
	CHECK(!strcmp(gw_param_text(&p, gw_param_find("tracker"), text),
		      "auto"));
	p.max_bandwidth = 12345;
	gw_param_store(&q, &p, gw_param_find("max-bandwidth"));
	CHECK(q.max_bandwidth == 12345);
	CHECK(gw_param_number(&q, gw_param_find("max-bandwidth")) == 12345);
	p.max_cpu_throttle = 7;
	gw_param_store(&q, &p, gw_param_find("max-cpu-throttle"));
	CHECK(q.max_cpu_throttle == 7 && q.cpu_throttle_increment == 10);
}

/* --- statistics ----------------------------------------------------------- */

static void a_query_has_what_its_state_has(void)
{
	struct godwit_stats s = { .status = GODWIT_STATUS_ACTIVE,
				  .expected_downtime_ns = -1,
				  .eta_ns = 1500000000,
				  .total = 1 << 20,
				  .xbzrle_cache_size = 4096,
				  .cpu_throttle_percentage = 20 };
	struct gw_error err = { .code = EIO, .msg = "why" };
	char *text = NULL;
	size_t len;
	json_t *j = gw_stats_query(&s, "setup", true, &err);
	FILE *f;

	CHECK(json_object_size(j) == 1);
	json_decref(j);
	j = gw_stats_query(&s, "failed", true, &err);
	CHECK(json_object_size(j) == 2 && json_object_get(j, "error-desc"));
	json_decref(j);
	j = gw_stats_query(&s, "active", false, &err);
	CHECK(json_object_size(j) == 1);
	json_decref(j);
	j = gw_stats_query(&s, "active", true, &err);
	CHECK(json_object_get(j, "expected-downtime"));
	CHECK(!json_object_get(j, "downtime"));
	CHECK(json_integer_value(json_object_get(j, "eta-ms")) == 1500);
	CHECK(json_integer_value(json_object_get(
		      j, "cpu-throttle-percentage")) == 20);
	f = open_memstream(&text, &len);
	REQUIRE(f);
	gw_stats_print(j, f);
	fclose(f);
	CHECK(strstr(text, "Migration status: active\n"));
	CHECK(strstr(text, "total ram: 1024 kbytes\n"));
	CHECK(strstr(text, "xbzrle encoding rate: 0.00\n"));
	CHECK(strstr(text, "estimated time left: 1500 ms\n"));
	CHECK(!strstr(text, "dirty pages rate"));
	free(text);
	json_decref(j);
	s.status = GODWIT_STATUS_COMPLETED;
	j = gw_stats_query(&s, "completed", true, &err);
	CHECK(json_object_get(j, "downtime"));
	CHECK(!json_object_get(j, "expected-downtime"));
	json_decref(j);
}

/* --- words ---------------------------------------------------------------- */

static void lines_become_words(void)
{
	char buf[256], many[256] = "", *w[GW_HMP_MAX_WORDS];
	struct gw_error err = { 0 };

	CHECK(gw_hmp_split("", buf, w, &err) == 0);
	CHECK(gw_hmp_split(" \t ", buf, w, &err) == 0);
	CHECK(gw_hmp_split(" migrate  -d tcp:a:1 ", buf, w, &err) == 3);
	CHECK(!strcmp(w[0], "migrate") && !strcmp(w[2], "tcp:a:1"));
	CHECK(gw_hmp_split("a \"exec:b \\\"c\\\" \\\\\" d", buf, w, &err) == 3);
	CHECK(!strcmp(w[1], "exec:b \"c\" \\") && !strcmp(w[2], "d"));
	CHECK(gw_hmp_split("\"\"", buf, w, &err) == 1 && !*w[0]);
	CHECK(gw_hmp_split("a \"b", buf, w, &err) == -EINVAL);
	CHECK(gw_hmp_split("a \"\\q\"", buf, w, &err) == -EINVAL);
	CHECK(gw_hmp_split("a \"\\", buf, w, &err) == -EINVAL);
	for (int i = 0; i < GW_HMP_MAX_WORDS; i++)
		strcat(many, "x ");
	CHECK(gw_hmp_split(many, buf, w, &err) == GW_HMP_MAX_WORDS);
	strcat(many, "y");
	CHECK(gw_hmp_split(many, buf, w, &err) == -EINVAL);
	CHECK(gw_hmp_owns("migrate -d x", true));
	CHECK(gw_hmp_owns("info migrate", true));
	CHECK(!gw_hmp_owns("info status", true));
	CHECK(!gw_hmp_owns("info", true) && !gw_hmp_owns("", true));
	CHECK(!gw_hmp_owns("migrate_start_postcopy", true));
	CHECK(!gw_hmp_owns("quit", true) && gw_hmp_owns("quit", false));
}

/* --- JSON as text --------------------------------------------------------- */

static struct gw_span span(const char *s)
{
	return (struct gw_span){ s, strlen(s) };
}

/* All values and complaints of @text, fed in pieces, as one string. */
static void cut(const char *text, uint64_t *seed, char *out, size_t size)
{
	struct gw_qmp_text t = { 0 };
	size_t len = strlen(text), n = 0, step;
	char why[GW_QMP_WHY];
	struct gw_span v;
	int r;

	for (size_t i = 0; i < len; i += step) {
		step = seed ? 1 + test_rand(seed) % 7 : len;
		if (step > len - i)
			step = len - i;
		CHECK(!gw_qmp_text_add(&t, text + i, step));
		while ((r = gw_qmp_text_next(&t, &v, why)) != 0) {
			n += (size_t)snprintf(out + n, size - n, "%.*s|",
					      r > 0 ? (int)v.len :
						      (int)strlen(why),
					      r > 0 ? v.p : why);
			REQUIRE(n < size);
		}
	}
	gw_qmp_text_fini(&t);
}

static void values_end_where_they_end(void)
{
	static const struct {
		const char *text, *values;
	} cases[] = {
		{ "{}{\"a\": [1, {}]}\n", "{}|{\"a\": [1, {}]}|" },
		{ "  17 ", "17|" },
		{ "\"a}\\\"\" {'b}': 1}", "\"a}\\\"\"|{'b}': 1}|" },
		{ "]}", "]|}|" },
		{ "{\"a\"]", "{\"a\"]|" },
		{ "{\"a", "" },
		{ "foo ", "foo|" },
		{ "@\n{}", "JSON parse error, stray '@'|{}|" },
		{ "01,", "JSON parse error, stray '01'|,|" },
		{ "-1.5e+3 -x\n", "-1.5e+3|JSON parse error, stray '-x'|" },
		{ "\xff\xff{}", "JSON parse error, stray '\xef\xbf\xbd'|"
				"JSON parse error, stray '\xef\xbf\xbd'|{}|" },
	};
	uint64_t seed = test_seed();
	char whole[512], pieces[512];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		*whole = *pieces = '\0';
		cut(cases[i].text, NULL, whole, sizeof(whole));
		CHECK(!strcmp(whole, cases[i].values));
		if (strcmp(whole, cases[i].values))
			printf("%s: %s\n", cases[i].text, whole);
		for (int k = 0; k < 20; k++) {
			*pieces = '\0';
			cut(cases[i].text, &seed, pieces, sizeof(pieces));
			CHECK(!strcmp(whole, pieces));
		}
	}
}

static void limits_hold(void)
{
	struct gw_qmp_text t = { .max = 100 };
	char why[GW_QMP_WHY], many[GW_QMP_TEXT_NESTING + 10];
	struct gw_span v;

	memset(many, '[', sizeof(many));
	CHECK(!gw_qmp_text_add(&t, "\"", 1));
	CHECK(!gw_qmp_text_add(&t, many, 200));
	CHECK(gw_qmp_text_next(&t, &v, why) == -EBADMSG);
	CHECK(strstr(why, "token size"));
	gw_qmp_text_fini(&t);
	CHECK(!gw_qmp_text_add(&t, many, sizeof(many)));
	CHECK(gw_qmp_text_next(&t, &v, why) == -EBADMSG);
	CHECK(strstr(why, "nesting depth"));
	gw_qmp_text_fini(&t);
}

static void json_is_checked(void)
{
	static const char *const good[] = {
		"{}", "[]", "1", "-0.5e-3", "\"\\u00e9\\ud83d\\ude00\"",
		"{'a': [true, false, null], \"b\": {\"c\": \"\xc3\xa9\"}}",
	};
	static const char *const bad[] = {
		"{", "}", "{\"a\"}", "{\"a\":}", "{\"a\": 1,}", "[1,]", "[1 2]",
		"{1: 2}", "nul", "\"\\x\"", "\"\\ud800\"", "\"\\udc00\"",
		"\"\\u12\"", "\"\xc3\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
		"\"\xf4\x90\x80\x80\"", "{\"a\" 1}", "", ":", "1 2",
	};
	char why[GW_QMP_WHY];

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		CHECK(!gw_json_check(span(good[i]), why));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CHECK(gw_json_check(span(bad[i]), why) == -EBADMSG);
		CHECK(!strncmp(why, "JSON parse error, ", 18));
	}
}

static void members_are_found(void)
{
	struct gw_span v = span(
		" { \"\\u0061\" : 1 , 'b':[2,{\"c\":3}],\"d\": \"x\\ty\\u00e9\" }");
	struct gw_span key, value;
	char buf[64];
	size_t pos = 0;
	int n = 0;
	json_t *j;

	while (gw_json_member(v, &pos, &key, &value))
		n++;
	CHECK(n == 3);
	CHECK(gw_json_get(v, "a").len == 1);
	CHECK(gw_json_get(v, "b").len == 11);
	CHECK(!gw_json_get(v, "c").p);
	CHECK(gw_json_string(gw_json_get(v, "d"), buf, sizeof(buf)));
	CHECK(!strcmp(buf, "x\ty\xc3\xa9"));
	CHECK(!gw_json_string(gw_json_get(v, "b"), buf, sizeof(buf)));
	CHECK(gw_json_string(span("\"abcdef\""), buf, 4) &&
	      !strcmp(buf, "abc"));
	j = gw_json_load(span("{'a': 'it\\'s \"it\"', 'n': 18446744073709551615}"));
	REQUIRE(j);
	CHECK(!strcmp(json_string_value(json_object_get(j, "a")),
		      "it's \"it\""));
	CHECK(json_is_real(json_object_get(j, "n")));
	json_decref(j);
	CHECK(!gw_json_load(span("{\"a\": 1, \"a\": 2}")));
}

/* --- a server ------------------------------------------------------------- */

static const char greeting[] =
	"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"
	"{\"return\": {}, \"id\": 1}\r\n";

struct bench {
	struct gw_qmp_server *s;
	int qemu, client;
};

static void say(int fd, const char *text)
{
	CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) ==
	      (ssize_t)strlen(text));
}

/* What is there after some steps, without ends of lines. */
static const char *heard(struct bench *b, int fd)
{
	static char buf[65536];
	struct gw_error err = { 0 };
	char *to = buf;
	ssize_t n;

	for (int i = 0; i < 4; i++)
		CHECK_OK(gw_qmp_server_step(b->s, 0, NULL, &err), &err);
	n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] != '\r' && buf[i] != '\n')
			*to++ = buf[i];
	*to = '\0';
	return buf;
}

static void open_bench(struct bench *b)
{
	struct gw_qmp_server_config c = { .vm = "no-such-vm" };
	struct gw_error err = { 0 };
	int up[2], down[2];

	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, up));
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, down));
	say(up[1], greeting);
	godwit_params_init(&c.params);
	b->s = gw_qmp_server_new_fd(&c, up[0], &err);
	b->qemu = up[1];
	b->client = down[1];
	REQUIRE(b->s);
	gw_qmp_server_add(b->s, down[0]);
	CHECK(strstr(heard(b, b->client), "{\"QMP\": {\"version\": {}"));
	CHECK(strstr(heard(b, b->qemu), "\"oob\""));
}

static void close_bench(struct bench *b)
{
	gw_qmp_server_free(b->s);
	close(b->qemu);
	close(b->client);
}

static void what_is_not_ours_passes_unchanged(void)
{
	struct bench b = { 0 };

	open_bench(&b);
	say(b.client, "{'execute': 'query-x'}");
	CHECK(strstr(heard(&b, b.client), "CommandNotFound"));
	say(b.client, "{\"execute\": \"qmp_capabilities\", \"id\": \"q\"}");
	CHECK(!strcmp(heard(&b, b.client), "{\"return\": {}, \"id\": \"q\"}"));
	say(b.client, "{'id':[1,  2], 'execute':'x',\"arguments\":{'n':1e999}}");
	CHECK(!strcmp(heard(&b, b.qemu),
		      "{\"id\": 2, 'execute': 'x', \"arguments\": {'n':1e999}}"));
	say(b.qemu, "{\"timestamp\": {}, \"event\": \"STOP\"}\r\n"
		    "{\"event\": \"MIGRATION\"}\r\n"
		    "{\"return\": 18446744073709551616, \"id\": 2}\r\n");
	CHECK(!strcmp(heard(&b, b.client),
		      "{\"timestamp\": {}, \"event\": \"STOP\"}"
		      "{\"return\": 18446744073709551616, \"id\": [1,  2]}"));
	/* without an id, and what QEMU could not read */
	say(b.client, "{\"execute\": \"y\"}{\"execute\": \"z\", \"id\": 5}");
	heard(&b, b.qemu);
	say(b.qemu, "{\"id\": 3, \"error\": {}}\r\n{\"error\": {\"a\": 1}}\r\n");
	CHECK(!strcmp(heard(&b, b.client),
		      "{\"error\": {}}{\"error\": {\"a\": 1}}"));
	close_bench(&b);
}

static void a_vm_that_is_not_there_is_an_error(void)
{
	struct bench b = { 0 };
	const char *answer = "";
	int64_t end = gw_now_ns() + 60 * GW_NS_PER_S;

	open_bench(&b);
	say(b.client, "{\"execute\": \"qmp_capabilities\"}"
		      "{\"execute\": \"migrate\", \"arguments\": "
		      "{\"uri\": \"tcp:127.0.0.1:1\"}, \"id\": 1}");
	while (!strstr(answer, "\"id\": 1") && gw_now_ns() < end)
		answer = heard(&b, b.client);
	CHECK(strstr(answer, "GenericError") && strstr(answer, "no-such-vm"));
	say(b.client, "{\"execute\": \"migrate\", \"arguments\": "
		      "{\"uri\": \"fd:7\"}}");
	CHECK(strstr(heard(&b, b.client), "'7' has not been found"));
	say(b.client, "{\"execute\": \"migrate-set-parameters\", "
		      "\"arguments\": {\"downtime-limit\": 2000001}}");
	CHECK(strstr(heard(&b, b.client), "out of range"));
	close_bench(&b);
}

static void the_end_of_qemu_is_the_end(void)
{
	struct gw_error err = { 0 };
	struct bench b = { 0 };
	int r = 0;

	open_bench(&b);
	shutdown(b.qemu, SHUT_RDWR);
	for (int i = 0; i < 4 && !r; i++)
		r = gw_qmp_server_step(b.s, 0, NULL, &err);
	CHECK(r == -ECONNRESET);
	close_bench(&b);
	open_bench(&b);
	say(b.qemu, "{\"what\": 1}\r\n");
	for (r = 0; !r;)
		r = gw_qmp_server_step(b.s, 0, NULL, &err);
	CHECK(r == -EPROTO);
	close_bench(&b);
}

int main(void)
{
	RUN(every_capability_is_honest);
	RUN(capabilities_are_switches);
	RUN(some_parameters_change_while_it_runs);
	RUN(numbers_and_texts_come_back);
	RUN(a_query_has_what_its_state_has);
	RUN(lines_become_words);
	RUN(values_end_where_they_end);
	RUN(limits_hold);
	RUN(json_is_checked);
	RUN(members_are_found);
	RUN(what_is_not_ours_passes_unchanged);
	RUN(a_vm_that_is_not_there_is_an_error);
	RUN(the_end_of_qemu_is_the_end);
	return test_done();
}
