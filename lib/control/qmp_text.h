/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_text.h - QMP as text: bytes are cut into JSON values, checked, and taken
 * apart without being changed, so that what only passes through stays what it
 * was, numbers beyond 64 bits and unusual spacing included.
 *
 * It reads as QEMU's monitor does: strings may be in single quotes, a value
 * ends where its outermost bracket closes, and after a byte that cannot be
 * there the next one begins a new value.
 */
#ifndef GW_CONTROL_QMP_TEXT_H
#define GW_CONTROL_QMP_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define GW_QMP_TEXT_MAX	    (16u << 20) /* bytes of one value */
#define GW_QMP_TEXT_NESTING 1024
#define GW_QMP_WHY	    160

/* Part of a text; not terminated. */
struct gw_span {
	const char *p;
	size_t len;
};

/* Bytes of one connection. All zero is empty. */
struct gw_qmp_text {
	char *buf;
	size_t cap, len;
	size_t start; /* of the value under way */
	size_t token; /* of the token under way */
	size_t scan;  /* next byte to look at */
	size_t max;   /* bytes of one value; 0: GW_QMP_TEXT_MAX */
	int state, braces, brackets;
	char quote;
};

/* Return: 0 or -ENOMEM. */
int gw_qmp_text_add(struct gw_qmp_text *t, const void *p, size_t len);
void gw_qmp_text_fini(struct gw_qmp_text *t);

/*
 * The next value, valid until the next call. Return: 1 with @value, 0 more
 * bytes are needed, or -EBADMSG with @why as QEMU says it; go on after it.
 */
int gw_qmp_text_next(struct gw_qmp_text *t, struct gw_span *value,
		     char why[GW_QMP_WHY]);

/* Is @v JSON as QEMU takes it? Return: 0, or -EBADMSG with @why. Duplicate
 * keys are not looked for. */
int gw_json_check(struct gw_span v, char why[GW_QMP_WHY]);

/* The members of object @v, which was checked, one after the other: @pos is 0
 * at first. Return: false at the end. */
bool gw_json_member(struct gw_span v, size_t *pos, struct gw_span *key,
		    struct gw_span *value);
/* Is @v, a checked value, a string? Its characters in @buf, cut to size. */
bool gw_json_string(struct gw_span v, char *buf, size_t size);
/* The value of member @name of the checked object @v; p NULL: none. */
struct gw_span gw_json_get(struct gw_span v, const char *name);

/* A checked value for those who look closer. NULL: it has a duplicate key, or
 * no memory. */
json_t *gw_json_load(struct gw_span v);

#endif
