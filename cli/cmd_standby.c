/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_standby.c - godwit standby URI VM. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

struct standby {
	const char *uri;
	bool took_over;
};

/* "taking over" is the event taking-over. */
static json_t *event_json(const char *what, const char *detail)
{
	char name[64];

	snprintf(name, sizeof(name), "%s", what);
	for (char *p = name; *p; p++)
		if (*p == ' ')
			*p = '-';
	return json_pack("{s:s, s:s}", "event", name,
			 strcmp(what, "listening") ? "detail" : "uri", detail);
}

/* Scripts wait for the first of these lines before they start the primary. */
static void event(const char *what, const char *detail, void *data)
{
	struct cli_progress *p = data;

	detail = detail ? detail : "";
	if (p->json) {
		cli_json(event_json(what, detail));
		return;
	}
	if (p->quiet)
		return;
	cli_progress_end(p);
	if (!strcmp(what, "listening"))
		printf("listening on %s\n", detail);
	else
		printf("%s%s%s\n", what, *detail ? ": " : "", detail);
	fflush(stdout);
}

static int standby(struct godwit_op *op, void *data, struct godwit_error *err)
{
	struct standby *s = data;

	return godwit_standby(op, s->uri, event, &s->took_over, err);
}

static void summary(const struct godwit_stats *s)
{
	cli_summary_checkpoints(s);
	if (s->status == GODWIT_STATUS_COMPLETED)
		printf("taken over: the VM is here now\n");
	else
		printf("the primary has ended its protection and keeps the "
		       "VM\n");
}

int cmd_standby(int argc, char **argv)
{
	static const char *const names[2] = { "URI", "VM" };
	struct cli_operation o;
	struct standby s = { 0 };
	int r = cli_operation_parse(&o, argc, argv, names);

	s.uri = o.positional[0];
	return r ? r
		 : cli_operation_run(&o, o.positional[1], summary, standby, &s);
}
