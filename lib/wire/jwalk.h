/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * jwalk.h - walk through a JSON text (RFC 8259) once, from its first byte to
 * its last, and take out what is wanted. No tree is made: the description of
 * a device state has 20000 values, is read while the VM stands, and a few
 * hundred of them are of interest.
 *
 *	gw_jwalk_enter(j, '{');
 *	while (gw_jwalk_more(j)) {
 *		gw_jwalk_key(j, key, sizeof(key));
 *		if (!strcmp(key, "size"))
 *			gw_jwalk_integer(j, &size);
 *		else
 *			gw_jwalk_skip(j);
 *	}
 *
 * Each turn takes one value. A text that is no JSON is a sticky failure:
 * gw_jwalk_more() says false, and what was taken is worth nothing. Bytes from
 * 0x80 on are taken as they are.
 */
#ifndef GW_WIRE_JWALK_H
#define GW_WIRE_JWALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_JWALK_MAX_DEPTH 1024

struct gw_jwalk {
	const char *begin, *p, *end;
	const char *why; /* it is no JSON; NULL: none found so far */
	/* private to jwalk.c */
	int depth;
	bool first;			/* none of the innermost yet */
	char close[GW_JWALK_MAX_DEPTH];	/* '}' or ']', from the outside in */
};

void gw_jwalk_init(struct gw_jwalk *j, const char *text, size_t len);

/* '{', '[', '"', '0' (a number), 'a' (a word); 0: none of these, or the end. */
char gw_jwalk_kind(struct gw_jwalk *j);

/* Into an object '{' or a list '['. */
void gw_jwalk_enter(struct gw_jwalk *j, char open);
/* Is there another member or item? When not, it has left the container. */
bool gw_jwalk_more(struct gw_jwalk *j);
/* A member's name; its value is next. One that is too long is cut. */
void gw_jwalk_key(struct gw_jwalk *j, char *buf, size_t cap);

/* Return: its length, also if it was cut. Another kind of value fails. */
size_t gw_jwalk_string(struct gw_jwalk *j, char *buf, size_t cap);
/* Return: false and the value is skipped if it is no integer. */
bool gw_jwalk_integer(struct gw_jwalk *j, int64_t *value);
void gw_jwalk_skip(struct gw_jwalk *j);

/* Nothing but white space follows. Return: whether all of it was JSON. */
bool gw_jwalk_end(struct gw_jwalk *j);

#endif
