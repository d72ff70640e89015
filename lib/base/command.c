/* SPDX-License-Identifier: BSD-3-Clause */
/* command.c - see command.h. */
#include "base/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/scope.h"

#define MAX_ARGS 8
#define POLL_NS	 (5 * GW_NS_PER_MS)

static bool same_key(const char *a, const char *b)
{
	size_t n = strcspn(a, "=");

	return !strncmp(a, b, n) && b[n] == '=';
}

/* Ours, and @env instead of what has the same name. The array is the
 * caller's, its strings are not. */
static char **join_environment(const char *const *env)
{
	size_t nold = 0, nnew = 0, n = 0;
	char **all;

	while (environ && environ[nold])
		nold++;
	while (env && env[nnew])
		nnew++;
	all = calloc(nold + nnew + 1, sizeof(*all));
	for (size_t i = 0; all && i < nold; i++) {
		bool replaced = false;

		for (size_t k = 0; k < nnew; k++)
			replaced |= same_key(env[k], environ[i]);
		if (!replaced)
			all[n++] = environ[i];
	}
	for (size_t k = 0; all && k < nnew; k++)
		all[n++] = (char *)(uintptr_t)env[k];
	return all;
}

int gw_command_spawn(char *const *argv, char *const *env, int in, int out,
		     pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none, all;
	int r;

	sigemptyset(&none);
	sigfillset(&all);
	if (posix_spawn_file_actions_init(&fa))
		return -ENOMEM;
	if (posix_spawnattr_init(&at)) {
		posix_spawn_file_actions_destroy(&fa);
		return -ENOMEM;
	}
	if (in < 0)
		r = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null",
						     O_RDONLY, 0);
	else
		r = posix_spawn_file_actions_adddup2(&fa, in, 0);
	if (!r && out >= 0)
		r = posix_spawn_file_actions_adddup2(&fa, out, 1);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(&fa, 3);
#endif
	/* Our threads block every signal; the command must not. */
	posix_spawnattr_setsigmask(&at, &none);
	posix_spawnattr_setsigdefault(&at, &all);
	posix_spawnattr_setpgroup(&at, 0);
	posix_spawnattr_setflags(&at, POSIX_SPAWN_SETPGROUP |
					      POSIX_SPAWN_SETSIGMASK |
					      POSIX_SPAWN_SETSIGDEF);
	if (!r)
		r = posix_spawn(pid, "/bin/sh", &fa, &at, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&at);
	return -r;
}

/* Has it ended? Somebody who reaps every child leaves us no status: then it
 * did not say yes. */
static bool has_ended(pid_t pid, int *code)
{
	int status;
	pid_t r = waitpid(pid, &status, WNOHANG);

	if (r < 0 && errno == ECHILD) {
		*code = -ECHILD;
		return true;
	}
	if (r == pid)
		*code = WIFEXITED(status) ? WEXITSTATUS(status)
					  : 128 + WTERMSIG(status);
	return r == pid;
}

static int await(pid_t pid, int64_t deadline, const struct gw_cancel *cancel)
{
	int code;

	while (!has_ended(pid, &code)) {
		struct pollfd p = { .fd = gw_cancel_fd(cancel),
				    .events = POLLIN };
		struct timespec t = { 0, POLL_NS };
		int r = 0;

		if (ppoll(&p, 1, &t, NULL) == 1)
			r = -ECANCELED;
		else if (deadline && gw_now_ns() >= deadline)
			r = -ETIMEDOUT;
		if (!r)
			continue;
		kill(-pid, SIGKILL); /* not reaped: the group is still its */
		waitpid(pid, NULL, 0);
		return r;
	}
	return code;
}

int gw_command_run(const char *command, const char *const *args,
		   const char *const *env, int64_t timeout_ms,
		   const struct gw_cancel *cancel, struct gw_error *err)
{
	size_t len = strlen(command) + sizeof(" \"$@\"");
	gw_autofree char *line = malloc(len);
	gw_autofree char **all = join_environment(env);
	char *argv[MAX_ARGS + 4] = { (char *)(uintptr_t) "sh",
				     (char *)(uintptr_t) "-c", line,
				     (char *)(uintptr_t) "sh" };
	pid_t pid;
	int r;

	if (!line || !all)
		return gw_fail(err, ENOMEM, "no memory for a command");
	snprintf(line, len, "%s \"$@\"", command);
	for (int i = 0; i < MAX_ARGS - 1 && args && args[i]; i++)
		argv[4 + i] = (char *)(uintptr_t)args[i];
	r = gw_command_spawn(argv, all, -1, -1, &pid);
	if (r)
		return gw_fail_errno(err, -r, "cannot start '%s'", command);
	r = await(pid, gw_deadline_ms(timeout_ms), cancel);
	if (r == -ETIMEDOUT)
		return gw_fail(err, ETIMEDOUT,
			       "'%s' did not end within %lld ms and was killed",
			       command, (long long)timeout_ms);
	if (r == -ECANCELED)
		return gw_cancel_fail(err);
	if (r == -ECHILD)
		return gw_fail(err, ECHILD,
			       "nobody knows how '%s' ended: this process "
			       "ignores SIGCHLD",
			       command);
	return r;
}
