/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_send.c - godwit send FILE URI. */
#include "cli/cli.h"

static int send(struct godwit_op *op, void *data, struct godwit_error *err)
{
	const struct cli_operation *o = data;

	return godwit_send(op, o->positional[0], o->positional[1], err);
}

int cmd_send(int argc, char **argv)
{
	static const char *const names[2] = { "FILE", "URI" };
	struct cli_operation o;
	int r = cli_operation_parse(&o, argc, argv, names);

	return r ? r : cli_operation_run(&o, NULL, cli_summary_sent, send, &o);
}
