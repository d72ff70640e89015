/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmd_run.c - godwit run: start QEMU so that godwit can move it. Options and
 * output only; lib/vm/qemu/launch.h does the work.
 */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "vm/qemu/launch.h"
#include "vm/qemu/memory.h"

struct options {
	struct gw_launch_request req;
	bool dry_run;
};

static int parse_agent(const char *s, enum gw_agent_mode *mode)
{
	if (!strcmp(s, "preload"))
		*mode = GW_AGENT_PRELOAD;
	else if (!strcmp(s, "plugin"))
		*mode = GW_AGENT_PLUGIN;
	else
		return cli_usage("run", "--agent '%s' is neither preload nor plugin",
				 s);
	return 0;
}

/* @word as one word of a shell command. */
static void print_word(const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-_=+,.:/@%^";

	if (*word && strspn(word, plain) == strlen(word)) {
		fputs(word, stdout);
		return;
	}
	putchar('\'');
	for (; *word; word++) {
		if (*word == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*word);
	}
	putchar('\'');
}

static void print_assignment(const char *s)
{
	const char *eq = strchr(s, '=');

	printf("%.*s=", (int)(eq - s), s);
	print_word(eq + 1);
	putchar(' ');
}

/* The command line with its environment; what a shell cannot express, the
 * memory that QEMU inherits, as comments. */
static void print_command(const struct gw_launch *l)
{
	const struct gw_cmdline *c = &l->cmdline;
	char size[32];

	for (int i = 0; i < c->nblocks; i++)
		if (c->block[i].fd >= 0)
			printf("# fd %d: RAM block '%s', %s%s\n",
			       c->block[i].fd, c->block[i].id,
			       gw_format_size(size, sizeof(size),
					      c->block[i].size),
			       gw_hugepages_kinds[c->block[i].hugepages].on);
	printf("# %s/monitors.cfg: monitors qmp.sock, status.sock, front.sock and guard.sock\n",
	       l->path.dir);
	for (int i = 0; i < 2; i++)
		if (c->env[i])
			print_assignment(c->env[i]);
	for (int i = 0; i < c->argc; i++) {
		if (i)
			putchar(' ');
		print_word(c->argv[i]);
	}
	putchar('\n');
}

/* Every refusal, not only the first, so that one look is enough. */
static int report(const struct gw_launch *l, const struct gw_error *err)
{
	const struct gw_cmdline *c = &l->cmdline;

	if (c->nrefusals < 2)
		return cli_report(err);
	for (int i = 0; i < c->nrefusals; i++)
		fprintf(stderr, "godwit: %s\n", c->refusal[i]);
	return (int)err->fault;
}

static int run(const struct options *o)
{
	struct gw_error err = { 0 };
	struct gw_launch l;
	int r = gw_launch_prepare(&l, &o->req, &err);

	for (int i = 0; i < l.cmdline.nnotes; i++)
		fprintf(stderr, "godwit: note: %s\n", l.cmdline.note[i]);
	if (r) {
		r = report(&l, &err);
	} else if (o->dry_run) {
		print_command(&l);
	} else {
		fflush(NULL);
		r = gw_launch_exec(&l, &err);
		r = r ? cli_report(&err) : 0;
	}
	gw_launch_fini(&l);
	return r;
}

static int set_hugepages(struct options *o, enum gw_hugepages how)
{
	if (o->req.hugepages != GW_HUGEPAGES_AUTO && o->req.hugepages != how)
		return cli_usage("run", "--hugepages (reserved ones), --transparent-hugepages and --no-transparent-hugepages contradict each other: choose one");
	o->req.hugepages = how;
	return 0;
}

int cmd_run(int argc, char **argv)
{
	static const struct option longopts[] = {
		{ "incoming", no_argument, NULL, 'i' },
		{ "memory", required_argument, NULL, 'm' },
		{ "hugepages", no_argument, NULL, 'H' },
		{ "transparent-hugepages", no_argument, NULL, 'T' },
		{ "no-transparent-hugepages", no_argument, NULL, 'S' },
		{ "agent", required_argument, NULL, 'a' },
		{ "free-page-agent", no_argument, NULL, 'f' },
		{ "dry-run", no_argument, NULL, 'n' },
		{ NULL, 0, NULL, 0 },
	};
	struct options o = { .req = { .agent = GW_AGENT_PRELOAD,
				      .hugepages = GW_HUGEPAGES_AUTO } };
	struct gw_error err = { 0 };
	const char *name = NULL;
	int c, r;

	optind = 0;
	opterr = 0;
	/* options may stand before and after NAME, "--" ends them */
	while ((c = getopt_long(argc, argv, "-:", longopts, NULL)) != -1) {
		r = 0;
		switch (c) {
		case 'i':
			o.req.incoming = true;
			break;
		case 'H':
			r = set_hugepages(&o, GW_HUGEPAGES_RESERVED);
			break;
		case 'T':
			r = set_hugepages(&o, GW_HUGEPAGES_TRANSPARENT);
			break;
		case 'S':
			r = set_hugepages(&o, GW_HUGEPAGES_NONE);
			break;
		case 'f':
			o.req.free_page_agent = true;
			break;
		case 'n':
			o.dry_run = true;
			break;
		case 'a':
			r = parse_agent(optarg, &o.req.agent);
			break;
		case 'm':
			if (gw_parse_size("--memory", optarg, &o.req.memory,
					  &err))
				r = cli_usage("run", "%s", err.msg);
			else if (!o.req.memory)
				r = cli_usage("run", "--memory 0 is no memory");
			break;
		case 1:
			if (name)
				return cli_usage("run", "'%s' is one word too many before the QEMU command; write -- before that",
						 optarg);
			name = optarg;
			break;
		case ':':
			return cli_usage("run", "%s needs a value",
					 argv[optind - 1]);
		default:
			return cli_usage("run", "unknown option %s (QEMU's own options go behind --)",
					 argv[optind - 1]);
		}
		if (r)
			return r;
	}
	if (!name)
		return cli_usage("run", "the NAME for the VM is missing");
	if (gw_rundir_check_name(name, &err))
		return cli_usage("run", "%s", err.msg);
	if (optind >= argc)
		return cli_usage("run", "the QEMU command is missing: godwit run %s -- qemu-system-x86_64 ...",
				 name);
	o.req.name = name;
	o.req.argv = argv + optind;
	return run(&o);
}
