/* SPDX-License-Identifier: BSD-3-Clause */
/* answer.c - fuzz what a guest's agent says (lib/hint/answer.h), in two ways
 * of cutting it into pieces; both must be understood alike. */
#include "hint/answer.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct heard {
	uint64_t ranges, sum, ends;
};

static void on_range(void *arg, uint32_t id, uint64_t addr, uint64_t len)
{
	struct heard *h = arg;

	if (!len || len > (1ULL << 52) || addr > (1ULL << 52) - len ||
	    (addr | len) & 4095)
		abort();
	h->ranges++;
	h->sum = h->sum * 31 + addr + len + id;
}

static void on_end(void *arg, uint32_t id, const char *refused)
{
	struct heard *h = arg;

	h->ends++;
	for (; refused && *refused; refused++)
		if (*refused < 0x20 || *refused > 0x7e)
			abort();
}

static const struct gw_answer_ops ops = { on_range, on_end };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gw_answer a;
	struct heard whole = { 0 }, pieces = { 0 };

	gw_answer_init(&a, &ops, &whole);
	gw_answer_feed(&a, data, size);
	gw_answer_init(&a, &ops, &pieces);
	for (size_t at = 0; at < size; at += 7)
		gw_answer_feed(&a, data + at, size - at < 7 ? size - at : 7);
	if (a.used > sizeof(a.buf) ||
	    memcmp(&whole, &pieces, sizeof(whole)))
		abort();
	return 0;
}
