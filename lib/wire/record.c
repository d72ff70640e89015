/* SPDX-License-Identifier: BSD-3-Clause */
/* record.c - see record.h. */
#include "wire/record.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"

#define MAX_RECORD (16u << 20)

void gw_record_put(struct gw_writer *w, enum gw_record_type type,
		   bool mandatory, uint32_t len)
{
	gw_write_u8(w, GW_ITEM_RECORD);
	gw_write_u8(w, mandatory ? GW_RECORD_MANDATORY : 0);
	gw_write_be16(w, (uint16_t)type);
	gw_write_be32(w, len);
}

int gw_record_get(struct gw_reader *r, struct gw_record *rec)
{
	uint8_t flags = gw_read_u8(r);

	rec->type = gw_read_be16(r);
	rec->len = gw_read_len32(r, MAX_RECORD, "a record");
	rec->mandatory = flags & GW_RECORD_MANDATORY;
	if (!gw_read_failed(r) && (flags & ~GW_RECORD_MANDATORY))
		return gw_read_fail(r, EPROTO,
				    "record %u has unknown flags 0x%02x",
				    rec->type, flags);
	return -r->err.code;
}

void gw_record_put_error(struct gw_writer *w, const struct gw_error *err,
			 bool not_here)
{
	json_t *j = json_pack("{s:i, s:i, s:s%}", "fault", (int)err->fault,
			      "code", err->code, "reason", err->msg,
			      strnlen(err->msg, sizeof(err->msg)));
	gw_autofree char *text = NULL;

	/* A reason that is not UTF-8 (a path, a hostile name) goes as '?'. */
	if (!j)
		j = json_pack("{s:i, s:i, s:s}", "fault", (int)err->fault,
			      "code", err->code, "reason",
			      "(a reason that is not UTF-8)");
	if (j && not_here)
		json_object_set_new(j, "vm", json_string("not-here"));
	text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	gw_record_put(w, GW_RECORD_ERROR, true,
		      text ? (uint32_t)strlen(text) : 0);
	if (text)
		gw_write_bytes(w, text, strlen(text));
}

/* What a peer says is shown to a person: no control characters. */
static void sanitize(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = ' ';
}

int gw_record_get_error(struct gw_reader *r, const struct gw_record *rec,
			const char *peer, struct gw_error *out, bool *not_here)
{
	gw_autofree char *text = NULL;
	const char *reason = "no reason given", *where = "";
	int fault = GW_FAULT_FAILED, code = EIO;
	json_t *j;

	*not_here = false;
	if (rec->len > GW_RECORD_MAX_JSON)
		return gw_read_fail(r, EMSGSIZE,
				    "an error text of %u bytes, the limit is %u",
				    rec->len, GW_RECORD_MAX_JSON);
	text = calloc(1, rec->len + 1);
	if (!text)
		return gw_read_fail(r, ENOMEM, "no memory for an error text");
	gw_read_bytes(r, text, rec->len);
	if (gw_read_failed(r))
		return -r->err.code;
	j = json_loadb(text, rec->len, 0, NULL);
	if (j)
		json_unpack(j, "{s?i, s?i, s?s, s?s}", "fault", &fault, "code",
			    &code, "reason", &reason, "vm", &where);
	if (fault < GW_FAULT_FAILED || fault > GW_FAULT_UNCERTAIN)
		fault = GW_FAULT_FAILED;
	if (code <= 0 || code > 4095)
		code = EIO;
	*not_here = !strcmp(where, "not-here");
	gw_fail_as(out, (enum gw_fault)fault, code, "%s: %s", peer, reason);
	sanitize(out->msg);
	json_decref(j);
	return 0;
}

void gw_record_put_extents(struct gw_writer *w, const struct gw_ramblock *b,
			   const struct gw_extent *e, uint32_t n)
{
	gw_record_put(w, GW_RECORD_EXTENTS, false,
		      1 + (uint32_t)strlen(b->idstr) + 16 * n);
	gw_write_cstr8(w, b->idstr);
	for (uint32_t i = 0; i < n; i++) {
		gw_write_be64(w, e[i].start);
		gw_write_be64(w, e[i].len);
	}
}

/* The block name that begins a record and the payload bytes after it. */
static struct gw_ramblock *get_block(struct gw_reader *r,
				     const struct gw_record *rec,
				     struct gw_ram *ram, uint32_t *rest)
{
	struct gw_ramblock *b;
	char idstr[256];
	size_t used;

	*rest = 0;
	gw_read_cstr8(r, idstr, "the block name of a record");
	if (gw_read_failed(r))
		return NULL;
	used = 1 + strlen(idstr);
	b = gw_ram_find(ram, idstr);
	if (!b || used > rec->len) {
		gw_read_fail(r, EPROTO, "record %u names unknown block '%s'",
			     rec->type, idstr);
		return NULL;
	}
	*rest = rec->len - (uint32_t)used;
	return b;
}

int gw_record_get_extents(struct gw_reader *r, const struct gw_record *rec,
			  struct gw_ram *ram, struct gw_ramblock **b,
			  struct gw_extent *e, uint32_t *n)
{
	uint64_t at = 0;
	uint32_t rest;

	*n = 0;
	*b = get_block(r, rec, ram, &rest);
	if (!*b)
		return -r->err.code;
	if (rest % 16 || rest / 16 > GW_RECORD_MAX_EXTENTS)
		return gw_read_fail(r, EPROTO,
				    "a list of extents of %u bytes", rest);
	for (uint32_t i = 0; i < rest / 16; i++) {
		e[i].start = gw_read_be64(r);
		e[i].len = gw_read_be64(r);
		if (gw_read_failed(r))
			return -r->err.code;
		if (e[i].start < at || e[i].start > (*b)->used_length ||
		    !e[i].len || e[i].len > (*b)->used_length - e[i].start ||
		    (e[i].start | e[i].len) % GW_PAGE_SIZE)
			return gw_read_fail(
				r, EPROTO,
				"extent 0x%llx+0x%llx does not fit block '%s' (0x%llx bytes) or the one before",
				(unsigned long long)e[i].start,
				(unsigned long long)e[i].len, (*b)->idstr,
				(unsigned long long)(*b)->used_length);
		at = e[i].start + e[i].len;
	}
	*n = rest / 16;
	return 0;
}

void gw_record_put_verify(struct gw_writer *w, const struct gw_ramblock *b,
			  uint64_t first, const uint64_t *hash, uint32_t n)
{
	gw_record_put(w, GW_RECORD_VERIFY, true,
		      1 + (uint32_t)strlen(b->idstr) + 8 + 8 * n);
	gw_write_cstr8(w, b->idstr);
	gw_write_be64(w, first);
	for (uint32_t i = 0; i < n; i++)
		gw_write_be64(w, hash[i]);
}

int gw_record_get_verify(struct gw_reader *r, const struct gw_record *rec,
			 struct gw_ram *ram, struct gw_ramblock **b,
			 uint64_t *first, uint64_t *hash, uint32_t *n)
{
	uint64_t npages;
	uint32_t rest;

	*n = 0;
	*b = get_block(r, rec, ram, &rest);
	if (!*b)
		return -r->err.code;
	npages = gw_ramblock_npages(*b);
	*first = gw_read_be64(r);
	if (gw_read_failed(r))
		return -r->err.code;
	if (rest < 16 || rest % 8 || rest / 8 - 1 > GW_VERIFY_CHUNK ||
	    *first >= npages || rest / 8 - 1 > npages - *first)
		return gw_read_fail(r, EPROTO,
				    "%u bytes of page hashes at page 0x%llx of block '%s' (0x%llx pages)",
				    rest, (unsigned long long)*first,
				    (*b)->idstr, (unsigned long long)npages);
	*n = rest / 8 - 1;
	for (uint32_t i = 0; i < *n; i++)
		hash[i] = gw_read_be64(r);
	return -r->err.code;
}
