/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cli.h - what the sub-commands share. One file per command, cmd_NAME.c; the
 * table of commands is in main.c.
 */
#ifndef GW_CLI_CLI_H
#define GW_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/cancel.h"
#include "base/error.h"
#include "godwit.h"
#include "image/image.h"

struct cli_command {
	const char *name;
	const char *args;    /* "VM URI [options]" */
	const char *summary; /* one line */
	const char *help;    /* options and notes, ends with a newline */
	unsigned int params; /* enum gw_use: which of control/params.c it
				takes; 0: none */
	int (*run)(int argc, char **argv); /* argv[0]: the name */
};

extern const struct cli_command cli_commands[];
const struct cli_command *cli_find(const char *name);

/* "godwit CMD: text" and where help is. Return: GW_FAULT_USAGE. */
int cli_usage(const char *cmd, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* "godwit: text". Return: the exit code, err->fault. */
int cli_report(const struct gw_error *err);

int cmd_run(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_monitor(int argc, char **argv);
int cmd_receive(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_save(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_protect(int argc, char **argv);
int cmd_standby(int argc, char **argv);
int cmd_failover(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_dump(int argc, char **argv);

/* --- operation.c: what the commands that move or store have in common --- */

struct cli_operation {
	struct godwit_params params;
	bool json, quiet;
	const char *format; /* receive --format, NULL: not given */
	const char *qmp;    /* monitor --qmp, NULL: not given */
	json_t *capabilities; /* monitor: [{"capability", "state"}...] or NULL;
				 the caller's */
	const char *positional[2];
	const bool *took_over; /* standby: for the last object; or NULL */
};

/* Parse options and the positional arguments @names, two or (NULL) one.
 * Return: 0 or an exit code, already reported. */
int cli_operation_parse(struct cli_operation *o, int argc, char **argv,
			const char *const names[2]);

/*
 * Run @fn with progress, signals and the final report. @vm: what to attach to,
 * NULL for an operation on files. @summary: printed after success.
 * Return: exit code.
 */
int cli_operation_run(struct cli_operation *o, const char *vm,
		      void (*summary)(const struct godwit_stats *s),
		      int (*fn)(struct godwit_op *op, void *data,
				struct godwit_error *err),
		      void *data);

/* One JSON object on stdout, flushed. Takes the reference of @j. */
void cli_json(json_t *j);

/* --- image.c: what commands that read stored VMs have in common --------- */

#define CLI_MAX_CHANNELS 64u

struct cli_image {
	bool json, quiet, pages;
	unsigned int channels; /* threads */
	const char *format, *block;
	bool direct_io;
	const char *file[2];
	/* private to image.c */
	bool tty, line_open;
	long long last_ns;
};

/* Parse the options that the command's help names, and @nfiles paths.
 * Return: 0 or an exit code, already reported. */
int cli_image_parse(struct cli_image *o, int argc, char **argv, int nfiles);
struct gw_image *cli_image_open(struct cli_image *o, const char *path,
				struct gw_error *err);
/* A line on the terminal that is rewritten; "": none. */
void cli_image_say(struct cli_image *o, const char *text);
/* Progress in pages; @data is a struct cli_image. */
void cli_image_tick(uint64_t done, uint64_t all, void *data);
/* Report, with --json also as an object. Return: the exit code. */
int cli_image_fail(struct cli_image *o, struct gw_error *err);

/* Cancelled by SIGINT, SIGTERM and SIGHUP from the first call on. */
const struct gw_cancel *cli_cancel(void);

/* A name from a file, without what a terminal or JSON could mind. */
char *cli_text(char *to, size_t len, const char *from);

/* --- copy.c: what convert and dump have in common ----------------------- */

/* o->file[0] into o->file[1]; @check, if any, looks at the image first and
 * returns 0 or -errno. Return: the exit code. */
int cli_image_copy(struct cli_image *o,
		   int (*check)(struct gw_image *img, struct cli_image *o,
				struct gw_error *err));

/* --- standby.c ---------------------------------------------------------- */

/* The answer of a standby that runs on this host. */
struct cli_standby {
	json_t *json;	   /* all of it; the caller's */
	const char *state; /* in it */
	uint64_t checkpoint; /* 0: none yet */
	json_int_t age_ms;   /* of it; -1: unknown */
};
int cli_standby_ask(const char *name, struct cli_standby *s,
		    struct gw_error *err);
/* "standby, protected, checkpoint 7, 31 ms old". Return: @buf. */
char *cli_standby_text(const struct cli_standby *s, char *buf, size_t len);

/* --- lines.c ------------------------------------------------------------ */

struct cli_lines;

/* Lines of standard input, behind @prompt on a terminal. @wait is called when
 * there is none yet: 0 when something can be read, or -errno to stop. */
struct cli_lines *cli_lines_open(const char *prompt, int (*wait)(void *data),
				 void *data);
/* Valid until the next call. NULL with *@why: -ENODATA at the end, what @wait
 * said, -EMSGSIZE. */
const char *cli_lines_next(struct cli_lines *l, int *why);
void cli_lines_close(struct cli_lines *l);

/* --- progress.c --------------------------------------------------------- */

struct cli_progress {
	bool json, quiet, tty;
	bool line_open; /* the terminal shows an unfinished line */
	enum godwit_status status;
	unsigned int pass;
	unsigned long long checkpoint, nlate;
	bool late; /* one since the last report */
	long long last_ns;
};

void cli_progress_init(struct cli_progress *p, bool json, bool quiet);
/* A godwit_progress_fn; @data is a struct cli_progress. */
void cli_progress_show(const struct godwit_stats *s, void *data);
/* End an unfinished line. */
void cli_progress_end(struct cli_progress *p);
/* What happened, for people. */
void cli_summary_migrated(const struct godwit_stats *s);
void cli_summary_received(const struct godwit_stats *s);
void cli_summary_stored(const struct godwit_stats *s);
void cli_summary_restored(const struct godwit_stats *s);
void cli_summary_saved(const struct godwit_stats *s);
void cli_summary_checkpoints(const struct godwit_stats *s);
void cli_summary_sent(const struct godwit_stats *s);

#endif
