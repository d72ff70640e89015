/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_convert.c - godwit convert IN OUT: a stored VM in the other format. */
#include <string.h>

#include "cli/cli.h"

int cmd_convert(int argc, char **argv)
{
	struct cli_image o;
	int r = cli_image_parse(&o, argc, argv, 2);

	if (r)
		return r;
	if (!o.format)
		o.format = "mapped-ram";
	if (strcmp(o.format, "mapped-ram") && strcmp(o.format, "stream"))
		return cli_usage("convert",
				 "--format %s: mapped-ram or stream (for raw and elf there is 'godwit dump')",
				 o.format);
	if (o.direct_io && strcmp(o.format, "mapped-ram"))
		return cli_usage("convert",
				 "--direct-io is for mapped-ram, where pages have places of their own");
	if (o.json && !strcmp(o.file[1], "-"))
		return cli_usage("convert",
				 "--json and the VM cannot both go to standard output");
	return cli_image_copy(&o, NULL);
}
