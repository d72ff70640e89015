/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hmp.h - the commands people type: one line in, text out. Those of migration
 * are godwit's, under the names they have in QEMU or had in 2011; everything
 * else goes to QEMU's own monitor, and its answer comes back.
 */
#ifndef GW_CONTROL_HMP_H
#define GW_CONTROL_HMP_H

#include <stdbool.h>
#include <stdio.h>

#include "control/front.h"

enum gw_hmp_next {
	GW_HMP_DONE,
	GW_HMP_BEGUN,	   /* an operation: its first event says whether */
	GW_HMP_BEGUN_WAIT, /* the same, and the user waits for its end */
	GW_HMP_QUIT,
};

/*
 * Run one line. What it has to say goes to @out. @nested: QEMU's own monitor
 * would have run it, `quit` and `help` are its.
 * Return: 0, or -errno: the reason was printed.
 */
int gw_hmp_run(struct gw_front *f, const char *line, bool nested, FILE *out,
	       enum gw_hmp_next *next);

/* Is it one of godwit's commands (with @nested)? */
bool gw_hmp_owns(const char *line, bool nested);

/* "Error: text". */
void gw_hmp_error(FILE *out, const struct gw_error *err);

#define GW_HMP_MAX_WORDS 16

/*
 * The words of @line in @words, their text in @buf, which is as long as @line
 * with its 0. "..." is one word, with \n, \r, \\, \' and \" in it. Return: how
 * many, or -EINVAL with @err.
 */
int gw_hmp_split(const char *line, char *buf, char *words[GW_HMP_MAX_WORDS],
		 struct gw_error *err);

#endif
