/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rundir.h - the runtime folder: one folder per VM that `godwit run` started,
 * with its description, sockets and locks. It starts no VM and speaks to none.
 *
 *	BASE/NAME/lock		locked for as long as that QEMU lives: QEMU
 *				inherits the descriptor, -daemonize included
 *	BASE/NAME/vm.json	struct gw_rundir_vm
 *	BASE/NAME/monitors.cfg	what QEMU reads its monitors from
 *	BASE/NAME/qmp.sock	QMP, for the one godwit that moves the VM
 *	BASE/NAME/status.sock	QMP, for list
 *	BASE/NAME/front.sock	QMP, for what godwit monitor passes through
 *	BASE/NAME/guard.sock	QMP, for what stops the VM when it must (fence.h)
 *	BASE/NAME/agent.sock	the agent in QEMU
 *	BASE/NAME/free-pages.sock  the agent in the guest, with a port for it
 *	BASE/NAME/move.lock	locked by, and with the pid of, who moves it
 *	BASE/NAME/handover.json	struct gw_note
 *	BASE/NAME/standby.sock	who keeps checkpoints for it (colo/standby.h)
 *	BASE/NAME/nbd.sock	the disks of a VM that arrives (disks.h)
 *
 * BASE is $GODWIT_RUNTIME_DIR, else $XDG_RUNTIME_DIR/godwit, else
 * /run/godwit; it and all in it is for its owner only. A folder whose lock is
 * free belongs to a VM that ended: whoever comes across it removes it, unless
 * somebody still holds its move.lock.
 *
 * Locks are open-file-description locks (F_OFD_SETLK): like flock's they live
 * as long as any process has the descriptor, and unlike those they can be
 * looked at without being taken. Who gets a lock makes sure that the file is
 * still the one in the folder; who removes a folder holds its lock.
 */
#ifndef GW_VM_QEMU_RUNDIR_H
#define GW_VM_QEMU_RUNDIR_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "ram/block.h"

#define GW_VM_NAME_MAX	 48
#define GW_SUN_PATH_SIZE 108 /* sizeof(sockaddr_un.sun_path) */

/* Where the sockets of one VM are. */
struct gw_rundir_paths {
	char dir[GW_SUN_PATH_SIZE];
	char qmp[GW_SUN_PATH_SIZE];
	char status[GW_SUN_PATH_SIZE];
	char front[GW_SUN_PATH_SIZE];
	char guard[GW_SUN_PATH_SIZE];
	char agent[GW_SUN_PATH_SIZE];
};

struct gw_rundir_block {
	char id[GW_IDSTR_MAX + 1];
	uint64_t size; /* bytes; 0: that of the user's file */
};

/* A VM as vm.json describes it. Everything is as it was at its start. */
struct gw_rundir_vm {
	char name[GW_VM_NAME_MAX + 1];
	char version[32]; /* godwit's that started it */
	int64_t created;  /* seconds since 1970 */
	pid_t pid;	  /* of run; QEMU's too unless it daemonized */
	char binary[PATH_MAX];
	json_t *argv; /* list of strings as run, NULL: unknown. Owned */
	/* what `run` was told, to do it again; NULL: unknown. Owned */
	json_t *command;
	char cwd[PATH_MAX];
	char hugepages[16]; /* "none", "reserved", "transparent" */
	bool free_page_agent;
	uint64_t memory_option; /* bytes; 0: none */
	char machine[64];
	char qemu[64]; /* "10.0.2" */
	char agent[16]; /* "preload", "plugin" */
	uint64_t memory; /* bytes */
	struct gw_rundir_block block[GW_RAM_MAX_BLOCKS];
	int nblocks;
	bool incoming;
	struct gw_rundir_paths path;
};

/* What an engine wants to be known should it die in the middle. */
struct gw_note {
	char phase[32]; /* "moving", "committing", "uncertain", "done" */
	char role[16];	/* "source", "destination" */
	char peer[256]; /* URI */
	int64_t time;	/* seconds since 1970 */
	char text[512]; /* for the operator, one line */
};

/* A name that this process claimed. */
struct gw_rundir_claim {
	int lock_fd; /* -1: none */
	struct gw_rundir_paths path;
};

/* Return: 0, or -EINVAL (GW_FAULT_USAGE) with what a name may look like. */
int gw_rundir_check_name(const char *name, struct gw_error *err) GW_MUST_CHECK;

/* The base folder; @create makes it. Return: 0, -ENOENT, or another -errno if
 * it is not ours alone. */
int gw_rundir_base(char base[PATH_MAX], bool create,
		   struct gw_error *err) GW_MUST_CHECK;

/* The paths a VM @name has or would have; looks at no file.
 * Return: 0 or -ENAMETOOLONG (sockets have a limit) with the remedy. */
int gw_rundir_paths(const char *name, struct gw_rundir_paths *p,
		    struct gw_error *err) GW_MUST_CHECK;

/*
 * Make the folder of @name and take its lock. Of several processes that try
 * at the same time exactly one gets it. What an ended VM left is removed.
 * Return: 0, or -EEXIST: a VM of that name lives.
 */
int gw_rundir_claim(const char *name, struct gw_rundir_claim *c,
		    struct gw_error *err) GW_MUST_CHECK;

/* The same for whoever holds the move.lock of a VM that ended: only what was
 * its QEMU's is removed. */
int gw_rundir_reclaim(const char *name, struct gw_rundir_claim *c,
		      struct gw_error *err) GW_MUST_CHECK;

/* Let the lock outlive an exec; from here on it ends with that program. */
int gw_rundir_inherit(struct gw_rundir_claim *c,
		      struct gw_error *err) GW_MUST_CHECK;

/* Give the name back and remove the folder. Idempotent. */
void gw_rundir_release(struct gw_rundir_claim *c);

/* Write vm.json; @vm->path is not looked at. */
int gw_rundir_write_vm(const struct gw_rundir_claim *c,
		       const struct gw_rundir_vm *vm,
		       struct gw_error *err) GW_MUST_CHECK;

/* The living VM @name. Return: 0 with @vm (gw_rundir_vm_fini() it), or
 * -ENOENT; the message lists those that there are. */
int gw_rundir_open(const char *name, struct gw_rundir_vm *vm,
		   struct gw_error *err) GW_MUST_CHECK;

/* The same for whoever holds its move.lock, also when it has ended. */
int gw_rundir_reopen(const char *name, struct gw_rundir_vm *vm,
		     struct gw_error *err) GW_MUST_CHECK;

/* All living VMs by name; folders of ended ones are removed.
 * Return: their number with *@vms to be given to gw_rundir_free(), -errno. */
int gw_rundir_list(struct gw_rundir_vm **vms,
		   struct gw_error *err) GW_MUST_CHECK;
void gw_rundir_free(struct gw_rundir_vm *vms, int n);
void gw_rundir_vm_fini(struct gw_rundir_vm *vm);

/* Does the VM of folder @dir live? */
bool gw_rundir_alive(const char *dir);

/* Be the only one who moves VM @name in @dir. Return: a descriptor to close()
 * afterwards, or -EBUSY: "VM 'x' is being moved by another godwit, pid N". */
int gw_rundir_move_lock(const char *dir, const char *name,
			struct gw_error *err) GW_MUST_CHECK;

/* The hand-over note in @dir. Written atomically and durably in time order;
 * @note->time is set by write. Read: 0, -ENOENT none, -errno. */
int gw_rundir_note_write(const char *dir, struct gw_note *note,
			 struct gw_error *err) GW_MUST_CHECK;
int gw_rundir_note_read(const char *dir, struct gw_note *note,
			struct gw_error *err) GW_MUST_CHECK;
void gw_rundir_note_clear(const char *dir);

/* A VM as the command line names it. */
struct gw_vmref {
	char name[GW_VM_NAME_MAX + 1]; /* empty: by its sockets */
	char qmp[GW_SUN_PATH_SIZE];
	char agent[GW_SUN_PATH_SIZE]; /* empty: none */
	char front[GW_SUN_PATH_SIZE]; /* a second QMP; empty: none */
	char guard[GW_SUN_PATH_SIZE]; /* one for fence.h; empty: none */
	char dir[GW_SUN_PATH_SIZE];   /* empty: none */
};

/* "NAME" of a living VM, or "qmp=PATH[,agent=PATH][,front=PATH]" (a comma in a
 * path is doubled). */
int gw_vmref_parse(const char *s, struct gw_vmref *ref,
		   struct gw_error *err) GW_MUST_CHECK;

#endif
