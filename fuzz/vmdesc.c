/* SPDX-License-Identifier: BSD-3-Clause */
/* vmdesc.c - fuzz the tail of a stream (lib/wire/vmdesc.c): its end is looked
 * for, then it is split in both ways. */
#include "wire/vmdesc.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The sections must cover @len bytes without gaps. */
static void check(struct gw_tail *t, int r, size_t len)
{
	size_t at = 0;

	if (r && (t->n || t->section))
		abort();
	for (int i = 0; i < t->n; i++) {
		const struct gw_tail_section *s = &t->section[i];

		if (s->offset != at || s->payload < at + 15 ||
		    s->payload > len || s->size > len - s->payload)
			abort();
		at = s->payload + s->size + 5;
	}
	if (!r && at != len)
		abort();
	gw_tail_fini(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_error err;
	const char *json;
	size_t eof, len;
	struct gw_tail t;
	int r;

	r = gw_tail_scan(&t, data, size, &err);
	check(&t, r, size);
	if (gw_tail_find_end(data, size, &eof, &json, &len, &err))
		return 0;
	if (eof >= size || (json && len > size - eof))
		abort();
	r = gw_tail_scan(&t, data, eof, &err);
	check(&t, r, eof);
	if (!json)
		return 0;
	r = gw_tail_split(&t, data, eof, json, len, &err);
	check(&t, r, eof);
	r = gw_tail_check(&t, data, eof, json, len, &err);
	check(&t, r, eof);
	return 0;
}
