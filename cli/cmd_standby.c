/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_standby.c - godwit standby URI VM. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

struct standby {
	const char *uri;
	bool took_over;
};

/* Scripts wait for "listening" before they start the primary. */
static void event(const char *what, const char *detail, void *data)
{
	struct cli_progress *p = data;
	bool first = !strcmp(what, "listening");

	detail = detail ? detail : "";
	if (p->json) {
		cli_json(first ? json_pack("{s:s, s:s}", "event", what, "uri",
					   detail) :
				 json_pack("{s:s, s:s, s:s}", "event",
					   "standby", "what", what, "detail",
					   detail));
		return;
	}
	if (p->quiet)
		return;
	cli_progress_end(p);
	printf("%s%s%s\n", what, first ? " on " : *detail ? ": " : "", detail);
	fflush(stdout);
}

static int standby(struct godwit_op *op, void *data, struct godwit_error *err)
{
	struct standby *s = data;

	return godwit_standby(op, s->uri, event, &s->took_over, err);
}

int cmd_standby(int argc, char **argv)
{
	static const char *const names[2] = { "URI", "VM" };
	struct cli_operation o;
	struct standby s = { 0 };
	int r = cli_operation_parse(&o, argc, argv, names);

	s.uri = o.positional[0];
	o.took_over = &s.took_over;
	return r ? r :
		   cli_operation_run(&o, o.positional[1],
				     cli_summary_checkpoints, standby, &s);
}
