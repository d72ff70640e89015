/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vmdesc_test.c - device state split by its description and by its footers:
 * made-up tails of known sections, real ones, and damaged ones.
 */
#include "captures.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>

#include "base/bytes.h"
#include "wire/stream.h"
#include "wire/vmdesc.h"

/* --- made-up tails ----------------------------------------------------- */

struct made {
	uint8_t b[1 << 18]; /* sections, EOF, VMDESCRIPTION, JSON */
	size_t len, eof;
	char json[1 << 17];
	size_t json_len;
	struct gw_tail want;
	struct gw_tail_section section[32];
};

static void text(struct made *m, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	m->json_len += (size_t)vsnprintf(m->json + m->json_len,
					 sizeof(m->json) - m->json_len, fmt,
					 ap);
	va_end(ap);
}

static void be32(struct made *m, uint32_t v)
{
	gw_put_be32(m->b + m->len, v);
	m->len += 4;
}

/* Members of an object and its bytes; returns the payload's size. */
static size_t object(struct made *m, uint64_t *seed, int depth)
{
	int fields = (int)(test_rand(seed) % 5);
	int subs = depth < 3 ? (int)(test_rand(seed) % 3) : 0;
	size_t size = 0;

	text(m, "\"vmsd_name\": \"v%d\", \"version\": 1, \"fields\": [", depth);
	for (int i = 0; i < fields; i++) {
		unsigned int n = (unsigned int)(test_rand(seed) % 20);
		unsigned int each = (unsigned int)(test_rand(seed) % 9);

		text(m, "%s{\"name\": \"f\", \"type\": \"t\", \"size\": %u",
		     i ? ", " : "", n);
		if (each)
			text(m, ", \"array_len\": %u", each);
		text(m, "}");
		size += n * (each ? each : 1);
	}
	text(m, "]");
	if (subs)
		text(m, ", \"subsections\": [");
	for (int i = 0; i < subs; i++) {
		text(m, "%s{", i ? ", " : "");
		size += 6 + 2 + object(m, seed, depth + 1);
		text(m, "}");
	}
	if (subs)
		text(m, "]");
	return size;
}

static void section(struct made *m, uint64_t *seed, bool first)
{
	struct gw_tail_section *s = &m->section[m->want.n++];

	memset(s, 0, sizeof(*s));
	s->id = (uint32_t)(test_rand(seed) % 50); /* not ascending, not unique */
	s->instance_id = (uint32_t)test_rand(seed);
	s->version_id = (uint32_t)(test_rand(seed) % 20);
	sprintf(s->idstr, "0000:00:%02x.0/dev", (unsigned int)s->id);
	s->offset = m->len;
	m->b[m->len++] = GW_ITEM_SECTION_FULL;
	be32(m, s->id);
	m->b[m->len++] = (uint8_t)strlen(s->idstr);
	memcpy(m->b + m->len, s->idstr, strlen(s->idstr));
	m->len += strlen(s->idstr);
	be32(m, s->instance_id);
	be32(m, s->version_id);
	s->payload = m->len;
	text(m, "%s{\"name\": \"%s\", \"instance_id\": %u, ", first ? "" : ", ",
	     s->idstr, s->instance_id);
	s->size = object(m, seed, 0);
	text(m, "}");
	for (size_t i = 0; i < s->size; i++)
		m->b[m->len++] = (uint8_t)test_rand(seed);
	m->b[m->len++] = GW_ITEM_SECTION_FOOTER;
	be32(m, s->id);
}

static void make(struct made *m, uint64_t *seed, int n)
{
	m->len = m->json_len = 0;
	m->want = (struct gw_tail){ m->section, 0 };
	text(m, "{ \"configuration\": {\"vmsd_name\": \"configuration\"}, \"page_size\": 4096, \"devices\": [");
	for (int i = 0; i < n; i++)
		section(m, seed, i == 0);
	text(m, "]}");
	m->eof = m->len;
	m->b[m->len++] = GW_ITEM_EOF;
	m->b[m->len++] = GW_ITEM_VMDESCRIPTION;
	be32(m, (uint32_t)m->json_len);
	memcpy(m->b + m->len, m->json, m->json_len);
	m->len += m->json_len;
}

static bool same(const struct gw_tail *a, const struct gw_tail *b)
{
	if (a->n != b->n)
		return false;
	for (int i = 0; i < a->n; i++) {
		const struct gw_tail_section *x = &a->section[i];
		const struct gw_tail_section *y = &b->section[i];

		if (strcmp(x->idstr, y->idstr) || x->id != y->id ||
		    x->instance_id != y->instance_id ||
		    x->version_id != y->version_id ||
		    x->offset != y->offset || x->payload != y->payload ||
		    x->size != y->size)
			return false;
	}
	return true;
}

static struct made made;

static void made_up_tails_split(void)
{
	uint64_t seed = test_seed();
	struct gw_error err = { 0 };

	for (int i = 0; i < 500; i++) {
		const char *json;
		size_t eof, len;
		struct gw_tail t;

		make(&made, &seed, i % 20);
		CHECK_OK(gw_tail_find_end(made.b, made.len, &eof, &json, &len,
					  &err), &err);
		REQUIRE(eof == made.eof && json && len == made.json_len &&
			!memcmp(json, made.json, len));
		CHECK_OK(gw_tail_split(&t, made.b, eof, json, len, &err), &err);
		CHECK(same(&t, &made.want));
		gw_tail_fini(&t);
		/* Random payload has no look-alike of 17 bytes. */
		CHECK_OK(gw_tail_scan(&t, made.b, eof, &err), &err);
		CHECK(same(&t, &made.want));
		gw_tail_fini(&t);
		CHECK_OK(gw_tail_check(&t, made.b, eof, json, len, &err), &err);
		gw_tail_fini(&t);
		/* The same without a description. */
		CHECK_OK(gw_tail_find_end(made.b, eof + 1, &eof, &json, &len,
					  &err), &err);
		CHECK(eof == made.eof && !json && !len);
	}
}

/* --- against a model that makes a tree of the description --------------- */

static int64_t model_size(json_t *obj)
{
	json_t *fields = json_object_get(obj, "fields"), *v;
	json_t *subs = json_object_get(obj, "subsections");
	int64_t sum = 0;
	size_t i;

	if ((fields && !json_is_array(fields)) || (subs && !json_is_array(subs)))
		return -1;
	json_array_foreach(fields, i, v) {
		json_int_t size, n = 1;

		if (json_unpack(v, "{s:I, s?I}", "size", &size, "array_len",
				&n) || size < 0 || n < 0 || size > 1 << 28 ||
		    n > 1 << 28)
			return -1;
		sum += size * n;
	}
	json_array_foreach(subs, i, v) {
		const char *name = json_string_value(
			json_object_get(v, "vmsd_name"));
		int64_t n = model_size(v);

		if (!name || n < 0)
			return -1;
		sum += 6 + (int64_t)strlen(name) + n;
	}
	return sum;
}

/* Does @json say what @want is? */
static bool model_agrees(const struct gw_tail *want, const char *json,
			 size_t len)
{
	json_t *j = json_loadb(json, len, 0, NULL), *v;
	json_t *list = json_object_get(j, "devices");
	bool ok = json_is_array(list) &&
		  json_array_size(list) == (size_t)want->n;
	size_t i;

	json_array_foreach(list, i, v) {
		json_t *inst = json_object_get(v, "instance_id");
		const char *name = json_string_value(json_object_get(v, "name"));

		if (!ok)
			break;
		ok = name && !strcmp(name, want->section[i].idstr) &&
		     model_size(v) == (int64_t)want->section[i].size &&
		     (!inst || (json_is_integer(inst) &&
				json_integer_value(inst) ==
					want->section[i].instance_id));
	}
	json_decref(j);
	return ok;
}

/*
 * A description in which a few bytes are others is split, as before, when a
 * tree of it says the same, and only then.
 */
static void damaged_descriptions_are_judged_as_by_a_tree(void)
{
	static const char byte[] = "{}[],:\"\\ 0123456789e.-+aztfnu/\n\x01";
	int agreed = 0, rounds = 20000;
	uint64_t seed = test_seed();

	for (int i = 0; i < rounds; i++) {
		int n = (int)(test_rand(&seed) % 4);
		struct gw_tail t = { 0 };
		bool want, got;

		if (i % 100 == 0)
			make(&made, &seed, i / 100 % 8);
		memcpy(made.b + made.eof + 6, made.json, made.json_len);
		for (int k = 0; k < n; k++)
			made.b[made.eof + 6 + test_rand(&seed) % made.json_len] =
				(uint8_t)byte[test_rand(&seed) %
					      (sizeof(byte) - 1)];
		want = model_agrees(&made.want,
				    (const char *)made.b + made.eof + 6,
				    made.json_len);
		got = !gw_tail_split(&t, made.b, made.eof,
				     (const char *)made.b + made.eof + 6,
				     made.json_len, NULL);
		if (got != want)
			printf("tree %d, split %d: %.*s\n", want, got,
			       (int)made.json_len,
			       (const char *)made.b + made.eof + 6);
		REQUIRE(got == want && (!got || same(&t, &made.want)));
		agreed += got;
		gw_tail_fini(&t);
	}
	/* Both must have come. */
	CHECK(agreed > rounds / 4 && agreed < rounds * 3 / 4);
}

/* Names are compared as text, however they are written. */
static void escapes_are_understood(void)
{
	static const struct {
		const char *name; /* in the description */
		bool a;		  /* it says "a" */
	} cases[] = { { "a", true },		{ "\\u0061", true },
		      { "\\u0062", false },	{ "a\\u0000", false },
		      { "\\u00", false },	{ "\\ud83d\\ude00", false },
		      { "\\/", false },	{ "\\x", false },
		      { "a\n", false },		{ "", false } };
	struct gw_tail t;
	char json[200];

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		int r, n = sprintf(json, "{\"devices\": [{\"fields\": [{\"size\": 3}], \"name\": \"%s\"}]}",
				   cases[i].name);

		r = gw_tail_split(&t, "\4\0\0\0\11\1a\0\0\0\0\0\0\0\2\1\2\3\x7e\0\0\0\11",
				  23, json, (size_t)n, NULL);
		CHECK(!r == cases[i].a);
		gw_tail_fini(&t);
	}
}

/* --- what is refused --------------------------------------------------- */

/* A tail of sections "a" (3 bytes) and "bc" (0 bytes) and what it is called
 * by the description. */
static const uint8_t two[] = {
	4, 0, 0, 0, 9, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 0x7e, 0, 0, 0, 9,
	4, 0, 0, 0, 1, 2, 'b', 'c', 0, 0, 0, 1, 0, 0, 0, 2, 0x7e, 0, 0, 0, 1,
};
#define A "{\"name\":\"a\",\"instance_id\":0,\"fields\":[{\"size\":3}]}"
#define BC "{\"name\":\"bc\",\"instance_id\":1,\"fields\":[]}"
#define DEVICES(...) "{\"devices\":[" __VA_ARGS__ "]}"

static void split_says(const char *json, size_t len, const char *because)
{
	struct gw_error err = { 0 };
	struct gw_tail t;
	int r = gw_tail_split(&t, two, len, json, strlen(json), &err);

	if (!because) {
		CHECK_OK(r, &err);
		gw_tail_fini(&t);
		return;
	}
	if (r != -EPROTO || !strstr(err.msg, because))
		printf("%s: %d '%s'\n", because, r, err.msg);
	CHECK(r == -EPROTO && err.fault == GW_FAULT_INPUT &&
	      strstr(err.msg, because));
	CHECK(!t.section && !t.n);
}

static void split_rejects(void)
{
	size_t len = sizeof(two);

	split_says(DEVICES(A "," BC), len, NULL);
	split_says(DEVICES("{\"name\":\"a\",\"fields\":[{\"size\":1,\"array_len\":3}]}," BC),
		   len, NULL);
	split_says(DEVICES(""), 0, NULL);
	split_says(DEVICES(BC "," A), len, "section 0 at byte 0");
	split_says(DEVICES(BC "," A), len, "it is 'a' 0, but the description lists 'bc' 1");
	split_says(DEVICES(A), len, "21 bytes of device state follow the 1 sections");
	split_says(DEVICES(A "," BC "," BC), len, "section 2 at byte 44");
	split_says(DEVICES(A "," BC), len - 1, "section 1 at byte 23");
	split_says(DEVICES(A ",{\"name\":\"bc\",\"fields\":[{\"size\":1}]}"), len,
		   "section 1 at byte 23");
	split_says(DEVICES("{\"name\":\"a\",\"fields\":[{\"size\":2}]}," BC), len,
		   "instead of its footer");
	split_says(DEVICES("{\"name\":\"a\",\"instance_id\":7,\"fields\":[{\"size\":3}]}," BC),
		   len, "lists 'a' 7");
	split_says(DEVICES("{\"name\":\"a\",\"fields\":[{\"size\":-3}]}," BC), len,
		   "impossible sizes");
	split_says(DEVICES("{\"name\":\"a\",\"fields\":[{}]}," BC), len,
		   "impossible sizes");
	split_says(DEVICES("{\"name\":\"a\",\"fields\":[{\"size\":4611686018427387904,\"array_len\":4}]}"),
		   len, "impossible sizes");
	split_says(DEVICES("{\"name\":\"a\",\"subsections\":[{\"fields\":[]}]}"),
		   len, "impossible sizes");
	split_says(DEVICES("{\"fields\":[]}"), len, "no name");
	split_says(DEVICES("3"), len, "no name");
	split_says("{\"devices\":{}}", len, "no JSON with a list");
	split_says("[]", len, "no JSON with a list");
	split_says("{\"devices\":[", len, "no JSON with a list");
	split_says("", len, "no JSON with a list");
}

static void split_is_bounded(void)
{
	size_t deep = 100000, many = (2u << 20) + 8;
	char *json = malloc(many * 3 + 200);
	size_t n = 0;

	REQUIRE(json);
	/* Subsections in subsections, too deep for us but not for JSON. */
	n += (size_t)sprintf(json, "{\"devices\":[{\"name\":\"a\"");
	for (int i = 0; i < 100; i++)
		n += (size_t)sprintf(json + n, ",\"subsections\":[{\"vmsd_name\":\"s\"");
	for (int i = 0; i < 100; i++)
		n += (size_t)sprintf(json + n, "}]");
	sprintf(json + n, "}]}");
	split_says(json, sizeof(two), "impossible sizes");
	memset(json, '[', deep);
	json[deep] = 0;
	split_says(json, sizeof(two), "no JSON");
	/* What is not looked at may have any number of values. */
	n = (size_t)sprintf(json, "{\"x\":[");
	for (size_t i = 0; i < many; i++, n += 3)
		memcpy(json + n, "[],", 3);
	sprintf(json + n, "0],\"devices\":[" A "," BC "]}");
	split_says(json, sizeof(two), NULL);
	free(json);
}

static void scan_says(const uint8_t *b, size_t len, const char *because)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct gw_error err = { 0 };
	struct gw_tail t;
	int r;

	memcpy(copy, b, len);
	r = gw_tail_scan(&t, copy, len, &err);
	if (r != -EPROTO || !strstr(err.msg, because))
		printf("%s: %d '%s'\n", because, r, err.msg);
	CHECK(r == -EPROTO && err.fault == GW_FAULT_INPUT &&
	      strstr(err.msg, because) && !t.section);
	free(copy);
}

static void scan_rejects(void)
{
	uint8_t b[sizeof(two)];

	for (size_t cut = 1; cut < sizeof(two); cut++)
		if (cut != 23) /* one whole section */
			scan_says(two, cut, "device section");
	memcpy(b, two, sizeof(b));
	b[0] = 1;
	scan_says(b, sizeof(b), "byte 0x01 where a device section");
	b[0] = 4;
	b[22] = 8;
	scan_says(b, sizeof(b), "device section 0 ('a' 0) at byte 0 of the device state has no footer");
	b[22] = 9;
	b[29] = 1; /* an id that is no text: not the end of 'a' */
	scan_says(b, sizeof(b), "device section 0");
}

/* A footer inside a payload is none when no section can follow it. */
static void scan_looks_behind_the_footer(void)
{
	uint8_t b[] = { 4, 0, 0, 0, 9, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 2,
			/* payload */
			0x7e, 0, 0, 0, 9, 0, 0x7e, 0, 0, 0, 9, 4, 0, 0, 0, 1,
			0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9,
			0x7e, 0, 0, 0, 9 };
	struct gw_error err = { 0 };
	struct gw_tail t;

	CHECK_OK(gw_tail_scan(&t, b, sizeof(b), &err), &err);
	REQUIRE(t.n == 1);
	CHECK(t.section[0].size == sizeof(b) - 20);
	gw_tail_fini(&t);
}

/* A guest that writes a footer and a section into its device's state. */
static void check_sees_a_forged_section(void)
{
	uint8_t b[64];
	struct gw_error err = { 0 };
	struct gw_tail t;
	const char *json = DEVICES("{\"name\":\"x\",\"fields\":[{\"size\":23}]}");

	/* x's payload: a footer of x and a section up to its own footer */
	static const uint8_t x[] = { 4, 0, 0, 0, 5, 1, 'x', 0, 0, 0, 0, 0, 0, 0, 2,
				     0x7e, 0, 0, 0, 5,
				     4, 0, 0, 0, 5, 1, 'y', 0, 0, 0, 0, 0, 0, 0,
				     2, 1, 2, 3,
				     0x7e, 0, 0, 0, 5 };
	memcpy(b, x, sizeof(x));
	CHECK_OK(gw_tail_split(&t, b, sizeof(x), json, strlen(json), &err), &err);
	CHECK(t.n == 1);
	gw_tail_fini(&t);
	CHECK_OK(gw_tail_scan(&t, b, sizeof(x), &err), &err);
	CHECK(t.n == 2);
	gw_tail_fini(&t);
	CHECK(gw_tail_check(&t, b, sizeof(x), json, strlen(json), &err) == -EPROTO);
	CHECK(strstr(err.msg, "device section 0 ('x' 0)") && !t.section);
}

static bool has_end(const uint8_t *b, size_t len)
{
	struct gw_error err = { 0 };
	const char *json;
	size_t eof, n;
	int r = gw_tail_find_end(b, len, &eof, &json, &n, &err);

	CHECK(!r || (r == -EPROTO && err.fault == GW_FAULT_INPUT));
	return !r;
}

static void ends_are_exact(void)
{
	static uint8_t copy[sizeof(made.b)];
	uint64_t seed = test_seed();

	CHECK(!has_end(two, 0));
	CHECK(has_end((const uint8_t *)"", 1)); /* EOF alone */
	CHECK(!has_end((const uint8_t *)"x", 1));
	CHECK(has_end((const uint8_t *)"\0\6\0\0\0\2{}", 8)); /* no devices */
	CHECK(!has_end((const uint8_t *)"\0\6\0\0\0\1{}", 8));
	CHECK(!has_end((const uint8_t *)"\0\6\0\0\0\2[]", 8));
	CHECK(!has_end((const uint8_t *)"x\0\6\0\0\0\2{}", 9)); /* no footer */
	CHECK(!has_end((const uint8_t *)"12345\0", 6));
	make(&made, &seed, 3);
	for (size_t cut = made.eof + 2; cut < made.len; cut++)
		CHECK(!has_end(made.b, cut));
	memcpy(copy, made.b, made.len);
	copy[made.len] = '\n';
	CHECK(!has_end(copy, made.len + 1)); /* something follows */
	CHECK(has_end(copy, made.len));
	copy[made.eof - 5]--;
	CHECK(!has_end(copy, made.len));
}

/* The largest description, and one byte more. */
static void ends_are_bounded(void)
{
	size_t len = 6 + (size_t)GW_MAX_VMDESC;
	uint8_t *b = malloc(len + 1);

	REQUIRE(b);
	memset(b, ' ', len + 1);
	memcpy(b, "\0\6\0\0\0\0{", 7);
	gw_put_be32(b + 2, GW_MAX_VMDESC);
	CHECK(has_end(b, len));
	gw_put_be32(b + 2, GW_MAX_VMDESC + 1);
	CHECK(!has_end(b, len + 1));
	free(b);
}

/* Bytes that look like something everywhere: the time-out is the check. */
static void look_alikes_cost_little(void)
{
	static const char *const pattern[] = {
		"\x7e\0\0\0\5", "\0\6\0\0\0\2{", "\4\0\0\0\5\1a\0\0\0\0\0\0\0\2",
		"\x7e\0\0\0\5\4\0\0\0\5\xff aaaaaaaaaaaaaaaaa", "\0", "{" };
	static const uint8_t n[] = { 5, 7, 15, 29, 1, 1 };
	size_t len = (16u << 20) + 1; /* ends in no footer */
	uint8_t *b = malloc(len);
	struct gw_tail t;

	REQUIRE(b);
	for (size_t k = 0; k < sizeof(n); k++) {
		const char *json;
		size_t eof, json_len;

		memcpy(b, two, 15);
		b[4] = 5;
		for (size_t i = 15; i < len; i++)
			b[i] = (uint8_t)pattern[k][(i - 15) % n[k]];
		CHECK(gw_tail_scan(&t, b, len, NULL) == -EPROTO);
		if (gw_tail_find_end(b, len, &eof, &json, &json_len, NULL))
			continue;
		CHECK(k == 4); /* an EOF wants a footer */
	}
	free(b);
}

/* --- real ones --------------------------------------------------------- */

/*
 * The tail of a whole capture at @b: found, and split the same in both ways.
 * Return: sections, -1: failed.
 */
static int check_capture(const char *name, const uint8_t *b, size_t len)
{
	struct gw_error err = { 0 };
	static struct gw_stream s;
	struct gw_stream_event ev;
	const char *json;
	size_t eof, json_len, at;
	struct gw_reader r;
	struct gw_tail t;
	int n;

	gw_reader_init_mem(&r, b, len);
	gw_stream_init(&s, &r, 0);
	do {
		if (gw_stream_next(&s, &ev)) {
			printf("%s: %s\n", name, r.err.msg);
			return -1;
		}
		if (ev.kind == GW_STREAM_PAGE)
			gw_read_skip(&r, GW_PAGE_SIZE);
	} while (ev.kind != GW_STREAM_TAIL);
	at = (size_t)r.offset;
	if (gw_tail_find_end(b + at, len - at, &eof, &json, &json_len, &err) ||
	    !json || gw_tail_check(&t, b + at, eof, json, json_len, &err)) {
		printf("%s: %s\n", name, err.msg);
		return -1;
	}
	n = t.n;
	if (n && strcmp(t.section[n - 1].idstr, "globalstate"))
		n = -1;
	gw_tail_fini(&t);
	return n;
}

static void goldens_split_alike(void)
{
	static const char *const name[] = { "none-7.2.devstream",
					    "none-10.0.devstream",
					    "none-11.1.devstream" };

	for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++) {
		size_t len;
		uint8_t *b = test_golden(name[i], &len);

		CHECK(check_capture(name[i], b, len) == 2);
		free(b);
	}
}

static void captures_split_alike(void)
{
	const char *folder = test_vectors();
	struct dirent *e;
	int found = 0;
	DIR *d;

	if (!folder)
		SKIP("GW_TEST_VECTORS names no folder of captures");
	d = opendir(folder);
	REQUIRE(d);
	while ((e = readdir(d))) {
		size_t n = strlen(e->d_name), len;
		uint8_t *b;
		int got;

		if (n < 5 || (strcmp(e->d_name + n - 4, ".mig") &&
			      strcmp(e->d_name + n - 5, ".main") &&
			      strcmp(e->d_name + n - 7, ".mig.gz")))
			continue;
		b = test_load(folder, e->d_name, &len);
		REQUIRE(b);
		got = check_capture(e->d_name, b, len);
		printf("%s: %d sections\n", e->d_name, got);
		CHECK(got >= 2);
		free(b);
		found++;
	}
	closedir(d);
	CHECK(found > 0);
}

int main(void)
{
	RUN(made_up_tails_split);
	RUN(damaged_descriptions_are_judged_as_by_a_tree);
	RUN(escapes_are_understood);
	RUN(split_rejects);
	RUN(split_is_bounded);
	RUN(scan_rejects);
	RUN(scan_looks_behind_the_footer);
	RUN(check_sees_a_forged_section);
	RUN(ends_are_exact);
	RUN(ends_are_bounded);
	RUN(look_alikes_cost_little);
	RUN(goldens_split_alike);
	RUN(captures_split_alike);
	return test_done();
}
