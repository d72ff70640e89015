/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * option.h - the value of one QEMU option ("pc,accel=kvm", or JSON) as an
 * ordered set of properties: parse, look at, change, write back. It knows the
 * syntax and not what any property means.
 *
 * QEMU's key=value syntax: a comma inside a value is doubled; the key of the
 * first value may be left out, the option's implied key is meant; a word
 * without "=" further on is a switch, "on". JSON values keep their types.
 */
#ifndef GW_VM_QEMU_OPTION_H
#define GW_VM_QEMU_OPTION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct gw_option {
	json_t *props; /* an object; key=value syntax: strings only */
	bool json;     /* how it was written and will be written back */
	const char *implied;
};

/* @implied: the option's implied key, NULL: none. Fini also after failure. */
int gw_option_parse(struct gw_option *o, const char *text,
		    const char *implied, struct gw_error *err) GW_MUST_CHECK;
void gw_option_fini(struct gw_option *o);

/* As text, also of a JSON number or truth value ("on", "off"); "" if it is
 * not there or a structure. Valid until the next change of @o. */
const char *gw_option_get(const struct gw_option *o, const char *key);
bool gw_option_has(const struct gw_option *o, const char *key);

/* on, yes, true, y, or a JSON true. */
bool gw_option_is_on(const struct gw_option *o, const char *key);

/* Bytes; a bare number counts as @unit. Return: 0, -ENOENT, -EINVAL. */
int gw_option_size(const struct gw_option *o, const char *key, uint64_t unit,
		   uint64_t *nbytes) GW_MUST_CHECK;

/* Change or add; numbers and truth values in the syntax at hand. */
void gw_option_set(struct gw_option *o, const char *key, const char *value);
void gw_option_set_on(struct gw_option *o, const char *key);
void gw_option_set_size(struct gw_option *o, const char *key, uint64_t bytes);
void gw_option_remove(struct gw_option *o, const char *key);

/* Written back. Return: text to free(), NULL: no memory. */
char *gw_option_format(const struct gw_option *o);

/* A QEMU size: "512", "1.5G", "4k". Return: 0 or -EINVAL. */
int gw_option_parse_size(const char *s, uint64_t unit,
			 uint64_t *nbytes) GW_MUST_CHECK;

#endif
