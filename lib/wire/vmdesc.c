/* SPDX-License-Identifier: BSD-3-Clause */
/* vmdesc.c - see vmdesc.h. */
#include "wire/vmdesc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/reader.h"
#include "wire/jwalk.h"
#include "wire/section.h"

/* Subsections within subsections; QEMU has three levels at most. */
#define MAX_DEPTH 32

#define FOOTER_SIZE 5
#define LONG_HEADER 5 /* the item byte and the id */
#define MIN_SECTION (LONG_HEADER + 2 + 8 + FOOTER_SIZE)

void gw_tail_fini(struct gw_tail *t)
{
	free(t->section);
	t->section = NULL;
	t->n = 0;
}

static int append(struct gw_tail *t, const struct gw_tail_section *s,
		  struct gw_error *err)
{
	/* Room is doubled whenever n is a power of two. */
	if (!(t->n & (t->n - 1)) && t->n != 1) {
		size_t room = t->n ? (size_t)t->n * 2 : 2;
		void *p;

		if (t->n >= GW_TAIL_MAX_SECTIONS)
			return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					  "more than %d device sections",
					  GW_TAIL_MAX_SECTIONS);
		p = realloc(t->section, room * sizeof(*s));
		if (!p)
			return gw_fail(err, ENOMEM,
				       "no memory for %zu device sections",
				       room);
		t->section = p;
	}
	t->section[t->n++] = *s;
	return 0;
}

/* The header of the section at @r, up to its payload. */
static int get_header(struct gw_reader *r, struct gw_tail_section *s)
{
	struct gw_section h;
	uint8_t item;

	s->offset = (size_t)r->offset;
	item = gw_read_u8(r);
	if (!gw_read_failed(r) && item != GW_ITEM_SECTION_FULL)
		return gw_read_fail(r, EPROTO,
				    "byte 0x%02x where a device section (0x%02x) should begin",
				    item, GW_ITEM_SECTION_FULL);
	gw_section_get_long(r, &h);
	memcpy(s->idstr, h.idstr, sizeof(s->idstr));
	s->id = h.id;
	s->instance_id = h.instance_id;
	s->version_id = h.version_id;
	s->payload = (size_t)r->offset;
	return -r->err.code;
}

/* Every failure here is damaged input, also "the stream ends". */
static int bad_section(const struct gw_reader *r, int i, size_t at,
		       struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "device section %d at byte %zu of the device state: %s",
			  i, at, r->err.msg);
}

/* --- by the description ------------------------------------------------ */

/* What is said of one section or subsection. */
struct described {
	char name[256 + 1]; /* a longer one is nobody's name */
	int64_t instance_id;
	int64_t size; /* < 0: it says what cannot be */
	size_t vmsd_name; /* bytes */
	bool has_name, has_instance, has_vmsd_name;
};

static void get_object(struct gw_jwalk *j, int depth, struct described *d);

/* @n more bytes; all of them fit into a state as large as it may be. */
static void add(struct described *d, int64_t n)
{
	if (d->size < 0 || n < 0 || n > GW_MAX_DEVICE_STATE ||
	    d->size + n > GW_MAX_DEVICE_STATE)
		d->size = -1;
	else
		d->size += n;
}

static void get_field(struct gw_jwalk *j, struct described *d)
{
	int64_t size = -1, n = 1;
	char key[16];

	gw_jwalk_enter(j, '{');
	while (gw_jwalk_more(j)) {
		gw_jwalk_key(j, key, sizeof(key));
		if (!strcmp(key, "size")) {
			if (!gw_jwalk_integer(j, &size))
				size = -1;
		} else if (!strcmp(key, "array_len")) {
			if (!gw_jwalk_integer(j, &n))
				n = -1;
		} else {
			gw_jwalk_skip(j);
		}
	}
	if (size < 0 || n < 0 || size > GW_MAX_DEVICE_STATE ||
	    n > GW_MAX_DEVICE_STATE)
		add(d, -1);
	else
		add(d, size * n);
}

/* A subsection has a header of its own: 0x05, cstr8 name, be32 version. */
static void get_subsection(struct gw_jwalk *j, int depth, struct described *d)
{
	struct described sub;

	if (depth > MAX_DEPTH) {
		gw_jwalk_skip(j);
		add(d, -1);
		return;
	}
	get_object(j, depth, &sub);
	add(d, sub.has_vmsd_name ? 6 + (int64_t)sub.vmsd_name : -1);
	add(d, sub.size);
}

/* The items of a list, which are objects. */
static void get_list(struct gw_jwalk *j, bool subsections, int depth,
		     struct described *d)
{
	if (gw_jwalk_kind(j) != '[') {
		gw_jwalk_skip(j);
		add(d, -1);
		return;
	}
	gw_jwalk_enter(j, '[');
	while (gw_jwalk_more(j)) {
		if (gw_jwalk_kind(j) != '{') {
			gw_jwalk_skip(j);
			add(d, -1);
		} else if (subsections) {
			get_subsection(j, depth + 1, d);
		} else {
			get_field(j, d);
		}
	}
}

/* Return: whether it is a string at all. */
static bool get_text(struct gw_jwalk *j, char *buf, size_t cap, size_t *len)
{
	if (gw_jwalk_kind(j) == '"') {
		*len = gw_jwalk_string(j, buf, cap);
		return true;
	}
	gw_jwalk_skip(j);
	return false;
}

/*
 * An entry: the bytes of its payload are the sum of its fields' sizes (a size
 * includes nested structs) and of its subsections with their headers.
 */
static void get_object(struct gw_jwalk *j, int depth, struct described *d)
{
	char key[16];
	size_t len;

	d->name[0] = '\0';
	d->instance_id = d->size = 0;
	d->has_name = d->has_instance = d->has_vmsd_name = false;
	gw_jwalk_enter(j, '{');
	while (gw_jwalk_more(j)) {
		gw_jwalk_key(j, key, sizeof(key));
		if (!strcmp(key, "fields"))
			get_list(j, false, depth, d);
		else if (!strcmp(key, "subsections"))
			get_list(j, true, depth, d);
		else if (!strcmp(key, "name"))
			d->has_name = get_text(j, d->name, sizeof(d->name),
					       &len);
		else if (!strcmp(key, "vmsd_name"))
			d->has_vmsd_name = get_text(j, NULL, 0, &d->vmsd_name);
		else if (strcmp(key, "instance_id"))
			gw_jwalk_skip(j);
		else if (gw_jwalk_integer(j, &d->instance_id))
			d->has_instance = true;
		else
			add(d, -1);
	}
}

/* One section against its entry. */
static int get_described(struct gw_reader *r, const struct described *d,
			 struct gw_tail_section *s)
{
	if (get_header(r, s))
		return -r->err.code;
	if (!d->has_name || d->size < 0)
		return gw_read_fail(r, EPROTO,
				    "its entry in the description has no name or impossible sizes");
	if (strcmp(d->name, s->idstr) ||
	    (d->has_instance && d->instance_id != s->instance_id))
		return gw_read_fail(r, EPROTO,
				    "it is '%s' %u, but the description lists '%s' %lld",
				    s->idstr, s->instance_id, d->name,
				    (long long)d->instance_id);
	s->size = (size_t)d->size;
	gw_read_skip(r, s->size);
	return gw_section_get_footer(r, s->id);
}

static int no_description(const struct gw_jwalk *j, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "the description of the device state is no JSON with a list of devices%s%s",
			  j->why ? ": " : "", j->why ? j->why : "");
}

static int split_devices(struct gw_tail *t, struct gw_reader *r,
			 struct gw_jwalk *j, struct gw_error *err)
{
	gw_jwalk_enter(j, '[');
	while (gw_jwalk_more(j)) {
		struct described d = { .size = 0 };
		struct gw_tail_section s;
		int ret;

		if (gw_jwalk_kind(j) == '{')
			get_object(j, 0, &d);
		else
			gw_jwalk_skip(j);
		if (j->why)
			break;
		if (get_described(r, &d, &s))
			return bad_section(r, t->n, s.offset, err);
		ret = append(t, &s, err);
		if (ret)
			return ret;
	}
	return 0;
}

/* A second list would describe bytes that the first one did. */
static int split(struct gw_tail *t, struct gw_reader *r, struct gw_jwalk *j,
		 struct gw_error *err)
{
	bool found = false;
	char key[16];
	int ret;

	gw_jwalk_enter(j, '{');
	while (gw_jwalk_more(j)) {
		gw_jwalk_key(j, key, sizeof(key));
		if (strcmp(key, "devices")) {
			gw_jwalk_skip(j);
			continue;
		}
		if (found || gw_jwalk_kind(j) != '[')
			return no_description(j, err);
		found = true;
		ret = split_devices(t, r, j, err);
		if (ret)
			return ret;
	}
	return gw_jwalk_end(j) && found ? 0 : no_description(j, err);
}

int gw_tail_split(struct gw_tail *t, const void *tail, size_t len,
		  const char *json, size_t json_len, struct gw_error *err)
{
	struct gw_reader r;
	struct gw_jwalk j;
	int ret;

	memset(t, 0, sizeof(*t));
	if (json_len > GW_MAX_VMDESC)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the description of the device state is %zu bytes, the limit is %u",
				  json_len, GW_MAX_VMDESC);
	gw_reader_init_mem(&r, tail, len);
	gw_jwalk_init(&j, json, json_len);
	ret = split(t, &r, &j, err);
	if (!ret && r.offset != len)
		ret = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				 "%zu bytes of device state follow the %d sections of the description",
				 len - (size_t)r.offset, t->n);
	if (ret)
		gw_tail_fini(t);
	return ret;
}

/* --- by footers -------------------------------------------------------- */

/* Can a device section begin at @p, or is it the end of the tail? */
static bool may_begin(const uint8_t *p, const uint8_t *end)
{
	size_t n;

	if (p == end)
		return true;
	if (end - p < MIN_SECTION || p[0] != GW_ITEM_SECTION_FULL)
		return false;
	n = p[LONG_HEADER];
	if (!n || (size_t)(end - p) < MIN_SECTION - 1 + n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (p[LONG_HEADER + 1 + i] < 0x20 ||
		    p[LONG_HEADER + 1 + i] > 0x7e)
			return false;
	return true;
}

/* The footer of section @id, at @p or later; NULL: none. */
static const uint8_t *find_footer(const uint8_t *p, const uint8_t *end,
				  uint32_t id)
{
	while ((p = memchr(p, GW_ITEM_SECTION_FOOTER, (size_t)(end - p)))) {
		if (end - p < FOOTER_SIZE)
			return NULL;
		if (gw_get_be32(p + 1) == id && may_begin(p + FOOTER_SIZE, end))
			return p;
		p++;
	}
	return NULL;
}

int gw_tail_scan(struct gw_tail *t, const void *tail, size_t len,
		 struct gw_error *err)
{
	const uint8_t *b = tail, *footer;
	struct gw_tail_section s;
	struct gw_reader r;
	int ret = 0;

	memset(t, 0, sizeof(*t));
	gw_reader_init_mem(&r, tail, len);
	while (!ret && r.offset < len) {
		if (get_header(&r, &s)) {
			ret = bad_section(&r, t->n, s.offset, err);
			break;
		}
		footer = find_footer(b + s.payload, b + len, s.id);
		if (!footer) {
			ret = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
					 "device section %d ('%s' %u) at byte %zu of the device state has no footer",
					 t->n, s.idstr, s.instance_id,
					 s.offset);
			break;
		}
		s.size = (size_t)(footer - b) - s.payload;
		gw_read_skip(&r, s.size + FOOTER_SIZE);
		ret = append(t, &s, err);
	}
	if (ret)
		gw_tail_fini(t);
	return ret;
}

/* --- both -------------------------------------------------------------- */

static int compare(const struct gw_tail *a, const struct gw_tail *b,
		   struct gw_error *err)
{
	/* Both are in order and cover the same bytes: when all sections of
	 * one are found in the other there are no more in it. */
	for (int i = 0; i < a->n; i++) {
		const struct gw_tail_section *s = &a->section[i];

		if (i < b->n && b->section[i].offset == s->offset &&
		    b->section[i].size == s->size)
			continue;
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "device section %d ('%s' %u) at byte %zu of the device state has %zu bytes by the description, but its footers say otherwise",
				  i, s->idstr, s->instance_id, s->offset,
				  s->size);
	}
	return 0;
}

int gw_tail_check(struct gw_tail *t, const void *tail, size_t len,
		  const char *json, size_t json_len, struct gw_error *err)
{
	struct gw_tail scan;
	int ret = gw_tail_split(t, tail, len, json, json_len, err);

	if (ret)
		return ret;
	ret = gw_tail_scan(&scan, tail, len, err);
	if (!ret) {
		ret = compare(t, &scan, err);
		gw_tail_fini(&scan);
	}
	if (ret)
		gw_tail_fini(t);
	return ret;
}

/* --- the end ----------------------------------------------------------- */

/* EOF(1) VMDESCRIPTION(1) length(4), then '{' */
#define END_HEADER 6

/* Only a footer or nothing at all is before EOF. */
static bool may_be_eof(const uint8_t *b, size_t at)
{
	return b[at] == GW_ITEM_EOF &&
	       (at == 0 || (at >= FOOTER_SIZE &&
			    b[at - FOOTER_SIZE] == GW_ITEM_SECTION_FOOTER));
}

bool gw_tail_ends(const void *tail, size_t len, size_t nul, size_t *eof)
{
	const uint8_t *b = tail;

	/*
	 * JSON has no NUL, so the last one of all bytes is in the length
	 * before it, or EOF itself.
	 */
	for (size_t i = 0; i < END_HEADER && i <= nul; i++) {
		size_t at = nul - i;

		if (len - at <= END_HEADER || !may_be_eof(b, at) ||
		    b[at + 1] != GW_ITEM_VMDESCRIPTION ||
		    b[at + END_HEADER] != '{')
			continue;
		if (gw_get_be32(b + at + 2) == len - at - END_HEADER &&
		    len - at - END_HEADER <= GW_MAX_VMDESC) {
			*eof = at;
			return true;
		}
	}
	return false;
}

int gw_tail_find_end(const void *tail, size_t len, size_t *eof,
		     const char **json, size_t *json_len, struct gw_error *err)
{
	const uint8_t *b = tail, *nul = len ? memrchr(b, 0, len) : NULL;

	*json = NULL;
	*json_len = 0;
	if (nul && gw_tail_ends(tail, len, (size_t)(nul - b), eof)) {
		*json = (const char *)b + *eof + END_HEADER;
		*json_len = len - *eof - END_HEADER;
		return 0;
	}
	if (len && may_be_eof(b, len - 1)) {
		*eof = len - 1;
		return 0;
	}
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "the device state (%zu bytes) does not end with a section footer, EOF and a description of its own length (of at most %u): it is cut short, or something follows it",
			  len, GW_MAX_VMDESC);
}

/* Beginnings of a description that are looked into: reading one takes time. */
#define MAX_TRIES 64

size_t gw_tail_length(const void *tail, size_t len)
{
	const uint8_t *b = tail;
	unsigned int tries = 0;

	for (size_t at = 0; len > END_HEADER && at < len - END_HEADER; at++) {
		struct gw_tail t;
		uint32_t n;
		int r;

		if (!may_be_eof(b, at) || b[at + 1] != GW_ITEM_VMDESCRIPTION ||
		    b[at + END_HEADER] != '{')
			continue;
		n = gw_get_be32(b + at + 2);
		if (n > GW_MAX_VMDESC || n > len - at - END_HEADER)
			continue;
		r = gw_tail_check(&t, tail, at,
				  (const char *)b + at + END_HEADER, n, NULL);
		gw_tail_fini(&t);
		if (!r)
			return at + END_HEADER + n;
		if (++tries == MAX_TRIES)
			break;
	}
	return 0;
}
