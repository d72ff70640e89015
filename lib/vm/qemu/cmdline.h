/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cmdline.h - from the QEMU command line of a user to one whose VM godwit can
 * move, or to the reasons why not. Pure: it reads no file, asks no QEMU and
 * prints nothing; launch.h does what it says.
 *
 * What changes: RAM that other processes cannot see becomes a
 * memory-backend-file with share=on, on a file without a name (a memfd) that
 * QEMU inherits as descriptor N and opens as /proc/self/fd/N; two QMP
 * monitors and the agent are added; an incoming VM waits. A backend keeps its
 * id, and RAM without one gets the machine's own name for it ("pc.ram"), so
 * that streams and files interchange with a QEMU that was started plainly.
 * Options are appended where QEMU merges repeated ones (-machine, -m): what
 * the user wrote stays as it is.
 *
 * Of the backends only memory-backend-file is skipped by QEMU's
 * x-ignore-shared; memfd and shm are sent in full since 8.2 although they are
 * shared (facts of 10.0.2 and 11.1.3).
 */
#ifndef GW_VM_QEMU_CMDLINE_H
#define GW_VM_QEMU_CMDLINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "ram/block.h"

struct gw_qemu_machine {
	char name[64];	 /* canonical, "pc-i440fx-10.0" */
	char alias[64];	 /* "pc", may be empty */
	char ram_id[64]; /* "pc.ram"; empty: its RAM cannot be a backend */
	bool is_default, deprecated;
};

/* What a QEMU binary says of itself. */
struct gw_qemu_probe {
	int major, minor, micro;
	char package[128];
	char arch[32]; /* "x86_64" */
	struct gw_qemu_machine *machine; /* owned */
	int nmachines;
};

enum gw_agent_mode {
	GW_AGENT_PRELOAD, /* LD_PRELOAD: every QEMU, KVM and TCG */
	GW_AGENT_PLUGIN,  /* -plugin: where the environment is cleared */
};

/* What RAM that is made here is made of; memory.h has a table of them. */
enum gw_hugepages {
	GW_HUGEPAGES_NONE,
	GW_HUGEPAGES_RESERVED,	  /* of hugetlbfs */
	GW_HUGEPAGES_TRANSPARENT, /* of a tmpfs that gives them */
	GW_HUGEPAGES_AUTO, /* in a request: transparent, but for -mem-path */
};

struct gw_cmdline_request {
	const char *dir;	/* the VM's runtime folder, absolute */
	bool incoming;		/* wait for a migration */
	enum gw_hugepages hugepages;
	bool free_page_agent;	/* a port for the one in the guest */
	uint64_t memory;	/* bytes; 0: what the command line says */
	enum gw_agent_mode agent;
	const char *agent_path; /* the agent's shared object */
	const char *preload;	/* LD_PRELOAD of the environment, or NULL */
	int first_fd;		/* descriptors from here on are free */
	const struct gw_qemu_probe *probe;
};

/* One RAM block of the resulting VM. */
struct gw_cmdline_block {
	char id[GW_IDSTR_MAX + 1]; /* QEMU's ramblock idstr */
	uint64_t size;		   /* bytes; 0: that of the user's file */
	int fd;			   /* of the file to be made; -1: user's own */
	enum gw_hugepages hugepages;
	uint64_t huge_size;	   /* reserved: bytes; 0: the system's default */
	const char *like_path;	   /* a folder that decides (-mem-path) */
};

#define GW_CMDLINE_MAX_NOTES 32

struct gw_cmdline {
	char **argv; /* NULL terminated */
	int argc;
	char *env[2];	/* "NAME=VALUE" to set; NULL: none */
	char *monitors; /* content of DIR/monitors.cfg */
	char machine[64];
	uint64_t memory; /* bytes of RAM at start */
	struct gw_cmdline_block block[GW_RAM_MAX_BLOCKS];
	int nblocks;
	bool incoming;

	char *note[GW_CMDLINE_MAX_NOTES]; /* what the user should know */
	int nnotes;
	char *refusal[GW_CMDLINE_MAX_NOTES]; /* reason and remedy */
	int nrefusals;
};

/*
 * @argv: QEMU's program and arguments, NULL terminated; must outlive @out.
 * Return: 0, or -ENOTSUP with the first refusal in @err and all of them in
 * @out, or -EINVAL (GW_FAULT_USAGE) if an option cannot be understood.
 * gw_cmdline_fini(@out) in any case.
 */
int gw_cmdline_rewrite(char *const argv[],
		       const struct gw_cmdline_request *req,
		       struct gw_cmdline *out,
		       struct gw_error *err) GW_MUST_CHECK;
void gw_cmdline_fini(struct gw_cmdline *c);

/* Does QEMU's option @name ("-m", "--machine") take an argument? -1: it is
 * not known here. */
int gw_cmdline_takes_argument(const char *name);

void gw_qemu_probe_fini(struct gw_qemu_probe *p);

#endif
