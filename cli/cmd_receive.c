/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_receive.c - godwit receive URI VM. */
#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"

/* Scripts wait for this line before they start the source. */
static void listening(const char *uri, void *data)
{
	struct cli_progress *p = data;

	if (p->json) {
		cli_json(json_pack("{s:s, s:s}", "event", "listening", "uri",
				   uri));
	} else if (!p->quiet) {
		printf("listening on %s\n", uri);
		fflush(stdout);
	}
}

static int receive(struct godwit_op *op, void *uri, struct godwit_error *err)
{
	return godwit_receive(op, uri, listening, err);
}

int cmd_receive(int argc, char **argv)
{
	static const char *const names[2] = { "URI", "VM" };
	struct cli_operation o;
	int r = cli_operation_parse(&o, argc, argv, names);

	return r ? r :
		   cli_operation_run(&o, o.positional[1],
				     cli_summary_received, receive,
				     (void *)o.positional[0]);
}
