/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_restore.c - godwit restore FILE VM. */
#include "cli/cli.h"

static int restore(struct godwit_op *op, void *path, struct godwit_error *err)
{
	return godwit_restore(op, path, err);
}

int cmd_restore(int argc, char **argv)
{
	static const char *const names[2] = { "FILE", "VM" };
	struct cli_operation o;
	int r = cli_operation_parse(&o, argc, argv, names);

	return r ? r :
		   cli_operation_run(&o, o.positional[1],
				     cli_summary_restored, restore,
				     (void *)o.positional[0]);
}
