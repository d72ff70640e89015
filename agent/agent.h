/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * agent.h - the parts of the agent among themselves. The agent is a guest in
 * somebody else's process: it uses libc only, allocates nothing once its
 * thread runs, never writes to stdout and never ends the process.
 *
 *	agent.c	 is this QEMU? environment, fork, plugin entry, thread
 *	serve.c	 the socket, connections, requests
 *	uffd.c	 one userfaultfd per purpose
 *	ram.c	 the shared file mappings of this process
 *
 * Threads: all of serve.c, uffd.c and ram.c belongs to the agent's thread
 * once that runs. Before (constructor) and in a fresh child of fork there is
 * only the one thread that calls.
 */
#ifndef GW_AGENT_AGENT_H
#define GW_AGENT_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/protocol.h"

/* The environment variable that makes any program count as QEMU (tests). */
#define AGENT_ENV_ANYWHERE "GODWIT_AGENT_ANYWHERE"

/* agent.c: one line on stderr, "godwit-agent: ...". */
void agent_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* serve.c */

/* Create the socket. Return: 0 or -errno, the reason was said on stderr. */
int serve_listen(const char *path);
/* Serve until *@quit; then everything is closed. */
void serve_loop(int wake_fd, const volatile int *quit);
/* Close the descriptors of listener and connections. Fork's child, or the
 * agent's thread at its end. */
void serve_forget(void);

/* No request is being served between these; held around every fork. */
void serve_lock(void);
void serve_unlock(void);
/* Remove the socket from the file system. */
void serve_unlink(void);

/* uffd.c. @conn is the index of a connection. */

/* Create what may be impossible to create later. */
void uffd_prepare(void);
/*
 * The userfaultfd for @purpose, for @conn to hold; the fd stays ours.
 * @dev: of /dev/userfaultfd, or -1. Return: fd or -errno; on -EBUSY *@holder
 * is the connection in the way.
 */
int uffd_get(unsigned purpose, uint32_t kinds, int dev, int conn,
	     uint32_t *kind, bool *used, int *holder);
/* Return: 0 or -errno, *@holder as above. */
int uffd_release(unsigned purpose, int conn, int *holder);
/* @conn ended without RELEASE. */
void uffd_conn_gone(int conn);
/* Does @conn hold any? */
bool uffd_conn_holds(int conn);
void uffd_status(uint32_t *kinds, uint32_t *held, uint32_t *orphaned);
void uffd_forget(void);

/* ram.c */

/* Open what a later chroot or privilege drop would hide. */
void ram_prepare(void);
void ram_forget(void);
/*
 * Call @fn for each shared file mapping of at least @min bytes from address
 * @from on, neighbours joined; ends when @fn returns false.
 */
typedef bool (*ram_fn)(void *arg, const struct gw_agent_map *map);
int ram_each(uint64_t from, uint64_t min, ram_fn fn, void *arg);
/* A new descriptor of the regular file behind @map, or -1. Sets page_size. */
int ram_open(struct gw_agent_map *map);

#endif
