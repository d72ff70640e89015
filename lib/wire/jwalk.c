/* SPDX-License-Identifier: BSD-3-Clause */
/* jwalk.c - see jwalk.h. */
#include "wire/jwalk.h"

#include <string.h>

void gw_jwalk_init(struct gw_jwalk *j, const char *text, size_t len)
{
	j->begin = j->p = text;
	j->end = text + len;
	j->why = NULL;
	j->depth = 0;
	j->first = true;
}

/* Nothing is to be taken any more, and every loop ends. */
static void fail(struct gw_jwalk *j, const char *why)
{
	if (!j->why)
		j->why = why;
	j->end = j->p;
	j->depth = 0;
}

/* The byte at the cursor, 0 at the end. */
static char at(const struct gw_jwalk *j)
{
	return j->p < j->end ? *j->p : 0;
}

static void skip_space(struct gw_jwalk *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' ||
				 *j->p == '\t' || *j->p == '\r'))
		j->p++;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

char gw_jwalk_kind(struct gw_jwalk *j)
{
	char c;

	skip_space(j);
	c = at(j);
	if (c == '{' || c == '[' || c == '"')
		return c;
	if (c == '-' || is_digit(c))
		return '0';
	return c == 't' || c == 'f' || c == 'n' ? 'a' : 0;
}

/* --- containers --------------------------------------------------------- */

void gw_jwalk_enter(struct gw_jwalk *j, char open)
{
	if (gw_jwalk_kind(j) != open) {
		fail(j, "an object or a list is missing");
	} else if (j->depth == GW_JWALK_MAX_DEPTH) {
		fail(j, "it is nested too deep");
	} else {
		j->p++;
		j->close[j->depth++] = open == '{' ? '}' : ']';
		j->first = true;
	}
}

bool gw_jwalk_more(struct gw_jwalk *j)
{
	bool first = j->first;

	if (j->why || !j->depth)
		return false;
	skip_space(j);
	j->first = false;
	if (at(j) == j->close[j->depth - 1]) {
		j->p++;
		j->depth--;
		return false;
	}
	if (first)
		return true;
	if (at(j) != ',') {
		fail(j, "a comma or the end of a list is missing");
		return false;
	}
	j->p++;
	return true;
}

/* --- strings ------------------------------------------------------------ */

struct text {
	char *buf;
	size_t cap, len; /* len: without the limit */
};

static void put(struct text *t, unsigned int c)
{
	if (t->len + 1 < t->cap)
		t->buf[t->len] = (char)c;
	t->len++;
}

static void put_utf8(struct text *t, unsigned int c)
{
	if (c < 0x80) {
		put(t, c);
		return;
	}
	if (c < 0x800) {
		put(t, 0xc0 | c >> 6);
	} else {
		if (c < 0x10000) {
			put(t, 0xe0 | c >> 12);
		} else {
			put(t, 0xf0 | c >> 18);
			put(t, 0x80 | (c >> 12 & 0x3f));
		}
		put(t, 0x80 | (c >> 6 & 0x3f));
	}
	put(t, 0x80 | (c & 0x3f));
}

static unsigned int hex4(struct gw_jwalk *j)
{
	unsigned int v = 0;

	for (int i = 0; i < 4; i++, j->p++) {
		char c = at(j);

		if (is_digit(c))
			v = v << 4 | (unsigned int)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = v << 4 | (unsigned int)((c | 0x20) - 'a' + 10);
		else {
			fail(j, "\\u without four digits");
			return 0;
		}
	}
	return v;
}

/* Behind "\u": one character, of two halves perhaps. */
static void take_unicode(struct gw_jwalk *j, struct text *t)
{
	unsigned int c = hex4(j), low;

	if (c >= 0xd800 && c < 0xdc00 && j->end - j->p >= 6 &&
	    !memcmp(j->p, "\\u", 2)) {
		j->p += 2;
		low = hex4(j);
		if (low >= 0xdc00 && low < 0xe000)
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	}
	if (!c || (c >= 0xd800 && c < 0xe000))
		fail(j, "\\u with what is no character");
	else
		put_utf8(t, c);
}

static void take_escape(struct gw_jwalk *j, struct text *t)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	char c = at(j);
	const char *f = c ? strchr(from, c) : NULL;

	if (!f && c != 'u') {
		fail(j, "an unknown escape in a string");
		return;
	}
	j->p++;
	if (f)
		put(t, (unsigned char)to[f - from]);
	else
		take_unicode(j, t);
}

/* Bytes that stand for themselves, all that there are here. */
static void take_plain(struct gw_jwalk *j, struct text *t)
{
	const char *from = j->p;
	size_t n, room = t->len + 1 < t->cap ? t->cap - t->len - 1 : 0;

	while (j->p < j->end && *j->p != '"' && *j->p != '\\' &&
	       (unsigned char)*j->p >= 0x20)
		j->p++;
	n = (size_t)(j->p - from);
	if (room)
		memcpy(t->buf + t->len, from, n < room ? n : room);
	t->len += n;
}

size_t gw_jwalk_string(struct gw_jwalk *j, char *buf, size_t cap)
{
	struct text t = { buf, cap, 0 };

	if (gw_jwalk_kind(j) == '"') {
		j->p++;
		take_plain(j, &t);
		while (at(j) == '\\') {
			j->p++;
			take_escape(j, &t);
			take_plain(j, &t);
		}
	}
	if (at(j) == '"')
		j->p++;
	else
		fail(j, "a string is missing or has no end");
	if (cap)
		buf[t.len < cap ? t.len : cap - 1] = '\0';
	return t.len;
}

void gw_jwalk_key(struct gw_jwalk *j, char *buf, size_t cap)
{
	gw_jwalk_string(j, buf, cap);
	skip_space(j);
	if (at(j) == ':')
		j->p++;
	else
		fail(j, "a colon is missing");
}

/* --- numbers and words -------------------------------------------------- */

/* Return: how many. */
static int take_digits(struct gw_jwalk *j, bool minus, int64_t *value)
{
	int n = 0;

	for (*value = 0; is_digit(at(j)); j->p++, n++) {
		int digit = minus ? '0' - *j->p : *j->p - '0';

		if (__builtin_mul_overflow(*value, 10, value) ||
		    __builtin_add_overflow(*value, digit, value)) {
			fail(j, "a number is too large");
			return 0;
		}
	}
	return n;
}

/* A fraction or an exponent: digits are all that matters. */
static bool take_more_digits(struct gw_jwalk *j)
{
	const char *from = j->p;

	while (is_digit(at(j)))
		j->p++;
	return j->p > from;
}

/* Return: whether it is an integer. */
static bool take_number(struct gw_jwalk *j, int64_t *value)
{
	bool minus = at(j) == '-', integer = true, ok;
	char first;
	int n;

	j->p += minus;
	first = at(j);
	n = take_digits(j, minus, value);
	ok = n == 1 || (n > 1 && first != '0');
	if (ok && at(j) == '.') {
		j->p++;
		integer = false;
		ok = take_more_digits(j);
	}
	if (ok && (at(j) == 'e' || at(j) == 'E')) {
		j->p++;
		j->p += at(j) == '+' || at(j) == '-';
		integer = false;
		ok = take_more_digits(j);
	}
	if (!ok)
		fail(j, "a number is malformed");
	return integer && ok;
}

bool gw_jwalk_integer(struct gw_jwalk *j, int64_t *value)
{
	if (gw_jwalk_kind(j) == '0')
		return take_number(j, value);
	gw_jwalk_skip(j);
	return false;
}

static void take_word(struct gw_jwalk *j)
{
	static const char *const word[] = { "true", "false", "null" };

	for (int i = 0; i < 3; i++) {
		size_t n = strlen(word[i]);

		if ((size_t)(j->end - j->p) >= n &&
		    !memcmp(j->p, word[i], n)) {
			j->p += n;
			return;
		}
	}
	fail(j, "an unknown word");
}

/* --- any value ---------------------------------------------------------- */

/* Of a container only its beginning. */
static void skip_one(struct gw_jwalk *j)
{
	char kind = gw_jwalk_kind(j);
	int64_t value;

	if (kind == '{' || kind == '[')
		gw_jwalk_enter(j, kind);
	else if (kind == '"')
		gw_jwalk_string(j, NULL, 0);
	else if (kind == '0')
		take_number(j, &value);
	else if (kind == 'a')
		take_word(j);
	else
		fail(j, "a value is missing");
}

void gw_jwalk_skip(struct gw_jwalk *j)
{
	int outside = j->depth;

	do {
		skip_one(j);
		while (j->depth > outside && !gw_jwalk_more(j))
			;
		if (j->depth > outside && j->close[j->depth - 1] == '}')
			gw_jwalk_key(j, NULL, 0);
	} while (j->depth > outside);
}

bool gw_jwalk_end(struct gw_jwalk *j)
{
	skip_space(j);
	if (!j->why && (j->depth || j->p != j->end))
		fail(j, "something follows its end");
	return !j->why;
}
