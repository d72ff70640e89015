/* SPDX-License-Identifier: BSD-3-Clause */
/* main.c - the table of commands, help, log to stderr. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/pause.h"
#include "cli/cli.h"
#include "control/params.h"

static int cmd_help(int argc, char **argv);
static int cmd_version(int argc, char **argv);

#define VM_HELP                                                             \
	"VM is the NAME given to 'godwit run', or qmp=PATH,agent=PATH.\n"
#define NATIVE_HELP                                                         \
	"With --native QEMU makes the stream by itself, for a plain QEMU with -incoming\n" \
	"or 'godwit receive' at URI; qmp=PATH is enough then.\n"
#define URI_HELP                                                            \
	"URI is tcp:HOST:PORT, unix:PATH, fd:N or exec:COMMAND.\n"
#define FILE_HELP                                                           \
	"FILE is a stream or mapped-ram file of QEMU or godwit, or a save of\n" \
	"libvirt; '-' is standard input, file:PATH,offset=N one that begins later.\n"
#define COMMON_HELP                                                         \
	"  --json                  one JSON object per event on stdout\n"    \
	"  -q, --quiet             nothing but errors\n"                     \
	"  --set NAME=VALUE        the same parameters by name\n"

const struct cli_command cli_commands[] = {
	{ "run", "NAME [options] -- QEMU-COMMAND...",
	  "start QEMU so that godwit can move it",
	  "Shares the VM's RAM, adds the agent and four QMP monitors, and becomes QEMU.\n\n"
	  "  --incoming              wait for a migration ('godwit receive')\n"
	  "  --memory SIZE           RAM of the VM, instead of QEMU's -m\n"
	  "  --hugepages             RAM from reserved huge pages of the default size\n"
	  "  --transparent-hugepages RAM from huge pages where there are any, or fail;\n"
	  "                          the default, as root, where it can be tracked\n"
	  "  --no-transparent-hugepages\n"
	  "                          RAM from small pages\n"
	  "  --free-page-agent       a port for godwit-guest-agent in the guest\n"
	  "  --agent preload|plugin  how QEMU loads the agent (preload)\n"
	  "  --dry-run               print the command instead of running it\n",
	  0, cmd_run },
	{ "list", "[--json]", "VMs started by 'godwit run'",
	  "  --json                  a JSON list\n", 0, cmd_list },
	{ "check", "VM [URI] [--json]", "will it work? Before a byte moves",
	  VM_HELP URI_HELP
	  "\nWith a URI it asks the 'godwit receive' there, which goes on listening.\n\n"
	  "  --json                  a JSON object\n",
	  0, cmd_check },
	{ "migrate", "VM URI [options]", "live-migrate a VM",
	  VM_HELP URI_HELP NATIVE_HELP "\n" COMMON_HELP, GW_USE_MIGRATE,
	  cmd_migrate },
	{ "monitor", "VM [options]",
	  "a prompt, or a QMP socket, in front of QEMU's own",
	  VM_HELP URI_HELP
	  "\nCommands of migration are godwit's, all others QEMU's; 'help' lists them. They\n"
	  "are read from standard input if that is no terminal, one per line. Parameters\n"
	  "below are what its migrations begin with; --set knows QEMU's capabilities too.\n\n"
	  "  --qmp unix:PATH         serve QMP at PATH instead\n"
	  "  -q, --quiet             nothing but errors\n"
	  "  --set NAME=VALUE        the same parameters by name\n",
	  GW_USE_MIGRATE | GW_USE_RECEIVE, cmd_monitor },
	{ "receive", "URI VM|FILE [options]",
	  "accept one migration into a VM started with --incoming",
	  URI_HELP VM_HELP
	  "\nThe source is 'godwit migrate' or a plain QEMU ('migrate', best with\n"
	  "capability return-path, also with multifd, without postcopy-ram). What has a\n"
	  "'/' or a '.' in it and is no VM, or comes with --format, is a FILE, which takes\n"
	  "what a plain QEMU sends.\n\n"
	  "  --format stream|mapped-ram  what FILE becomes (stream)\n" COMMON_HELP,
	  GW_USE_RECEIVE, cmd_receive },
	{ "save", "VM FILE [options]", "save a VM in a file",
	  VM_HELP
	  "\nThe VM stands while it is saved (--live: only for the end of it) and goes\n"
	  "on afterwards (--stop: it stays stopped; --quit: its QEMU ends). FILE is\n"
	  "replaced when all is written; plain QEMU loads it too. FILE - is standard\n"
	  "output (--format stream).\n\n" COMMON_HELP,
	  GW_USE_SAVE, cmd_save },
	{ "send", "FILE URI [options]",
	  "send a saved VM to a plain QEMU (-incoming) or a 'godwit receive'",
	  URI_HELP "FILE - is standard input.\n\n" COMMON_HELP, GW_USE_SEND,
	  cmd_send },
	{ "restore", "FILE VM [options]",
	  "load a stored VM into one started with --incoming",
	  FILE_HELP VM_HELP "\n" COMMON_HELP, GW_USE_RESTORE, cmd_restore },
	{ "protect", "VM URI [options]",
	  "keep a standby ready to take a VM over",
	  VM_HELP URI_HELP
	  "\nThe standby at URI is 'godwit standby' on another host. Ctrl-C ends it: the VM goes\n"
	  "on here, unprotected. A VM whose standby does not answer is stopped, because it\n"
	  "may have been taken over (exit 8, 'godwit resume'); --no-fence lets it run on.\n\n"
	  COMMON_HELP, GW_USE_PROTECT, cmd_protect },
	{ "standby", "URI VM [options]",
	  "be ready to take a protected VM over",
	  URI_HELP VM_HELP
	  "\nVM was started with --incoming. It runs here from the last checkpoint when the\n"
	  "primary is silent for --timeout, or on 'godwit failover'.\n\n"
	  COMMON_HELP, GW_USE_STANDBY, cmd_standby },
	{ "failover", "NAME [--status] [--json]",
	  "tell the standby on this host to take over",
	  "NAME is that of a VM that a 'godwit standby' here keeps. A primary that answers\n"
	  "gives its VM up with a last checkpoint, so that nothing is lost.\n\n"
	  "  --status                only ask how it stands\n"
	  "  --json                  a JSON object\n",
	  0, cmd_failover },
	{ "resume", "VM [--yes]",
	  "run a VM that an uncertain hand-over or a fence left stopped",
	  VM_HELP "\n"
		  "  -y, --yes               do not ask: the VM runs nowhere else\n",
	  0, cmd_resume },
	{ "info", "FILE [--json] [--pages]", "show what a stored VM has",
	  FILE_HELP
	  "\n  --json                  a JSON object\n"
	  "  --pages                 also every section of RAM, and how pages lie\n",
	  0, cmd_info },
	{ "verify", "FILE [options]", "tell whether a stored VM is whole",
	  FILE_HELP
	  "\n  --channels N            read with N threads (2)\n"
	  "  --json                  a JSON object\n"
	  "  -q, --quiet             nothing but errors\n",
	  0, cmd_verify },
	{ "diff", "FILE FILE [options]", "show how two stored VMs differ",
	  FILE_HELP
	  "\nExit: 0 they are equal, 1 they differ, as of diff(1); 3 and others: no answer.\n\n"
	  "  --channels N            read with N threads (2)\n"
	  "  --json                  a JSON object\n"
	  "  -q, --quiet             only the exit code\n",
	  0, cmd_diff },
	{ "convert", "IN OUT [options]",
	  "write a stored VM in the other format",
	  "IN: a stream or mapped-ram file of QEMU or godwit, or a save of libvirt; '-' is\n"
	  "standard input. OUT: a file, or with --format stream '-', standard output, and\n"
	  "pipes. A file gets its name when it is finished; it may be IN.\n\n"
	  "  --format FORMAT         mapped-ram (the default) or stream\n"
	  "  --channels N            copy with N threads (2)\n"
	  "  --direct-io             write pages past the page cache (mapped-ram)\n"
	  "  --json                  a JSON object\n"
	  "  -q, --quiet             nothing but errors\n",
	  0, cmd_convert },
	{ "dump", "FILE OUT [options]",
	  "take the memory out of a stored VM, raw or as an ELF core",
	  FILE_HELP
	  "OUT is a sparse file. Offsets (raw) or addresses (elf) are guest physical.\n\n"
	  "  --format FORMAT         raw (the default) or elf\n"
	  "  --block NAME            this RAM block alone, from offset 0 (raw)\n"
	  "  --channels N            copy with N threads (2)\n"
	  "  --direct-io             write pages past the page cache\n"
	  "  --json                  a JSON object\n"
	  "  -q, --quiet             nothing but errors\n",
	  0, cmd_dump },
	{ "help", "[COMMAND]", "this, or a command's options", "", false,
	  cmd_help },
	{ "version", "", "the version", "", 0, cmd_version },
	{ NULL, NULL, NULL, NULL, 0, NULL },
};

const struct cli_command *cli_find(const char *name)
{
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

int cli_usage(const char *cmd, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "godwit %s: ", cmd);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry 'godwit help %s'.\n", cmd);
	return GW_FAULT_USAGE;
}

int cli_report(const struct gw_error *err)
{
	fprintf(stderr, "godwit: %s\n", err->msg);
	return err->fault ? (int)err->fault : GW_FAULT_FAILED;
}

static void help_all(FILE *f)
{
	fprintf(f, "godwit %s - moves running QEMU VMs from outside\n\nusage: godwit COMMAND ...\n\n",
		godwit_version());
	for (const struct cli_command *c = cli_commands; c->name; c++)
		fprintf(f, "  %-9s %s\n", c->name, c->summary);
	fprintf(f, "\n'godwit help COMMAND' has the options, godwit(1) the rest.\n"
		   "GODWIT_LOG=info (or debug, MODULE=debug) logs to stderr.\n"
		   "Exit: 0 done, 1 failed, 2 usage, 3 bad input, 4 verification, 5 does not\n"
		   "converge, 6 refused by the peer, 7 cancelled, 8 hand-over uncertain.\n");
}

static void help_params(unsigned int use)
{
	printf("\nParameters, each --NAME VALUE (on and off: also --NAME and --no-NAME):\n");
	for (size_t i = 0; i < gw_nparams; i++)
		if (gw_params[i].uses & use)
			printf("  --%-28s%s (%s)\n", gw_params[i].name,
		       gw_params[i].help,
			       *gw_params[i].fallback ? gw_params[i].fallback :
							"none");
}

static int cmd_help(int argc, char **argv)
{
	const struct cli_command *c;

	if (argc < 2) {
		help_all(stdout);
		return 0;
	}
	c = cli_find(argv[1]);
	if (!c)
		return cli_usage("help", "there is no command '%s'", argv[1]);
	printf("usage: godwit %s %s\n\n%c%s.\n\n%s", c->name, c->args,
	       c->summary[0] - (c->summary[0] >= 'a' ? 32 : 0), c->summary + 1,
	       c->help);
	if (c->params)
		help_params(c->params);
	return 0;
}

static int cmd_version(int argc, char **argv)
{
	printf("godwit %s\n", godwit_version());
	return 0;
}

/* systemd reads "<N>" as a level; people get words. */
static void log_line(int level, const char *module, const char *msg,
		     void *data)
{
	static const char *const word[] = { "",	    "error", "warning",
					    "info", "debug", "trace" };
	static const int priority[] = { 3, 3, 4, 6, 7, 7 };

	if (getenv("JOURNAL_STREAM"))
		fprintf(stderr, "<%d>%s: %s\n", priority[level], module, msg);
	else
		fprintf(stderr, "godwit: %s: %s: %s\n", word[level], module,
			msg);
}

int main(int argc, char **argv)
{
	const struct cli_command *c;
	struct godwit_error err;

	if (godwit_set_log(log_line, NULL, getenv("GODWIT_LOG"), &err)) {
		fprintf(stderr, "godwit: GODWIT_LOG: %s\n", err.msg);
		return GW_FAULT_USAGE;
	}
	if (gw_pause_configure(getenv("GODWIT_TEST_PAUSE"),
			       (struct gw_error *)&err)) {
		fprintf(stderr, "godwit: GODWIT_TEST_PAUSE: %s\n", err.msg);
		return GW_FAULT_USAGE;
	}
	if (argc < 2) {
		help_all(stderr);
		return GW_FAULT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		argv[1] = (char *)(uintptr_t)"help";
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
		argv[1] = (char *)(uintptr_t)"version";
	c = cli_find(argv[1]);
	if (!c) {
		fprintf(stderr, "godwit: there is no command '%s'\n", argv[1]);
		help_all(stderr);
		return GW_FAULT_USAGE;
	}
	if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
		char *args[] = { argv[0], argv[1], NULL };

		return cmd_help(2, args);
	}
	return c->run(argc - 1, argv + 1);
}
