/* SPDX-License-Identifier: BSD-3-Clause */
/* pauses.c - see pauses.h. */
#include "source/pauses.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/scope.h"

void gw_pauses_add(struct gw_pauses *p, int64_t ns)
{
	p->ring[p->n++ % GW_PAUSES] = ns;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

/* The nearest rank: at least @percent of them are not above it. */
static int64_t rank(const int64_t *sorted, size_t n, unsigned int percent)
{
	return sorted[(n * percent + 99) / 100 - 1];
}

void gw_pauses_stats(struct gw_pauses *p, struct godwit_stats *now)
{
	size_t n = p->n < GW_PAUSES ? (size_t)p->n : GW_PAUSES;
	gw_autofree int64_t *sorted = NULL;
	int64_t t = gw_now_ns();

	if (!n || (p->told_ns && t - p->told_ns < 100 * GW_NS_PER_MS))
		return;
	sorted = malloc(n * sizeof(*sorted));
	if (!sorted)
		return;
	p->told_ns = t;
	memcpy(sorted, p->ring, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), compare);
	now->checkpoint_pause_p50_ns = rank(sorted, n, 50);
	now->checkpoint_pause_p99_ns = rank(sorted, n, 99);
	now->checkpoint_pause_max_ns = sorted[n - 1];
}
