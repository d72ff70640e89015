/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * process.h - is the memory of the VM's process still there?
 *
 * The page tables of a dying process look clean to a scan. So a scan is worth
 * something only if the process still had its memory *after* it: check then.
 */
#ifndef GW_TRACK_PROCESS_H
#define GW_TRACK_PROCESS_H

#include <sys/types.h>

#include "base/error.h"

/* Return: an fd that stays bound to this process (not to the number), to be
 * closed by the caller, or -errno. */
int gw_process_open(pid_t pid, struct gw_error *err) GW_MUST_CHECK;

/* Return: 0, or -ESRCH when process @fd (number @pid, for the text) has given
 * up its memory: it exits, was killed or is gone. */
int gw_process_check(int fd, pid_t pid, struct gw_error *err) GW_MUST_CHECK;

#endif
