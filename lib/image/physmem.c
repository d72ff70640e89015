/* SPDX-License-Identifier: BSD-3-Clause */
/* physmem.c - see physmem.h. */
#include "image/physmem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define GIB4 (4ULL << 30)

/* More memory than @fits leaves @low below 4 GiB. */
static const struct layout {
	const char *machine; /* prefix */
	uint64_t fits, low;
} layouts[] = {
	{ "pc-i440fx-", 0xe0000000 - 1, 0xc0000000 },
	{ "pc-q35-", 0xb0000000 - 1, 0x80000000 },
	{ "microvm", 0xc0000000, 0xc0000000 },
	{ "isapc", UINT64_MAX, 0 },
	{ "none", UINT64_MAX, 0 },
};

static const struct layout *find(const char *machine)
{
	for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
		if (!strncmp(machine, layouts[i].machine,
			     strlen(layouts[i].machine)))
			return &layouts[i];
	return NULL;
}

static int largest(const struct gw_ram_table *t)
{
	int best = 0;

	for (int i = 1; i < t->n; i++)
		if (t->entry[i].used_length > t->entry[best].used_length)
			best = i;
	return best;
}

static void warn(struct gw_physmem *p, const struct gw_image_desc *d,
		 bool known)
{
	size_t size = sizeof(p->warning), n = 0;

	if (!known)
		n = (size_t)snprintf(
			p->warning, size,
			"where a machine of type '%s' has its memory is not known: it begins at 0 here, in one piece",
			d->config.machine);
	for (int i = 0; i < d->table.n && n < size; i++)
		if (i != p->block && gw_image_is_ram(d, i))
			n += (size_t)snprintf(
				p->warning + n, size - n,
				"%sblock '%s' is not part of it, its address is not in the image: --block has it",
				n ? "; " : "", d->table.entry[i].idstr);
}

int gw_physmem_find(const struct gw_image_desc *d, struct gw_physmem *p,
		    struct gw_error *err)
{
	const struct layout *l = find(d->config.machine);
	uint64_t len, low;

	memset(p, 0, sizeof(*p));
	if (!d->table.n)
		return gw_fail(err, ENOENT, "the image has no memory");
	p->block = largest(&d->table);
	len = d->table.entry[p->block].used_length;
	low = l && len > l->fits ? l->low : len;
	p->n = low < len ? 2 : 1;
	p->part[0].len = low;
	p->part[1].phys = GIB4;
	p->part[1].offset = low;
	p->part[1].len = len - low;
	warn(p, d, l);
	return 0;
}
