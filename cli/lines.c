/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * lines.c - lines from standard input: with editing and history on a terminal
 * where libedit was there when godwit was built, as they come otherwise.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#ifdef GW_HAVE_EDIT
#include <histedit.h>
#endif

#include "cli/cli.h"

#define LONGEST_LINE 65536
#define HISTORY_SIZE 500

struct cli_lines {
	const char *prompt; /* NULL: no terminal */
	int (*wait)(void *data);
	void *data;
	int why; /* what the last wait said */
	char *buf; /* [start, end) was read, and not handed out */
	size_t start, end;
#ifdef GW_HAVE_EDIT
	EditLine *el;
	History *history;
#endif
};

/* One read into the buffer. Return: 0, -ENODATA at the end, -errno. */
static int fill(struct cli_lines *l)
{
	ssize_t n;
	int r = l->wait(l->data);

	if (r)
		return r;
	if (l->start) {
		memmove(l->buf, l->buf + l->start, l->end - l->start);
		l->end -= l->start;
		l->start = 0;
	}
	if (l->end == LONGEST_LINE)
		return -EMSGSIZE;
	n = read(STDIN_FILENO, l->buf + l->end, LONGEST_LINE - l->end);
	if (n > 0)
		l->end += (size_t)n;
	return n > 0 ? 0 : n < 0 ? -errno : -ENODATA;
}

/* The last line of a file may lack its end. */
static char *plain(struct cli_lines *l)
{
	char *line, *end;

	for (;;) {
		end = memchr(l->buf + l->start, '\n', l->end - l->start);
		if (end)
			break;
		l->why = fill(l);
		if (l->why != -ENODATA || l->start == l->end) {
			if (!l->why)
				continue;
			return NULL;
		}
		end = l->buf + l->end;
	}
	*end = '\0'; /* there is one byte more than LONGEST_LINE */
	line = l->buf + l->start;
	l->start = (size_t)(end - l->buf) + 1;
	if (l->start > l->end)
		l->start = l->end;
	return line;
}

#ifdef GW_HAVE_EDIT
static char *prompt_of(EditLine *el)
{
	struct cli_lines *l = NULL;

	el_get(el, EL_CLIENTDATA, &l);
	return (char *)(uintptr_t)l->prompt;
}

/* libedit wants one character, and we other things besides. */
static int get_char(EditLine *el, wchar_t *c)
{
	struct cli_lines *l = NULL;
	mbstate_t state = { 0 };
	size_t n;
	char b;

	el_get(el, EL_CLIENTDATA, &l);
	do {
		if (l->start == l->end) {
			l->why = fill(l);
			if (l->why)
				return l->why == -ENODATA ? 0 : -1;
		}
		b = l->buf[l->start++];
		n = mbrtowc(c, &b, 1, &state);
	} while (n == (size_t)-2);
	if (n == (size_t)-1)
		*c = L'?';
	return 1;
}

static void open_editor(struct cli_lines *l)
{
	HistEvent e;

	l->el = el_init("godwit", stdin, stdout, stderr);
	l->history = history_init();
	if (!l->el || !l->history)
		return;
	history(l->history, &e, H_SETSIZE, HISTORY_SIZE);
	history(l->history, &e, H_SETUNIQUE, 1);
	el_set(l->el, EL_CLIENTDATA, l);
	el_set(l->el, EL_PROMPT, prompt_of);
	el_set(l->el, EL_EDITOR, "emacs");
	el_set(l->el, EL_SIGNAL, 0);
	el_set(l->el, EL_HIST, history, l->history);
	el_set(l->el, EL_GETCFN, get_char);
}

static void close_editor(struct cli_lines *l)
{
	if (l->el)
		el_end(l->el);
	if (l->history)
		history_end(l->history);
}

static const char *edited(struct cli_lines *l)
{
	const char *line;
	HistEvent e;
	int n = 0;

	l->why = 0;
	line = el_gets(l->el, &n);
	if (!line || n <= 0) {
		if (!l->why)
			l->why = -ENODATA; /* Ctrl-D */
		return NULL;
	}
	if (strspn(line, " \t\n") != strlen(line))
		history(l->history, &e, H_ENTER, line);
	return line;
}
#endif

struct cli_lines *cli_lines_open(const char *prompt, int (*wait)(void *data),
				 void *data)
{
	struct cli_lines *l = calloc(1, sizeof(*l));

	if (l)
		l->buf = malloc(LONGEST_LINE + 1);
	if (!l || !l->buf) {
		free(l);
		return NULL;
	}
	l->prompt = isatty(STDIN_FILENO) ? prompt : NULL;
	l->wait = wait;
	l->data = data;
#ifdef GW_HAVE_EDIT
	if (l->prompt)
		open_editor(l);
#endif
	return l;
}

const char *cli_lines_next(struct cli_lines *l, int *why)
{
	const char *line;

#ifdef GW_HAVE_EDIT
	if (l->el && l->history) {
		line = edited(l);
		*why = l->why;
		return line;
	}
#endif
	if (l->prompt) {
		fputs(l->prompt, stdout);
		fflush(stdout);
	}
	line = plain(l);
	*why = l->why;
	return line;
}

void cli_lines_close(struct cli_lines *l)
{
	if (!l)
		return;
#ifdef GW_HAVE_EDIT
	close_editor(l);
#endif
	free(l->buf);
	free(l);
}
