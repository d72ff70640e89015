/* SPDX-License-Identifier: BSD-3-Clause */
/* qmp_text.c - see qmp_text.h. */
#include "control/qmp_text.h"

#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BUFFER 4096

/* --- bytes to values ------------------------------------------------------ */

/* Where in a token. Of numbers: after '-', after a leading 0, in the whole
 * part, after '.', in the fraction, after 'e', after its sign, in the
 * exponent. LOST: behind a byte that cannot be there. */
enum { LOST = -1, START, STRING, ESCAPE, WORD, MINUS, ZERO, WHOLE, DOT, FRACTION, E,
       E_SIGN, EXPONENT };

/* What a byte does. */
enum { MORE, DONE, DONE_BEFORE, STRAY };

int gw_qmp_text_add(struct gw_qmp_text *t, const void *p, size_t len)
{
	size_t cap = t->cap ? t->cap : FIRST_BUFFER;
	char *n;

	if (t->start) {
		t->len -= t->start;
		memmove(t->buf, t->buf + t->start, t->len);
		t->scan -= t->start;
		t->token -= t->start;
		t->start = 0;
	}
	while (cap - t->len < len)
		cap *= 2;
	if (cap != t->cap) {
		n = realloc(t->buf, cap);
		if (!n)
			return -ENOMEM;
		t->buf = n;
		t->cap = cap;
	}
	memcpy(t->buf + t->len, p, len);
	t->len += len;
	return 0;
}

void gw_qmp_text_fini(struct gw_qmp_text *t)
{
	free(t->buf);
	memset(t, 0, sizeof(*t));
}

static int begin_token(struct gw_qmp_text *t, unsigned char c)
{
	t->token = t->scan;
	if (strchr("{}[]:,", c) && c)
		return DONE;
	t->state = c == '"' || c == '\'' ? STRING :
		   c == '-'		 ? MINUS :
		   c == '0'		 ? ZERO :
		   isdigit(c)		 ? WHOLE :
		   c >= 'a' && c <= 'z'	 ? WORD :
					   START;
	t->quote = (char)c;
	return t->state == START ? STRAY : MORE;
}

static int step_string(struct gw_qmp_text *t, unsigned char c)
{
	if (c < 0x20 || c > 0xfd)
		return STRAY;
	if (t->state == ESCAPE)
		t->state = STRING;
	else if (c == '\\')
		t->state = ESCAPE;
	else if (c == (unsigned char)t->quote)
		return DONE;
	return MORE;
}

static int step_number(struct gw_qmp_text *t, unsigned char c)
{
	bool digit = isdigit(c), e = c == 'e' || c == 'E';

	switch (t->state) {
	case MINUS:
		t->state = c == '0' ? ZERO : WHOLE;
		return digit ? MORE : STRAY;
	case ZERO:
		if (digit)
			return STRAY;
		t->state = c == '.' ? DOT : E;
		return c == '.' || e ? MORE : DONE_BEFORE;
	case WHOLE:
		if (digit)
			return MORE;
		t->state = c == '.' ? DOT : E;
		return c == '.' || e ? MORE : DONE_BEFORE;
	case DOT:
		t->state = FRACTION;
		return digit ? MORE : STRAY;
	case FRACTION:
		if (digit)
			return MORE;
		t->state = E;
		return e ? MORE : DONE_BEFORE;
	case E:
		t->state = digit ? EXPONENT : E_SIGN;
		return digit || c == '+' || c == '-' ? MORE : STRAY;
	case E_SIGN:
		t->state = EXPONENT;
		return digit ? MORE : STRAY;
	default:
		return digit ? MORE : DONE_BEFORE;
	}
}

static int step(struct gw_qmp_text *t, unsigned char c)
{
	switch (t->state) {
	case LOST:
		/* The next end of a line, bracket or such may be sound. */
		if ((c >= 0x20 || c == '\t') && c < 0xfe &&
		    !strchr("{}[]:,", c)) {
			t->start++;
			return MORE;
		}
		t->state = START;
		return step(t, c);
	case START:
		if (c && strchr(" \t\r\n", c)) {
			if (t->start == t->scan && !t->braces && !t->brackets)
				t->start++;
			return MORE;
		}
		return begin_token(t, c);
	case STRING:
	case ESCAPE:
		return step_string(t, c);
	case WORD:
		return c >= 'a' && c <= 'z' ? MORE : DONE_BEFORE;
	default:
		return step_number(t, c);
	}
}

static int reset(struct gw_qmp_text *t)
{
	t->start = t->token = t->scan;
	t->state = START;
	t->braces = t->brackets = 0;
	return -EBADMSG;
}

/* Bytes that may be anything, as a part of a sentence. */
static void quote(char *why, const char *p, size_t len)
{
	size_t n = strlen(why);

	for (; len && n + 8 < GW_QMP_WHY; p++, len--) {
		if ((unsigned char)*p < 0x80 && *p)
			why[n++] = *p;
		else
			n += (size_t)sprintf(why + n, "\xef\xbf\xbd");
	}
	why[n++] = '\'';
	why[n] = '\0';
}

/* A token ended. Return: is the value complete? */
static bool count(struct gw_qmp_text *t)
{
	switch (t->buf[t->token]) {
	case '{':
		t->braces++;
		break;
	case '}':
		t->braces--;
		break;
	case '[':
		t->brackets++;
		break;
	case ']':
		t->brackets--;
		break;
	default:
		break;
	}
	t->state = START;
	return t->braces < 0 || t->brackets < 0 ||
	       (!t->braces && !t->brackets);
}

static int too_much(struct gw_qmp_text *t, const char *what,
		    char why[GW_QMP_WHY])
{
	snprintf(why, GW_QMP_WHY, "JSON %s limit exceeded", what);
	return reset(t);
}

int gw_qmp_text_next(struct gw_qmp_text *t, struct gw_span *value,
		     char why[GW_QMP_WHY])
{
	size_t max = t->max ? t->max : GW_QMP_TEXT_MAX;

	while (t->scan < t->len) {
		int what = step(t, (unsigned char)t->buf[t->scan]);

		if (what != DONE_BEFORE)
			t->scan++;
		if (what == STRAY) {
			strcpy(why, "JSON parse error, stray '");
			quote(why, t->buf + t->token, t->scan - t->token);
			reset(t);
			t->state = LOST;
			return -EBADMSG;
		}
		if (t->scan - t->start > max)
			return too_much(t, "token size", why);
		if (what == MORE || !count(t)) {
			if (t->braces + t->brackets > GW_QMP_TEXT_NESTING)
				return too_much(t, "nesting depth", why);
			continue;
		}
		*value = (struct gw_span){ t->buf + t->start,
					   t->scan - t->start };
		reset(t);
		return 1;
	}
	return 0;
}

/* --- checking ------------------------------------------------------------- */

struct cursor {
	const char *p, *end;
	char *why;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && strchr(" \t\r\n", *c->p) && *c->p)
		c->p++;
}

static int bad(struct cursor *c, const char *what)
{
	snprintf(c->why, GW_QMP_WHY, "JSON parse error, %s", what);
	return -EBADMSG;
}

/* The length of the UTF-8 sequence at @p, 0: it is none. */
static size_t utf8_len(const char *p, const char *end)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned char c = (unsigned char)*p;
	size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 :
		   c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
	uint32_t v;

	if (n < 2)
		return n;
	v = c & (0xffu >> (n + 1));
	if ((size_t)(end - p) < n)
		return 0;
	for (size_t i = 1; i < n; i++) {
		if (((unsigned char)p[i] & 0xc0) != 0x80)
			return 0;
		v = v << 6 | ((unsigned char)p[i] & 0x3f);
	}
	return v < least[n] || v > 0x10ffff || (v >= 0xd800 && v < 0xe000) ?
		       0 :
		       n;
}

static int hex4(const char *p, const char *end)
{
	int v = 0;

	for (int i = 0; i < 4; i++) {
		if (p + i >= end || !isxdigit((unsigned char)p[i]))
			return -1;
		v = v * 16 + (isdigit((unsigned char)p[i]) ?
				      p[i] - '0' :
				      (p[i] | 0x20) - 'a' + 10);
	}
	return v;
}

/* "\uXXXX" or a pair of them at @p. Return: its length, 0: none; @v. */
static size_t unicode(const char *p, const char *end, uint32_t *v)
{
	int hi = end - p >= 6 ? hex4(p + 2, end) : -1, lo;

	if (hi <= 0 || (hi >= 0xdc00 && hi < 0xe000))
		return 0;
	*v = (uint32_t)hi;
	if (hi < 0xd800 || hi >= 0xe000)
		return 6;
	lo = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, end) :
							    -1;
	if (lo < 0xdc00 || lo > 0xdfff)
		return 0;
	*v = 0x10000 + (((uint32_t)hi & 0x3ff) << 10 | ((uint32_t)lo & 0x3ff));
	return 12;
}

static int check_escape(struct cursor *c)
{
	uint32_t v;
	size_t n;

	if (c->p + 1 < c->end && c->p[1] == 'u') {
		n = unicode(c->p, c->end, &v);
		if (!n)
			return bad(c, "an escape is not a valid Unicode character");
		c->p += n;
		return 0;
	}
	if (c->p + 1 >= c->end || !strchr("\"'\\/bfnrt", c->p[1]))
		return bad(c, "invalid escape sequence in string");
	c->p += 2;
	return 0;
}

static int check_string(struct cursor *c)
{
	char q = *c->p++;
	int r;

	while (c->p < c->end && *c->p != q) {
		size_t n = 0;

		if (*c->p == '\\') {
			r = check_escape(c);
			if (r)
				return r;
			continue;
		}
		n = utf8_len(c->p, c->end);
		if (!n)
			return bad(c, "invalid UTF-8 sequence in string");
		c->p += n;
	}
	if (c->p == c->end)
		return bad(c, "premature EOI");
	c->p++;
	return 0;
}

static int check_word(struct cursor *c)
{
	static const char *const words[] = { "true", "false", "null" };
	const char *p = c->p;
	size_t n;

	while (c->p < c->end && *c->p >= 'a' && *c->p <= 'z')
		c->p++;
	n = (size_t)(c->p - p);
	for (int i = 0; i < 3; i++)
		if (n == strlen(words[i]) && !memcmp(words[i], p, n))
			return 0;
	strcpy(c->why, "JSON parse error, invalid keyword '");
	quote(c->why, p, n);
	return -EBADMSG;
}

static int check_value(struct cursor *c, int depth);

static int check_pair(struct cursor *c, int depth)
{
	int r;

	skip_space(c);
	if (c->p < c->end && *c->p != '"' && *c->p != '\'') {
		r = check_value(c, depth);
		return r ? r : bad(c, "key is not a string in object");
	}
	r = check_value(c, depth);
	if (r)
		return r;
	skip_space(c);
	if (c->p == c->end || *c->p != ':')
		return bad(c, "missing : in object pair");
	c->p++;
	return check_value(c, depth);
}

/* The inside of a list or an object, behind its opening bracket. */
static int check_inside(struct cursor *c, char close, int depth)
{
	int r;

	skip_space(c);
	if (c->p < c->end && *c->p == close) {
		c->p++;
		return 0;
	}
	for (;;) {
		r = close == '}' ? check_pair(c, depth) :
				   check_value(c, depth);
		if (r)
			return r;
		skip_space(c);
		if (c->p < c->end && *c->p == close) {
			c->p++;
			return 0;
		}
		if (c->p == c->end || *c->p != ',')
			return bad(c, close == '}' ?
					      "expected separator in dict" :
					      "expected separator in list");
		c->p++;
	}
}

static int check_value(struct cursor *c, int depth)
{
	skip_space(c);
	if (c->p == c->end)
		return bad(c, "expecting value");
	if (*c->p == '{' || *c->p == '[') {
		char close = *c->p++ == '{' ? '}' : ']';

		if (depth == GW_QMP_TEXT_NESTING)
			return bad(c, "nested too deep");
		return check_inside(c, close, depth + 1);
	}
	if (*c->p == '"' || *c->p == '\'')
		return check_string(c);
	if (*c->p >= 'a' && *c->p <= 'z')
		return check_word(c);
	if (*c->p != '-' && !isdigit((unsigned char)*c->p))
		return bad(c, "expecting value");
	while (c->p < c->end && strchr("+-.0123456789eE", *c->p) && *c->p)
		c->p++;
	return 0;
}

int gw_json_check(struct gw_span v, char why[GW_QMP_WHY])
{
	struct cursor c = { v.p, v.p + v.len, why };
	int r = check_value(&c, 0);

	skip_space(&c);
	return !r && c.p < c.end ? bad(&c, "expecting value") : r;
}

/* --- taking apart --------------------------------------------------------- */

/* Over one value that was checked. */
static void skip_value(struct cursor *c)
{
	char why[GW_QMP_WHY];

	c->why = why;
	(void)!check_value(c, 0);
	c->why = NULL;
}

bool gw_json_member(struct gw_span v, size_t *pos, struct gw_span *key,
		    struct gw_span *value)
{
	struct cursor c = { v.p + *pos, v.p + v.len, NULL };

	skip_space(&c);
	if (c.p == c.end || (*pos == 0 && *c.p != '{'))
		return false;
	c.p++; /* '{', ',' or '}' */
	skip_space(&c);
	if (c.p == c.end || *c.p == '}')
		return false;
	key->p = c.p;
	skip_value(&c);
	key->len = (size_t)(c.p - key->p);
	skip_space(&c);
	c.p++; /* ':' */
	skip_space(&c);
	value->p = c.p;
	skip_value(&c);
	value->len = (size_t)(c.p - value->p);
	*pos = (size_t)(c.p - v.p);
	return true;
}

static size_t put_utf8(char *to, uint32_t v)
{
	if (v < 0x80) {
		to[0] = (char)v;
		return 1;
	}
	if (v < 0x800) {
		to[0] = (char)(0xc0 | v >> 6);
		to[1] = (char)(0x80 | (v & 0x3f));
		return 2;
	}
	if (v < 0x10000) {
		to[0] = (char)(0xe0 | v >> 12);
		to[1] = (char)(0x80 | (v >> 6 & 0x3f));
		to[2] = (char)(0x80 | (v & 0x3f));
		return 3;
	}
	to[0] = (char)(0xf0 | v >> 18);
	to[1] = (char)(0x80 | (v >> 12 & 0x3f));
	to[2] = (char)(0x80 | (v >> 6 & 0x3f));
	to[3] = (char)(0x80 | (v & 0x3f));
	return 4;
}

/* One character of a string at @p, decoded into @to[4]. Return: bytes of
 * @to; *@used of the text. */
static size_t decode(const char *p, const char *end, char to[4], size_t *used)
{
	static const char from[] = "bfnrt", is[] = "\b\f\n\r\t";
	const char *hit;
	uint32_t v = 0;

	if (*p != '\\') {
		*used = 1;
		*to = *p;
		return 1;
	}
	if (p[1] == 'u') {
		*used = unicode(p, end, &v);
		return put_utf8(to, v);
	}
	*used = 2;
	hit = strchr(from, p[1]);
	*to = hit ? is[hit - from] : p[1];
	return 1;
}

bool gw_json_string(struct gw_span v, char *buf, size_t size)
{
	const char *p = v.p + 1, *end = v.p + v.len - 1;
	size_t n = 0, used;
	char c[4];

	if (v.len < 2 || (*v.p != '"' && *v.p != '\''))
		return false;
	while (p < end) {
		size_t len = decode(p, end, c, &used);

		if (n + len >= size)
			break;
		memcpy(buf + n, c, len);
		n += len;
		p += used;
	}
	buf[n] = '\0';
	return true;
}

struct gw_span gw_json_get(struct gw_span v, const char *name)
{
	struct gw_span key, value;
	char buf[64];
	size_t pos = 0;

	while (gw_json_member(v, &pos, &key, &value))
		if (gw_json_string(key, buf, sizeof(buf)) &&
		    !strcmp(buf, name))
			return value;
	return (struct gw_span){ NULL, 0 };
}

/* Strings in single quotes become such in double quotes. */
static char *double_quotes(struct gw_span v, size_t *len)
{
	char *to = malloc(2 * v.len + 1), *t = to;
	char quote_ = 0;

	for (size_t i = 0; to && i < v.len; i++) {
		char c = v.p[i];

		if (quote_ && c == '\\') {
			if (v.p[i + 1] != '\'')
				*t++ = c;
			*t++ = v.p[++i];
			continue;
		}
		if (!quote_ && (c == '"' || c == '\'')) {
			quote_ = c;
			c = '"';
		} else if (quote_ && c == quote_) {
			quote_ = 0;
			c = '"';
		} else if (quote_ && c == '"') {
			*t++ = '\\';
		}
		*t++ = c;
	}
	*len = to ? (size_t)(t - to) : 0;
	return to;
}

json_t *gw_json_load(struct gw_span v)
{
	size_t flags = JSON_DECODE_ANY | JSON_REJECT_DUPLICATES;
	json_error_t je;
	size_t len;
	char *text = double_quotes(v, &len);
	json_t *j;

	if (!text)
		return NULL;
	j = json_loadb(text, len, flags, &je);
	if (!j) /* a number beyond 63 bits, perhaps */
		j = json_loadb(text, len, flags | JSON_DECODE_INT_AS_REAL,
			       &je);
	free(text);
	return j;
}
