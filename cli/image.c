/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * image.c - what the commands that read stored VMs have in common: options,
 * Ctrl-C, a line of progress, names that are safe to print.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/cli.h"
#include "ram/block.h"

enum {
	OPT_JSON = 256,
	OPT_PAGES,
	OPT_CHANNELS,
	OPT_FORMAT,
	OPT_BLOCK,
	OPT_DIRECT,
};

static int parse_channels(struct cli_image *o, const char *cmd)
{
	char *end;
	unsigned long n = strtoul(optarg, &end, 10);

	if (*end || end == optarg || !n || n > CLI_MAX_CHANNELS)
		return cli_usage(cmd, "--channels %s: a number from 1 to %u",
				 optarg, CLI_MAX_CHANNELS);
	o->channels = (unsigned int)n;
	return 0;
}

/* Only the options that the command knows, which its help names. Return:
 * whether --quiet is one. */
static bool build_options(const char *cmd, struct option *to)
{
	static const struct option all[] = {
		{ "json", no_argument, NULL, OPT_JSON },
		{ "pages", no_argument, NULL, OPT_PAGES },
		{ "quiet", no_argument, NULL, 'q' },
		{ "channels", required_argument, NULL, OPT_CHANNELS },
		{ "format", required_argument, NULL, OPT_FORMAT },
		{ "block", required_argument, NULL, OPT_BLOCK },
		{ "direct-io", no_argument, NULL, OPT_DIRECT },
	};
	const char *help = cli_find(cmd)->help;
	bool quiet = false;
	char name[32];
	int n = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		snprintf(name, sizeof(name), "--%s ", all[i].name);
		if (!strstr(help, name))
			continue;
		quiet |= all[i].val == 'q';
		to[n++] = all[i];
	}
	to[n] = (struct option){ NULL, 0, NULL, 0 };
	return quiet;
}

int cli_image_parse(struct cli_image *o, int argc, char **argv, int nfiles)
{
	struct option options[8];
	const char *letters = ":q";
	int c, r = 0, n = 0;

	memset(o, 0, sizeof(*o));
	o->channels = 2;
	if (!build_options(argv[0], options))
		letters = ":";
	optind = 0;
	opterr = 0;
	while ((c = getopt_long(argc, argv, letters, options, NULL)) >= 0) {
		if (c == ':')
			return cli_usage(argv[0], "%s needs a value",
					 argv[optind - 1]);
		if (c == '?')
			return cli_usage(argv[0], "unknown option %s",
					 argv[optind - 1]);
		o->json |= c == OPT_JSON;
		o->pages |= c == OPT_PAGES;
		o->quiet |= c == 'q';
		o->direct_io |= c == OPT_DIRECT;
		if (c == OPT_FORMAT)
			o->format = optarg;
		if (c == OPT_BLOCK)
			o->block = optarg;
		if (c == OPT_CHANNELS)
			r = parse_channels(o, argv[0]);
		if (r)
			return r;
	}
	for (; optind < argc; optind++) {
		if (n == nfiles)
			return cli_usage(argv[0],
					 "'%s' is one argument too many",
					 argv[optind]);
		o->file[n++] = argv[optind];
	}
	if (n < nfiles)
		return cli_usage(argv[0], "the %sFILE is missing",
				 n ? "second " : "");
	if (!strcmp(argv[0], "diff") && !strcmp(o->file[0], "-") &&
	    !strcmp(o->file[1], "-"))
		return cli_usage(argv[0],
				 "only one of the two can be standard input");
	o->tty = !o->json && !o->quiet && isatty(STDERR_FILENO);
	o->last_ns = gw_now_ns();
	return 0;
}

/* --- Ctrl-C ------------------------------------------------------------- */

static struct gw_cancel cancel = { -1 };

static void on_signal(int sig)
{
	gw_cancel_request(&cancel);
}

const struct gw_cancel *cli_cancel(void)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct gw_error err = { 0 };

	if (cancel.fd >= 0)
		return &cancel;
	if (gw_cancel_init(&cancel, &err))
		return NULL; /* then a signal ends it the hard way */
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	return &cancel;
}

/* --- progress ----------------------------------------------------------- */

void cli_image_say(struct cli_image *o, const char *text)
{
	if (!o->tty)
		return;
	fprintf(stderr, "\r\033[K%s", text);
	o->line_open = *text != '\0';
}

void cli_image_tick(uint64_t done, uint64_t all, void *data)
{
	struct cli_image *o = data;
	int64_t ns = gw_now_ns() - o->last_ns;
	char line[128], a[32], b[32], rate[32];

	if (!o->tty || !all)
		return;
	gw_format_size(a, sizeof(a), done * GW_PAGE_SIZE);
	gw_format_size(b, sizeof(b), all * GW_PAGE_SIZE);
	gw_format_size(rate, sizeof(rate),
		       (uint64_t)((double)done * GW_PAGE_SIZE * 1e9 /
				  (double)(ns > 0 ? ns : 1)));
	snprintf(line, sizeof(line), "%3u %%  %s of %s at %s/s",
		 (unsigned int)(done * 100 / all), a, b, rate);
	cli_image_say(o, line);
}

struct gw_image *cli_image_open(struct cli_image *o, const char *path,
				struct gw_error *err)
{
	struct gw_image *img;

	if (o->tty) {
		fprintf(stderr, "reading %s ...", path);
		o->line_open = true;
	}
	img = gw_image_open(path, cli_cancel(), err);
	cli_image_say(o, "");
	o->last_ns = gw_now_ns();
	return img;
}

int cli_image_fail(struct cli_image *o, struct gw_error *err)
{
	char text[GW_ERROR_MAX];

	cli_image_say(o, "");
	snprintf(err->msg, sizeof(err->msg), "%s",
		 cli_text(text, sizeof(text), err->msg));
	if (o->json)
		cli_json(json_pack("{s:b, s:i, s:s}", "ok", 0, "code",
				   (int)err->fault, "error", err->msg));
	return cli_report(err);
}

/* --- text from a file --------------------------------------------------- */

char *cli_text(char *to, size_t len, const char *from)
{
	size_t i;

	for (i = 0; from[i] && i + 1 < len; i++)
		to[i] = from[i] >= ' ' && from[i] < 0x7f ? from[i] : '?';
	to[i] = '\0';
	return to;
}
