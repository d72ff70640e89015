/* SPDX-License-Identifier: BSD-3-Clause */
/* memmap.c - see memmap.h. */
#include "vm/qemu/memmap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int find_block(const struct gw_ram *ram, const char *name)
{
	for (int i = 0; i < ram->nblocks; i++)
		if (!strcmp(ram->block[i].idstr, name))
			return i;
	return -1;
}

/* One line of the view; lines of other forms are none of ours. */
static void add_line(struct gw_memmap *m, const struct gw_ram *ram,
		     const char *line)
{
	struct gw_memmap_part *p = &m->part[m->n];
	char kind[32], name[GW_IDSTR_MAX + 1], tail[64] = "";
	uint64_t first, last, offset = 0;
	int n;

	n = sscanf(line,
		   " %16" SCNx64 "-%16" SCNx64
		   " (prio %*d, %31[^)]): %255s @%16" SCNx64,
		   &first, &last, kind, name, &offset);
	if (n < 4 || strcmp(kind, "ram") || last < first)
		return;
	/* With a place in the block there is an @, and it was read. */
	if (n == 4 &&
	    sscanf(line, " %*[^)]): %*s %63s", tail) == 1 && tail[0] == '@')
		return;
	p->block = find_block(ram, name);
	if (p->block < 0 || m->n == GW_MEMMAP_MAX)
		return;
	p->addr = first;
	p->len = last - first + 1;
	p->offset = offset;
	if (p->len <= ram->block[p->block].used_length &&
	    offset <= ram->block[p->block].used_length - p->len)
		m->n++;
}

static size_t line_length(const char *s)
{
	return strcspn(s, "\n");
}

/* Views are separated by empty lines; the vCPUs' is one whose heading lists
 * the address space "memory". */
int gw_memmap_parse(struct gw_memmap *m, const struct gw_ram *ram,
		    const char *text, struct gw_error *err)
{
	bool ours = false;
	char line[512];

	m->n = 0;
	while (*text) {
		size_t n = line_length(text);

		if (!strncmp(text, "FlatView", 8))
			ours = false;
		snprintf(line, sizeof(line), "%.*s", (int)(n < 511 ? n : 511),
			 text);
		if (!strncmp(line, " AS \"memory\",", 13))
			ours = true;
		else if (ours)
			add_line(m, ram, line);
		text += n + (text[n] == '\n');
	}
	if (m->n)
		return 0;
	return gw_fail(err, EPROTO,
		       "QEMU's 'info mtree -f' does not say where the VM's RAM lies");
}

int gw_memmap_read(struct gw_memmap *m, const struct gw_ram *ram,
		   struct gw_qmp *q, int timeout_ms, struct gw_error *err)
{
	json_t *v = gw_qmp_cmd(q, timeout_ms, err, "human-monitor-command",
			       "{s:s}", "command-line", "info mtree -f");
	int r;

	if (!v)
		return -EREMOTEIO;
	r = gw_memmap_parse(m, ram, json_is_string(v) ? json_string_value(v) :
							"", err);
	json_decref(v);
	return r;
}

uint64_t gw_memmap_find(const struct gw_memmap *m, uint64_t addr, uint64_t len,
			uint64_t *skip, int *block, uint64_t *offset)
{
	const struct gw_memmap_part *best = NULL;
	uint64_t from, end = addr + len;

	for (int i = 0; i < m->n; i++) {
		const struct gw_memmap_part *p = &m->part[i];

		if (p->addr < end && p->addr + p->len > addr &&
		    (!best || p->addr < best->addr))
			best = p;
	}
	if (!best)
		return 0;
	from = best->addr > addr ? best->addr : addr;
	if (best->addr + best->len < end)
		end = best->addr + best->len;
	*skip = from - addr;
	*block = best->block;
	*offset = best->offset + (from - best->addr);
	return end - from;
}
