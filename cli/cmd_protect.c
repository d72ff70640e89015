/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_protect.c - godwit protect VM URI. */
#include <stdio.h>

#include "cli/cli.h"

static int protect(struct godwit_op *op, void *uri, struct godwit_error *err)
{
	return godwit_protect(op, uri, err);
}

static void summary(const struct godwit_stats *s)
{
	cli_summary_checkpoints(s);
	if (s->status == GODWIT_STATUS_COMPLETED)
		printf("the standby has taken over: the VM runs there, and "
		       "stands still here\n");
	else
		printf("protection has ended: the VM goes on here, "
		       "unprotected\n");
}

int cmd_protect(int argc, char **argv)
{
	static const char *const names[2] = { "VM", "URI" };
	struct cli_operation o;
	int r = cli_operation_parse(&o, argc, argv, names);

	return r ? r :
		   cli_operation_run(&o, o.positional[0], summary, protect,
				     (void *)o.positional[1]);
}
