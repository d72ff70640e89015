/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * reader_test.c - the reader and the writer against each other and against a
 * plain array, with reads of every size; and what happens after a failure.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/reader.h"
#include "base/writer.h"
#include "test.h"

static uint64_t seed;

/* A source that gives @max bytes at a time and breaks after the last. */
struct source {
	const uint8_t *p;
	size_t len, at, max;
	int fail; /* errno instead of an end, 0: an end */
	int calls;
};

static ssize_t give(void *arg, const struct iovec *iov, int niov,
		    struct gw_error *err)
{
	struct source *s = arg;
	size_t n = s->max ? 1 + test_rand(&seed) % s->max : SIZE_MAX, done = 0;

	s->calls++;
	if (s->at == s->len && s->fail)
		return gw_fail(err, s->fail, "the cable was pulled");
	for (int i = 0; i < niov && done < n; i++) {
		size_t k = iov[i].iov_len;

		k = k < n - done ? k : n - done;
		k = k < s->len - s->at ? k : s->len - s->at;
		memcpy(iov[i].iov_base, s->p + s->at, k);
		s->at += k;
		done += k;
	}
	return (ssize_t)done;
}

struct sink {
	uint8_t *p;
	size_t len, cap;
	int fail, calls;
};

static int take(void *arg, struct iovec *iov, int niov, struct gw_error *err)
{
	struct sink *s = arg;

	s->calls++;
	if (s->fail)
		return gw_fail(err, s->fail, "the disk is full");
	for (int i = 0; i < niov; i++) {
		if (s->len + iov[i].iov_len > s->cap)
			abort();
		memcpy(s->p + s->len, iov[i].iov_base, iov[i].iov_len);
		s->len += iov[i].iov_len;
	}
	return 0;
}

static void integers_are_big_endian(void)
{
	static const uint8_t b[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
				     11, 12, 13, 14, 15 };
	uint8_t out[8];
	struct gw_reader r;

	gw_reader_init_mem(&r, b, sizeof(b));
	CHECK(gw_read_u8(&r) == 1);
	CHECK(gw_read_be16(&r) == 0x0203);
	CHECK(gw_read_be32(&r) == 0x04050607);
	CHECK(gw_read_be64(&r) == 0x08090a0b0c0d0e0full);
	CHECK(!gw_read_more(&r) && r.offset == 15 && !gw_read_failed(&r));
	CHECK(gw_read_u8(&r) == 0 && gw_read_failed(&r));
	gw_reader_fini(&r);
	gw_put_be64(out, 0x0102030405060708ull);
	CHECK(!memcmp(out, b, 8) && gw_get_be16(b) == 0x0102);
}

/* One record per kind of field; the writer writes them, the reader reads. */
struct field {
	int kind;
	uint64_t v;
	const uint8_t *p;
	size_t len;
	char s[256];
};

#define NFIELDS 2000

static void write_field(struct gw_writer *w, const struct field *f)
{
	switch (f->kind) {
	case 0:
		gw_write_u8(w, (uint8_t)f->v);
		break;
	case 1:
		gw_write_be16(w, (uint16_t)f->v);
		break;
	case 2:
		gw_write_be32(w, (uint32_t)f->v);
		break;
	case 3:
		gw_write_be64(w, f->v);
		break;
	case 4:
		gw_write_cstr8(w, f->s);
		break;
	case 5:
		gw_write_bytes(w, f->p, f->len);
		break;
	default:
		gw_write_ref(w, f->p, f->len);
	}
}

static bool read_field(struct gw_reader *r, const struct field *f)
{
	static uint8_t buf[20000];
	const uint8_t *p;
	char s[256];

	switch (f->kind) {
	case 0:
		return gw_read_u8(r) == (uint8_t)f->v;
	case 1:
		return gw_read_be16(r) == (uint16_t)f->v;
	case 2:
		return gw_read_be32(r) == (uint32_t)f->v;
	case 3:
		return gw_read_be64(r) == f->v;
	case 4:
		gw_read_cstr8(r, s, "name");
		return !strcmp(s, f->s);
	default:
		break;
	}
	if (f->len && f->len <= r->cap && f->v % 3 == 0) {
		p = gw_read_peek(r, f->len);
		if (!p || memcmp(p, f->p, f->len))
			return false;
	}
	if (f->v % 5 == 0) {
		gw_read_skip(r, f->len);
		return true;
	}
	gw_read_bytes(r, buf, f->len);
	return !memcmp(buf, f->p, f->len);
}

static void make_fields(struct field *f, const uint8_t *noise, size_t n)
{
	for (int i = 0; i < NFIELDS; i++) {
		size_t at = test_rand(&seed) % (n - 20000);

		f[i].kind = (int)(test_rand(&seed) % 7);
		f[i].v = test_rand(&seed);
		f[i].p = noise + at;
		f[i].len = test_rand(&seed) % (f[i].v % 7 ? 100 : 20000);
		memset(f[i].s, 0, sizeof(f[i].s));
		memset(f[i].s, 'a' + (int)(f[i].v % 26),
		       1 + test_rand(&seed) % 255);
	}
}

static void what_is_written_is_read(void)
{
	static const struct {
		size_t cap, max;
	} how[] = { { 256, 1 }, { 256, 7 }, { 1000, 5000 }, { 65536, 0 } };
	static struct field f[NFIELDS];
	static uint8_t noise[1 << 16], out[16 << 20];
	struct sink sink = { .p = out, .cap = sizeof(out) };
	static struct gw_writer w;
	struct gw_error err = { 0 };
	struct gw_reader r;

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)test_rand(&seed);
	make_fields(f, noise, sizeof(noise));
	gw_writer_init(&w, take, &sink);
	for (int i = 0; i < NFIELDS; i++)
		write_field(&w, &f[i]);
	CHECK_OK(gw_write_flush(&w, &err), &err);
	CHECK(w.offset == sink.len && sink.calls < NFIELDS / 4);

	for (size_t k = 0; k <= sizeof(how) / sizeof(how[0]); k++) {
		bool mem = k == sizeof(how) / sizeof(how[0]), ok = true;
		struct source s = { .p = out, .len = sink.len };

		if (mem) {
			gw_reader_init_mem(&r, out, sink.len);
		} else {
			s.max = how[k].max;
			CHECK_OK(gw_reader_init(&r, give, &s, how[k].cap, &err),
				 &err);
		}
		for (int i = 0; i < NFIELDS; i++)
			ok &= read_field(&r, &f[i]);
		CHECK(ok && !gw_read_failed(&r) && r.offset == sink.len);
		CHECK(!gw_read_more(&r) && !gw_read_failed(&r));
		gw_reader_fini(&r);
	}
}

static void first_failure_sticks(void)
{
	static const uint8_t b[8] = { 0, 0, 1, 0, 'a', 'b', 'c', 'd' };
	struct gw_error err = { 0 };
	struct gw_reader r;
	uint8_t dst[8];
	char s[256];

	gw_reader_init_mem(&r, b, sizeof(b));
	CHECK(gw_read_check(&r, &err) == 0 && !err.code);
	CHECK(gw_read_len32(&r, 255, "a name") == 0);
	CHECK(gw_read_failed(&r));
	/* Everything after is empty, though bytes are left. */
	memset(dst, 0xee, sizeof(dst));
	gw_read_bytes(&r, dst, 4);
	CHECK(dst[0] == 0 && dst[3] == 0 && dst[4] == 0xee);
	CHECK(!gw_read_u8(&r) && !gw_read_be16(&r) && !gw_read_be32(&r) &&
	      !gw_read_be64(&r));
	CHECK(!gw_read_peek(&r, 1) && !gw_read_more(&r));
	gw_read_cstr8(&r, s, "x");
	CHECK(s[0] == '\0');
	gw_read_skip(&r, 3);
	CHECK(r.offset == 4);
	CHECK(gw_read_fail(&r, EIO, "later") == -EMSGSIZE);
	CHECK(gw_read_check(&r, &err) == -EMSGSIZE);
	CHECK(err.fault == GW_FAULT_INPUT);
	CHECK(strstr(err.msg, "a name is 256 bytes, the limit is 255"));
	CHECK(gw_read_check(&r, NULL) == -EMSGSIZE);
	gw_reader_fini(&r);
}

static void limits_are_inclusive(void)
{
	static const uint8_t b[] = { 0, 0, 1, 0 };
	struct gw_reader r;

	gw_reader_init_mem(&r, b, sizeof(b));
	CHECK(gw_read_len32(&r, 256, "x") == 256 && !gw_read_failed(&r));
	gw_reader_fini(&r);
}

static void truncation_says_where(void)
{
	static const uint8_t b[10] = { 1 };
	struct gw_error err = { 0 };
	struct gw_reader r;
	uint8_t dst[16];

	for (int refilled = 0; refilled < 2; refilled++) {
		struct source s = { .p = b, .len = sizeof(b), .max = 3 };

		if (refilled)
			CHECK(!gw_reader_init(&r, give, &s, 8, &err));
		else
			gw_reader_init_mem(&r, b, sizeof(b));
		gw_read_be32(&r);
		memset(dst, 0xee, sizeof(dst));
		gw_read_bytes(&r, dst, 16);
		CHECK(dst[5] == 0 && dst[15] == 0);
		CHECK(gw_read_check(&r, &err) == -ECONNRESET);
		CHECK(strstr(err.msg, "byte 10, 10 more"));
		gw_reader_fini(&r);
	}
}

static void source_errors_are_passed_on(void)
{
	static const uint8_t b[5] = { 1, 2, 3, 4, 5 };
	struct source s = { .p = b, .len = sizeof(b), .fail = EPIPE };
	struct gw_error err = { 0 };
	struct gw_reader r;

	CHECK(!gw_reader_init(&r, give, &s, 64, &err));
	CHECK(gw_read_be32(&r) == 0x01020304 && gw_read_more(&r));
	CHECK(gw_read_be32(&r) == 0);
	CHECK(gw_read_check(&r, &err) == -EPIPE);
	CHECK(!strcmp(err.msg, "the cable was pulled"));
	s.calls = 0;
	gw_read_be64(&r);
	CHECK(s.calls == 0); /* not asked again */
	gw_reader_fini(&r);

	s = (struct source){ .p = b, .len = 0, .fail = EPIPE };
	CHECK(!gw_reader_init(&r, give, &s, 64, &err));
	CHECK(!gw_read_more(&r) && gw_read_check(&r, &err) == -EPIPE);
	gw_reader_fini(&r);
}

static void names_are_checked(void)
{
	static const uint8_t empty[] = { 0 }, nul[] = { 3, 'a', 0, 'b' };
	static const uint8_t cut[] = { 5, 'a', 'b' };
	static const struct {
		const uint8_t *p;
		size_t len;
		int code;
	} bad[] = { { empty, sizeof(empty), EPROTO },
		    { nul, sizeof(nul), EPROTO },
		    { cut, sizeof(cut), ECONNRESET } };
	uint8_t longest[256];
	struct gw_reader r;
	char s[256];

	for (size_t i = 0; i < 3; i++) {
		gw_reader_init_mem(&r, bad[i].p, bad[i].len);
		gw_read_cstr8(&r, s, "block name");
		CHECK(r.err.code == bad[i].code);
		CHECK(bad[i].code != EPROTO || strstr(r.err.msg, "block name"));
		CHECK(strlen(s) < 4);
		gw_reader_fini(&r);
	}
	memset(longest, 'n', sizeof(longest));
	longest[0] = 255;
	gw_reader_init_mem(&r, longest, sizeof(longest));
	gw_read_cstr8(&r, s, "x");
	CHECK(strlen(s) == 255 && !gw_read_failed(&r));
	gw_reader_fini(&r);
}

static void writer_error_sticks(void)
{
	static struct gw_writer w;
	struct sink sink = { .fail = ENOSPC };
	struct gw_error err = { 0 };
	char big[4096] = "";

	gw_writer_init(&w, take, &sink);
	for (int i = 0; i < 1000; i++)
		gw_write_bytes(&w, big, sizeof(big));
	CHECK(sink.calls == 1 && gw_write_failed(&w));
	for (int i = 0; i < 1000; i++)
		gw_write_ref(&w, big, sizeof(big));
	CHECK(gw_write_flush(&w, &err) == -ENOSPC && sink.calls == 1);
	CHECK(!strcmp(err.msg, "the disk is full"));
	CHECK(gw_write_check(&w, NULL) == -ENOSPC);
}

int main(void)
{
	seed = test_seed();
	RUN(integers_are_big_endian);
	RUN(what_is_written_is_read);
	RUN(first_failure_sticks);
	RUN(limits_are_inclusive);
	RUN(truncation_says_where);
	RUN(source_errors_are_passed_on);
	RUN(names_are_checked);
	RUN(writer_error_sticks);
	return test_done();
}
