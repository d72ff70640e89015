/* SPDX-License-Identifier: BSD-3-Clause */
/* cmd_failover.c - godwit failover NAME: the standby on this host is to take
 * over now, or (--status) says how it stands. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

struct failover {
	const char *name;
	bool status, json;
};

static int parse(struct failover *f, int argc, char **argv)
{
	static const struct option options[] = { { "status", 0, NULL, 's' },
						 { "json", 0, NULL, 'j' },
						 { NULL, 0, NULL, 0 } };
	int o;

	optind = 0;
	opterr = 0;
	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (o != 's' && o != 'j')
			return cli_usage("failover", "unknown option %s",
					 argv[optind - 1]);
		f->status |= o == 's';
		f->json |= o == 'j';
	}
	if (optind + 1 != argc)
		return cli_usage("failover", optind == argc ?
						     "the NAME is missing" :
						     "one VM at a time");
	f->name = argv[optind];
	return 0;
}

static int status(const struct failover *f, struct gw_error *err)
{
	struct cli_standby s;
	char text[256];

	if (cli_standby_ask(f->name, &s, err))
		return cli_report(err);
	if (f->json) {
		cli_json(json_incref(s.json));
	} else {
		cli_standby_text(&s, text, sizeof(text));
		printf("%s: %s\n", f->name, text);
	}
	json_decref(s.json);
	return 0;
}

static int take_over(const struct failover *f, struct gw_error *err)
{
	int r = godwit_failover(f->name, NULL, (struct godwit_error *)err);

	if (f->json && r)
		cli_json(json_pack("{s:s, s:s, s:i}", "event", "failed",
				   "error-desc", err->msg, "exit-code",
				   (int)err->fault));
	else if (f->json)
		cli_json(json_pack("{s:s}", "event", "completed"));
	if (r)
		return cli_report(err);
	if (!f->json)
		printf("VM '%s' runs here now\n", f->name);
	return 0;
}

int cmd_failover(int argc, char **argv)
{
	struct gw_error err = { 0 };
	struct failover f = { 0 };
	int r = parse(&f, argc, argv);

	if (r)
		return r;
	return f.status ? status(&f, &err) : take_over(&f, &err);
}
