/* SPDX-License-Identifier: BSD-3-Clause */
/* option.c - see option.h. */
#include "vm/qemu/option.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/scope.h"

/*
 * Copy up to the next single comma to @to (as large as @s), ",," as ",".
 * Return: what follows that comma, or the end of the string.
 */
static const char *copy_value(const char *s, char *to)
{
	while (*s) {
		if (*s == ',') {
			if (s[1] != ',') {
				s++;
				break;
			}
			s++;
		}
		*to++ = *s++;
	}
	*to = '\0';
	return s;
}

static int parse_keyval(struct gw_option *o, const char *s)
{
	gw_autofree char *value = malloc(strlen(s) + 1);
	const char *key;
	size_t n;

	if (!value)
		return -ENOMEM;
	for (bool first = true; *s; first = false) {
		gw_autofree char *name = NULL;

		n = strcspn(s, "=,");
		if (s[n] == '=') {
			name = strndup(s, n);
			key = name;
			s = copy_value(s + n + 1, value);
		} else {
			s = copy_value(s, value);
			if (first && o->implied) {
				key = o->implied;
			} else {
				name = strdup(value);
				key = name;
				strcpy(value, *value ? "on" : "");
			}
		}
		if (!key || json_object_set_new_nocheck(o->props, key,
							json_string_nocheck(value)))
			return -ENOMEM;
	}
	return 0;
}

int gw_option_parse(struct gw_option *o, const char *text,
		    const char *implied, struct gw_error *err)
{
	json_error_t je;

	memset(o, 0, sizeof(*o));
	o->implied = implied;
	o->json = text[0] == '{';
	o->props = o->json ? json_loads(text, 0, &je) : json_object();
	if (!o->props)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "'%.200s' is not valid JSON: %s", text,
				  je.text);
	if (!o->json && parse_keyval(o, text))
		return gw_fail(err, ENOMEM, "no memory for '%.200s'", text);
	return 0;
}

void gw_option_fini(struct gw_option *o)
{
	json_decref(o->props);
	o->props = NULL;
}

const char *gw_option_get(const struct gw_option *o, const char *key)
{
	const json_t *v = json_object_get(o->props, key);

	if (json_is_string(v))
		return json_string_value(v);
	if (json_is_boolean(v))
		return json_is_true(v) ? "on" : "off";
	return "";
}

bool gw_option_has(const struct gw_option *o, const char *key)
{
	return json_object_get(o->props, key) != NULL;
}

bool gw_option_is_on(const struct gw_option *o, const char *key)
{
	static const char *const on[] = { "on", "yes", "true", "y" };
	const char *v = gw_option_get(o, key);

	for (size_t i = 0; i < sizeof(on) / sizeof(*on); i++)
		if (!strcmp(v, on[i]))
			return true;
	return false;
}

int gw_option_parse_size(const char *s, uint64_t unit, uint64_t *nbytes)
{
	static const char suffixes[] = "bkmgtpe";
	const char *hit;
	double v;
	char *e;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		errno = 0;
		*nbytes = strtoull(s, &e, 16);
		if (errno || *e || *nbytes > UINT64_MAX / unit)
			return -EINVAL;
		*nbytes *= unit;
		return 0;
	}
	v = strtod(s, &e);
	if (*e) {
		hit = strchr(suffixes, tolower((unsigned char)*e));
		if (!hit || e[1])
			return -EINVAL;
		v = ldexp(v, 10 * (int)(hit - suffixes));
	} else {
		v *= (double)unit;
	}
	if (!(v < 9e18))
		return -EINVAL;
	*nbytes = (uint64_t)v;
	return 0;
}

int gw_option_size(const struct gw_option *o, const char *key, uint64_t unit,
		   uint64_t *nbytes)
{
	const json_t *v = json_object_get(o->props, key);

	if (!v)
		return -ENOENT;
	if (json_is_integer(v)) {
		if (json_integer_value(v) < 0)
			return -EINVAL;
		*nbytes = (uint64_t)json_integer_value(v);
		return 0;
	}
	return gw_option_parse_size(gw_option_get(o, key), unit, nbytes);
}

void gw_option_set(struct gw_option *o, const char *key, const char *value)
{
	json_object_set_new_nocheck(o->props, key,
				    json_string_nocheck(value));
}

void gw_option_set_on(struct gw_option *o, const char *key)
{
	json_object_set_new(o->props, key,
			    o->json ? json_true() : json_string("on"));
}

void gw_option_set_size(struct gw_option *o, const char *key, uint64_t bytes)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
	json_object_set_new(o->props, key,
			    o->json ? json_integer((json_int_t)bytes) :
				      json_string(text));
}

void gw_option_remove(struct gw_option *o, const char *key)
{
	json_object_del(o->props, key);
}

static void put_value(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == ',')
			fputc(',', f);
		fputc(*s, f);
	}
}

char *gw_option_format(const struct gw_option *o)
{
	char *text = NULL;
	bool first = true;
	const char *key;
	json_t *value;
	size_t len;
	FILE *f;

	if (o->json)
		return json_dumps(o->props, JSON_COMPACT);
	f = open_memstream(&text, &len);
	if (!f)
		return NULL;
	json_object_foreach(o->props, key, value) {
		if (!first)
			fputc(',', f);
		if (!first || !o->implied || strcmp(key, o->implied))
			fprintf(f, "%s=", key);
		put_value(f, json_string_value(value));
		first = false;
	}
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}
