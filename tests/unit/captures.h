/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * captures.h - what real QEMUs wrote: the small files of tests/golden
 * (capture.py makes them), and a folder of larger ones where the environment
 * variable GW_TEST_VECTORS names one.
 */
#ifndef GW_TEST_CAPTURES_H
#define GW_TEST_CAPTURES_H

#include <zlib.h>

#include "test.h"

/* A whole file, unpacked if its name ends in .gz; NULL: not there. Freed by
 * the caller. */
static inline uint8_t *test_load(const char *folder, const char *name,
				 size_t *len)
{
	size_t cap = 64u << 20;
	uint8_t *p;
	char path[4096];
	gzFile f;
	int n = -1;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = gzopen(path, "rb");
	p = f ? malloc(cap) : NULL;
	if (p)
		n = gzread(f, p, (unsigned int)cap);
	if (f)
		gzclose(f);
	if (n < 0) {
		free(p);
		return NULL;
	}
	*len = (size_t)n;
	/* exactly as large as its content, for the sanitizers */
	return realloc(p, *len ? *len : 1);
}

static inline uint8_t *test_golden(const char *name, size_t *len)
{
	uint8_t *p = test_load(GW_TEST_GOLDEN, name, len);

	if (!p) {
		fprintf(stderr, "tests/golden/%s is missing\n", name);
		exit(1);
	}
	return p;
}

/* NULL where there is no such folder. */
static inline const char *test_vectors(void)
{
	return getenv("GW_TEST_VECTORS");
}

#endif
