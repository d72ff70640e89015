/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * launch.h - become a QEMU that godwit can move: ask the binary what it is,
 * rewrite its command line (cmdline.h), claim the VM's name (rundir.h), make
 * its memory and exec. The process stays the same one: signals, standard
 * streams and exit status are QEMU's own.
 *
 * For a process of one thread that has nothing else to do, but for
 * gw_launch_again().
 */
#ifndef GW_VM_QEMU_LAUNCH_H
#define GW_VM_QEMU_LAUNCH_H

#include <limits.h>

#include "base/error.h"
#include "vm/qemu/cmdline.h"
#include "vm/qemu/rundir.h"

struct gw_launch_request {
	const char *name;
	char *const *argv; /* QEMU and its arguments, NULL terminated */
	bool incoming;
	enum gw_hugepages hugepages;
	bool free_page_agent; /* a port for the guest's */
	uint64_t memory; /* bytes, 0: what the command line says */
	enum gw_agent_mode agent;
	bool again; /* the move.lock of the one before is held */
};

struct gw_launch {
	const struct gw_launch_request *req;
	struct gw_qemu_probe probe;
	struct gw_cmdline cmdline; /* notes, and refusals after -ENOTSUP */
	char agent_path[PATH_MAX];
	struct gw_rundir_paths path;
};

/*
 * Everything up to the point where something changes. @req and its argv must
 * outlive @l. Return: 0, or -errno as gw_cmdline_rewrite() or because the
 * binary is no QEMU. gw_launch_fini(@l) in any case.
 */
int gw_launch_prepare(struct gw_launch *l, const struct gw_launch_request *req,
		      struct gw_error *err) GW_MUST_CHECK;

/* Claim, make memory, exec. Returns only if that failed: the name is free
 * again, descriptors of memory may stay open until this process ends. */
int gw_launch_exec(struct gw_launch *l, struct gw_error *err) GW_MUST_CHECK;

void gw_launch_fini(struct gw_launch *l);

/*
 * Run @vm, which ended and whose move.lock is held, once more, waiting for a
 * migration; in a process of its own that is nobody's child, without a
 * terminal, stderr inherited. From any process: in one with other threads it
 * takes no lock but malloc's. Return: 0 when that was exec'd.
 */
int gw_launch_again(const struct gw_rundir_vm *vm,
		    struct gw_error *err) GW_MUST_CHECK;

/*
 * Run @program once, without a machine, and ask it by QMP for its version,
 * architecture and machine types (20 ms as a rule; @timeout_ms at most).
 */
int gw_launch_probe(const char *program, int timeout_ms,
		    struct gw_qemu_probe *p,
		    struct gw_error *err) GW_MUST_CHECK;

/* Where the agent is: beside the running program, else where it was
 * installed. Return: 0 or -ENOENT. */
int gw_launch_find_agent(char path[PATH_MAX],
			 struct gw_error *err) GW_MUST_CHECK;

#endif
