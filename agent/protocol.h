/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * protocol.h - what is said between the agent inside QEMU and its clients.
 * Depends on nothing; both sides include it, so they cannot disagree.
 *
 * A SOCK_SEQPACKET unix socket. Every request is one packet, a struct
 * gw_agent_request; every request has one reply packet: the op's reply struct
 * when head.status is 0, the bare head otherwise. Host byte order: both ends
 * are on one machine. A connection may carry any number of requests, several
 * connections may exist at a time and one after the other.
 *
 * Versions. An agent lives as long as its VM and is often older than the
 * client. HELLO is the same in all versions: the client names the highest
 * version it knows, the reply's head names the one both know, and every later
 * request carries that one. The sizes of structs belong to their version.
 *
 * Who holds a userfaultfd is decided by the connection it was asked on:
 * - RELEASE ends it in good order;
 * - a connection that ends without RELEASE leaves it orphaned. The agent's
 *   duplicate keeps it armed: whatever waits on it waits, nothing is lost,
 *   and the next client that asks for the same purpose gets the same one.
 *   GW_AGENT_SYNC alone is disarmed then, because a guest waits for its
 *   handler and nothing is lost by ending write-protection.
 *
 * Status values are errno numbers of Linux:
 *	EACCES		the peer's uid may not talk to this agent (op 0, sent
 *			on accept, then the connection is closed)
 *	EUSERS		too many connections (op 0, as above)
 *	EPROTO		not a request: wrong size or magic
 *	EPROTONOSUPPORT	version not known; head.version is the agent's
 *	ENOSYS		op not known
 *	EINVAL		purpose not known, no acceptable kind named
 *	EBUSY		another open connection holds that purpose; its
 *			process is head.holder
 *	ENOENT		RELEASE of what nobody holds
 *	EPERM, ENOSYS, EMFILE, ...	why no userfaultfd can be had
 */
#ifndef GW_AGENT_PROTOCOL_H
#define GW_AGENT_PROTOCOL_H

#include <stdint.h>

#define GW_AGENT_MAGIC	 0x67617767u /* "gwag" in memory on little endian */
#define GW_AGENT_VERSION 1

/* The environment variable that names the socket's path. */
#define GW_AGENT_ENV "GODWIT_AGENT"

enum gw_agent_op {
	GW_AGENT_HELLO = 1,
	GW_AGENT_UFFD = 2,
	GW_AGENT_RELEASE = 3,
	GW_AGENT_RAM = 4,
};

/* Purposes: one userfaultfd each. 1 and 2 are those of track/track.h. */
enum gw_agent_purpose {
	GW_AGENT_ASYNC = 1, /* asynchronous write-protection */
	GW_AGENT_SYNC = 2,  /* write-protect faults wait for the client */
	GW_AGENT_PLACE = 3, /* missing pages wait for the client (postcopy) */
	GW_AGENT_PURPOSES = 4, /* array size: purposes are 1 to 3 */
};

/* Kinds of userfaultfd, a bit mask. */
#define GW_AGENT_FULL	   1u /* also faults inside the kernel (KVM, I/O) */
#define GW_AGENT_USER_MODE 2u /* UFFD_USER_MODE_ONLY; enough for ASYNC */

/*
 * Every request. UFFD may carry one file descriptor of /dev/userfaultfd,
 * opened by a client that may: the agent then creates through it.
 */
struct gw_agent_request {
	uint32_t magic;	  /* GW_AGENT_MAGIC */
	uint16_t version; /* HELLO: highest known; else the agreed one */
	uint16_t op;	  /* enum gw_agent_op */
	uint32_t purpose; /* UFFD, RELEASE: enum gw_agent_purpose; else 0 */
	uint32_t kinds;	  /* UFFD: acceptable kinds, mask; else 0 */
	uint64_t from;	  /* RAM: leave out what begins below this address */
};

struct gw_agent_head {
	uint32_t magic;	  /* GW_AGENT_MAGIC */
	uint16_t version; /* HELLO: agreed version; else the agent's */
	uint16_t op;	  /* of the request; 0: not an answer to one */
	int32_t status;	  /* 0 or an errno number, > 0 */
	uint32_t holder;  /* EBUSY: pid of the client in the way; else 0 */
};

struct gw_agent_hello_reply {
	struct gw_agent_head head;
	uint32_t pid;	     /* of QEMU, as QEMU sees it */
	uint32_t euid;	     /* of QEMU now */
	uint32_t kinds;	     /* a new UFFD could be of these kinds; mask.
			      * Without what a passed-in fd would allow. */
	uint32_t held;	     /* bit 1 << purpose: given out, not released */
	uint32_t orphaned;   /* those of @held whose client is gone */
	uint32_t reserved;   /* 0 */
	char build[32];	     /* godwit's version, NUL terminated */
};

/* Carries the userfaultfd: O_NONBLOCK; a duplicate stays with the agent. */
struct gw_agent_uffd_reply {
	struct gw_agent_head head;
	uint32_t kind; /* one bit of the kinds */
	uint32_t used; /* 1: UFFDIO_API was done by an earlier holder, with
			* the features of this purpose */
};

/* RELEASE is answered by the bare head. */

#define GW_AGENT_MAPS	 16		/* mappings, and fds, per reply */
#define GW_AGENT_MAP_MIN (1024 * 1024u) /* bytes; smaller ones are left out */

/* One shared file mapping in QEMU's address space. */
struct gw_agent_map {
	uint64_t addr;	    /* in QEMU; page aligned */
	uint64_t length;    /* bytes */
	uint64_t offset;    /* bytes, in the file, of addr */
	uint64_t ino;	    /* st_ino of the file */
	uint32_t dev_major; /* st_dev of the file */
	uint32_t dev_minor;
	uint32_t page_size; /* bytes, of the backing; 0: not known */
	int32_t fd_index;   /* which fd of this packet; -1: QEMU has no open
			     * descriptor of that file */
};

/* Carries @nfds file descriptors, one per distinct file. */
struct gw_agent_ram_reply {
	struct gw_agent_head head;
	uint32_t nmaps; /* at most GW_AGENT_MAPS */
	uint32_t nfds;	/* at most GW_AGENT_MAPS */
	uint64_t next;	/* `from` of the next request; 0: that was all */
	struct gw_agent_map map[GW_AGENT_MAPS]; /* ascending addresses */
};

_Static_assert(sizeof(struct gw_agent_request) == 24, "ABI");
_Static_assert(sizeof(struct gw_agent_head) == 16, "ABI");
_Static_assert(sizeof(struct gw_agent_hello_reply) == 72, "ABI");
_Static_assert(sizeof(struct gw_agent_uffd_reply) == 24, "ABI");
_Static_assert(sizeof(struct gw_agent_map) == 48, "ABI");
_Static_assert(sizeof(struct gw_agent_ram_reply) == 32 + 16 * 48, "ABI");

#endif
