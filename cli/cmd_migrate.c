/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_migrate.c - godwit migrate VM URI. */
#include "cli/cli.h"

static int migrate(struct godwit_op *op, void *uri, struct godwit_error *err)
{
	return godwit_migrate(op, uri, err);
}

int cmd_migrate(int argc, char **argv)
{
	static const char *const names[2] = { "VM", "URI" };
	struct cli_operation o;
	int r = cli_operation_parse(&o, argc, argv, names);

	return r ? r :
		   cli_operation_run(&o, o.positional[0],
				     cli_summary_migrated, migrate,
				     (void *)o.positional[1]);
}
