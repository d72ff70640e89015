/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_dump.c - godwit dump FILE OUT: the memory of a stored VM, alone. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "image/image.h"
#include "image/physmem.h"

/* What OUT will not have is said, even with -q: nothing else would tell. */
static int check(struct gw_image *img, struct cli_image *o,
		 struct gw_error *err)
{
	char text[sizeof(((struct gw_physmem *)0)->warning)];
	struct gw_physmem m;
	int r;

	if (o->block)
		return 0;
	r = gw_physmem_find(&img->desc, &m, err);
	if (!r && m.warning[0])
		fprintf(stderr, "godwit: warning: %s\n",
			cli_text(text, sizeof(text), m.warning));
	return r;
}

int cmd_dump(int argc, char **argv)
{
	struct cli_image o;
	int r = cli_image_parse(&o, argc, argv, 2);

	if (r)
		return r;
	if (!o.format)
		o.format = "raw";
	if (strcmp(o.format, "raw") && strcmp(o.format, "elf"))
		return cli_usage("dump", "--format %s: raw or elf", o.format);
	return cli_image_copy(&o, check);
}
