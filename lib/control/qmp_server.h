/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qmp_server.h - a QMP monitor in front of QEMU's own. Commands of migration
 * are godwit's (qmp_cmds.c), everything else goes to QEMU as it came and its
 * answer comes back the same way. QEMU's own MIGRATION events are of its
 * device state alone, and hidden; clients get godwit's.
 *
 * One thread, which waits for nobody: what a client does not read is kept, up
 * to a limit, and then that client is dropped. Operations run in a thread of
 * their own (session.h).
 */
#ifndef GW_CONTROL_QMP_SERVER_H
#define GW_CONTROL_QMP_SERVER_H

#include "base/cancel.h"
#include "base/error.h"
#include "control/front.h"

#define GW_QMP_MAX_CLIENTS 16

struct gw_qmp_server;

struct gw_qmp_server_config {
	const char *vm;	   /* as godwit_vm_open() has it */
	const char *front; /* path of QEMU's monitor that is passed on */
	struct godwit_params params;
	const json_t *capabilities; /* [{"capability", "state"}...], NULL: none */
};

struct gw_qmp_server *gw_qmp_server_new(const struct gw_qmp_server_config *c,
					struct gw_error *err);
/* The same with a connected socket in place of a path. It is taken over. */
struct gw_qmp_server *gw_qmp_server_new_fd(const struct gw_qmp_server_config *c,
					   int fd, struct gw_error *err);
void gw_qmp_server_free(struct gw_qmp_server *s);

/* Listen at the path @path; what an ended one left there is removed. Return: 0
 * or -errno. */
int gw_qmp_server_listen(struct gw_qmp_server *s, const char *path,
			 struct gw_error *err) GW_MUST_CHECK;
/* A client on a connected socket, which is taken over. */
void gw_qmp_server_add(struct gw_qmp_server *s, int fd);

/*
 * Wait for something up to @timeout_ms (negative: no limit) and do it.
 * Return: 0; -ECONNRESET QEMU has ended, another -errno it does not speak QMP.
 */
int gw_qmp_server_step(struct gw_qmp_server *s, int timeout_ms,
		       const struct gw_cancel *cancel,
		       struct gw_error *err) GW_MUST_CHECK;

/* Until @cancel, or QEMU has ended; a migration that runs is cancelled first.
 * Return: 0, or -errno. */
int gw_qmp_server_run(struct gw_qmp_server *s, const struct gw_cancel *cancel,
		      struct gw_error *err) GW_MUST_CHECK;

#endif
