/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent.h - the client's side of the agent inside QEMU (agent/protocol.h):
 * which files hold the VM's RAM and where QEMU has them mapped, and a
 * userfaultfd of QEMU's process for the trackers.
 *
 * Keep the connection open as long as a userfaultfd got through it is in use:
 * the agent takes its end for the end of the tracking. If this process dies,
 * the agent's duplicate keeps asynchronous tracking armed and the next client
 * gets it again; synchronous tracking is ended so that the guest runs on.
 *
 * Functions on one struct gw_agent may be called from any thread; one request
 * is answered at a time, and none takes longer than the time limit of open.
 */
#ifndef GW_VM_QEMU_AGENT_H
#define GW_VM_QEMU_AGENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cancel.h"
#include "base/error.h"
#include "track/track.h"

struct gw_agent;

/* Kinds of userfaultfd, a mask; the values of agent/protocol.h. */
#define GW_UFFD_FULL	  1u /* also catches faults inside the kernel */
#define GW_UFFD_USER_MODE 2u /* enough for GW_UFFD_TRACK_ASYNC */

struct gw_agent_info {
	pid_t pid;	   /* QEMU's process, in our pid namespace */
	uid_t euid;	   /* QEMU's at the time of the HELLO */
	unsigned version;  /* of the protocol, agreed on */
	unsigned kinds;	   /* GW_UFFD_*: what QEMU can create by itself */
	unsigned held;	   /* 1 << enum gw_uffd_purpose: in use, or left */
	unsigned orphaned; /* those of @held whose client is gone */
	char build[32];	   /* godwit version of the agent */
};

/*
 * Connect to the agent's socket at @path and say hello. A socket that does
 * not exist or does not answer yet is tried again until @timeout_ms (< 0: no
 * limit) have passed; the same limit then holds for every request. @cancel
 * (may be NULL) is not owned and ends waits. Errors name socket and remedy.
 */
int gw_agent_open(const char *path, int timeout_ms,
		  const struct gw_cancel *cancel, struct gw_agent **out,
		  struct gw_error *err) GW_MUST_CHECK;

/* What is not released stays with the agent. NULL is fine. */
void gw_agent_close(struct gw_agent *a);

/* As of the last hello; valid as long as @a. */
const struct gw_agent_info *gw_agent_info(const struct gw_agent *a);

/* Ask again and update gw_agent_info(). */
int gw_agent_hello(struct gw_agent *a, struct gw_error *err) GW_MUST_CHECK;

/* One shared mapping of a file in QEMU's address space, at least 1 MiB. */
struct gw_agent_mapping {
	uint64_t addr;	    /* in QEMU */
	uint64_t length;    /* bytes */
	uint64_t offset;    /* bytes, where in the file addr is */
	dev_t dev;	    /* st_dev, st_ino of the file */
	ino_t ino;
	uint32_t page_size; /* bytes, of the backing; 0: not known */
	int fd;		    /* of that file, read-write if QEMU has it so; one
			     * per file, owned by the struct gw_agent_ram;
			     * -1: QEMU has no descriptor of it */
};

struct gw_agent_ram {
	struct gw_agent_mapping *map; /* ascending addresses */
	unsigned nmaps;
	int *fds; /* the distinct descriptors, O_CLOEXEC */
	unsigned nfds;
};

/* All shared file mappings of QEMU. @ram: gw_agent_ram_fini() when done. */
int gw_agent_ram(struct gw_agent *a, struct gw_agent_ram *ram,
		 struct gw_error *err) GW_MUST_CHECK;
void gw_agent_ram_fini(struct gw_agent_ram *ram);

/*
 * A userfaultfd of QEMU's process for @purpose, one of @kinds (mask of
 * GW_UFFD_*). *@fd is the caller's, O_NONBLOCK and O_CLOEXEC; *@kind and
 * *@used (UFFDIO_API was done already) may be NULL. -EBUSY: another client
 * that is alive has it.
 */
int gw_agent_uffd(struct gw_agent *a, unsigned purpose, unsigned kinds,
		  int *fd, unsigned *kind, bool *used,
		  struct gw_error *err) GW_MUST_CHECK;

/* The purpose is over, nothing is registered any more. Close the fd before. */
int gw_agent_release(struct gw_agent *a, unsigned purpose,
		     struct gw_error *err);

/* The above for trackers: only SYNC insists on a full userfaultfd. Valid as
 * long as @a. */
struct gw_uffd_source gw_agent_uffd_source(struct gw_agent *a);

#endif
