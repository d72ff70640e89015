/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_save.c - godwit save VM FILE. */
#include <string.h>

#include "cli/cli.h"

static int save(struct godwit_op *op, void *path, struct godwit_error *err)
{
	return godwit_save(op, path, err);
}

int cmd_save(int argc, char **argv)
{
	static const char *const names[2] = { "VM", "FILE" };
	struct cli_operation o;
	int r = cli_operation_parse(&o, argc, argv, names);

	if (!r && !strcmp(o.positional[1], "-")) {
		/* standard output is the stream's */
		if (o.json)
			return cli_usage(argv[0],
					 "--json and FILE - both want standard output");
		o.quiet = true;
	}
	return r ? r :
		   cli_operation_run(&o, o.positional[0], cli_summary_saved,
				     save, (void *)o.positional[1]);
}
