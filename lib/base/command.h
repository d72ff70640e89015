/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * command.h - run a user's command and wait for it, so long and not longer.
 */
#ifndef GW_BASE_COMMAND_H
#define GW_BASE_COMMAND_H

#include <stdint.h>
#include <sys/types.h>

#include "base/cancel.h"
#include "base/error.h"

/*
 * /bin/sh -c COMMAND with @args (NULL terminated, < 8) behind it as its own
 * arguments and @env ("KEY=VALUE", NULL terminated) added to our environment.
 * stdin is /dev/null; stdout and stderr stay ours. After @timeout_ms, or when
 * cancelled, its process group is killed.
 * Return: its exit status, 128 + N when signal N ended it, or -errno with @err:
 * -ETIMEDOUT, -ECANCELED, or it could not be started.
 */
int gw_command_run(const char *command, const char *const *args,
		   const char *const *env, int64_t timeout_ms,
		   const struct gw_cancel *cancel,
		   struct gw_error *err) GW_MUST_CHECK;

/*
 * /bin/sh with @argv, @env and these as stdin and stdout (-1: /dev/null, ours):
 * in a process group of its own, with no blocked signal and no descriptor above
 * 2. Return: 0 with *@pid, -errno.
 */
int gw_command_spawn(char *const *argv, char *const *env, int in, int out,
		     pid_t *pid);

#endif
