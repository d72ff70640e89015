/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the files of the driver share. */
#ifndef GW_VM_QEMU_INTERNAL_H
#define GW_VM_QEMU_INTERNAL_H

#include <pthread.h>

#include "base/clock.h"
#include "vm/qemu/agent.h"
#include "vm/qemu/disks.h"
#include "vm/qemu/fence.h"
#include "vm/qemu/hintagent.h"
#include "vm/qemu/qmp.h"
#include "vm/qemu/rundir.h"
#include "vm/qemu/state.h"
#include "vm/qemu/throttle.h"
#include "vm/qemu/vm.h"
#include "wire/devstream.h"

#define GW_LOG_MODULE "vm"
#include "base/log.h"
#include "base/moment.h"

/* For a command that QEMU answers at once, however busy the host. */
#define GW_QMP_TIMEOUT_MS 30000

struct gw_qemu {
	struct gw_vm vm;
	struct gw_vmref ref;
	struct gw_qmp *qmp;
	struct gw_agent *agent;
	int move_lock; /* -1: none (attached by sockets) */
	int pidfd;     /* of QEMU, -1: unknown */
	pid_t pid;

	/* settings of QEMU's migration as they were, to be put back */
	json_t *old_capabilities, *old_parameters;

	struct gw_hintagent *hintagent; /* NULL: nobody to ask */
	int guardian; /* socket to it, -1: none; see guardian.h */

	/* source: CPU time taken from the vCPUs, percent; 0: none */
	struct gw_throttle throttle;
	unsigned int throttled;

	/* source: QEMU writes its device state, or natively all, into dev_fd */
	int dev_fd;		/* our end; -1: none */
	bool saving;		/* QMP `migrate` was given */
	bool committed;		/* QEMU said completed */
	pthread_t reader;
	bool reader_runs;
	bool describing; /* the block table is all that is wanted */
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct gw_devstream stream; /* guarded by lock while reader_runs */
	struct gw_error reader_err; /* guarded by lock */
	unsigned int pongs;	    /* sent so far; reader */
	size_t delivered;	    /* bytes given to the sink */

	/* source: checkpoints */
	bool protecting; /* from begin() to end() */
	bool standing;	 /* from stop() to cont() */
	bool ran;	 /* at the last stop() */
	int held;	 /* network backends with filters */
	struct gw_fence fence;
	struct gw_qemu_state state;

	/* destination */
	bool loading; /* QMP `migrate-incoming` was given */

	struct gw_qemu_disks disks;
};

static inline struct gw_qemu *gw_qemu_of(struct gw_vm *vm)
{
	return (struct gw_qemu *)vm;
}

/* vm.c: what belongs to one process of QEMU. init, connect to what q->ref
 * names, disconnect (also after connect failed), and init again. */
void gw_qemu_init(struct gw_qemu *q);
int gw_qemu_connect(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;
void gw_qemu_disconnect(struct gw_qemu *q);
/* "running", "paused", ... into @status[32]. */
int gw_qemu_status(struct gw_qemu *q, char status[32],
		   struct gw_error *err) GW_MUST_CHECK;
/* Has QEMU's process ended? The second waits for that: its sockets close
 * earlier than it ends. */
bool gw_qemu_dead(struct gw_qemu *q);
bool gw_qemu_dies(struct gw_qemu *q, int timeout_ms);
/* Status of query-migrate ("" if none) and its error-desc in @why. */
int gw_qemu_migration(struct gw_qemu *q, char status[32],
		      struct gw_error *why, struct gw_error *err) GW_MUST_CHECK;
/* A socket pair: QEMU gets one end as @name, with a send buffer of @buffer
 * bytes (0: the usual size), we the other. -1 with @err. */
int gw_qemu_pass_socket(struct gw_qemu *q, const char *name, int buffer,
			struct gw_error *err);
/* Leave a note for `resume` and `list`; no-op for a VM without a folder. */
void gw_qemu_note(struct gw_qemu *q, const char *phase, const char *role,
		  const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* settings.c: what is there is kept in @q by the first, once */
int gw_qemu_settings_save(struct gw_qemu *q, bool source,
			  struct gw_error *err) GW_MUST_CHECK;
enum gw_qemu_use { GW_QEMU_SOURCE, GW_QEMU_DEST, GW_QEMU_CHECKPOINT };
int gw_qemu_settings_set(struct gw_qemu *q, enum gw_qemu_use use,
			 struct gw_error *err) GW_MUST_CHECK;
/* The same for native mode (native.h): the user's own stay but for what @c
 * and the hand-over need; what one connection cannot carry is refused. */
struct gw_native_config;
int gw_qemu_settings_native(struct gw_qemu *q, const struct gw_native_config *c,
			    struct gw_error *err) GW_MUST_CHECK;
void gw_qemu_settings_restore(struct gw_qemu *q);

/* save.c */
int gw_qemu_describe(struct gw_vm *vm, struct gw_image_desc *d,
		     struct gw_error *err);
/* When QEMU's event happened, in our clock. */
int64_t gw_qemu_event_time(const struct gw_qmp_event *e);
/* The next event. Return: 1 with the new migration status in @status, 0 for
 * none of interest within @timeout_ms, -errno. Notes when the VM stopped. */
int gw_qemu_next_status(struct gw_qemu *q, int timeout_ms, char status[32],
			struct gw_error *err) GW_MUST_CHECK;
int gw_qemu_save_begin(struct gw_vm *vm, struct gw_error *err);
int gw_qemu_save_poll(struct gw_vm *vm, int timeout_ms, bool *stopped,
		      struct gw_error *err);
int gw_qemu_save_read(struct gw_vm *vm, bool final, gw_vm_sink sink, void *arg,
		      struct gw_error *err);
int gw_qemu_save_commit(struct gw_vm *vm, struct gw_error *err);
void gw_qemu_save_release(struct gw_vm *vm);
void gw_qemu_save_done(struct gw_vm *vm);
int gw_qemu_save_abort(struct gw_vm *vm, struct gw_error *err);
/* What QMP migrate to "fd:godwit-save" will write is read into q->stream, from
 * here to save_end. @buffer as in gw_qemu_pass_socket(). */
int gw_qemu_save_open(struct gw_qemu *q, int buffer,
		      struct gw_error *err) GW_MUST_CHECK;
/* Wait until q->stream is complete. */
int gw_qemu_save_whole(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;
/* Say SHUT 0 and wait until QEMU says completed. */
int gw_qemu_save_give_up(struct gw_qemu *q,
			 struct gw_error *err) GW_MUST_CHECK;
void gw_qemu_save_end(struct gw_qemu *q); /* reader and socket */

/* checkpoint.c */
extern const struct gw_vm_checkpoint_ops gw_qemu_checkpoint_ops;

/* vcpu.c */
int gw_qemu_throttle(struct gw_vm *vm, unsigned int percent,
		     struct gw_error *err);
/* And nothing is left of it, cgroups too. */
void gw_qemu_unthrottle(struct gw_qemu *q);

/* load.c */
int gw_qemu_load_begin(struct gw_vm *vm, struct gw_error *err);
int gw_qemu_load_write(struct gw_vm *vm, const void *p, size_t len,
		       struct gw_error *err);
int gw_qemu_load_finish(struct gw_vm *vm, struct gw_error *err);
int gw_qemu_load_abort(struct gw_vm *vm, struct gw_error *err);
int gw_qemu_run(struct gw_vm *vm, struct gw_error *err);
void gw_qemu_stay(struct gw_vm *vm);

/* replace.c */
int gw_qemu_replace(struct gw_vm *vm, struct gw_error *err);

/* hints.c */
int gw_qemu_hint_begin(struct gw_vm *vm, struct gw_hint *h,
		       struct gw_error *err);
void gw_qemu_hint_ask(struct gw_vm *vm, uint32_t id);
void gw_qemu_hint_end(struct gw_vm *vm);

/* ram.c: which blocks there are, and where */
int gw_qemu_find_ram(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;

/* disks.c */
/* What a godwit that was killed left in this QEMU. */
int gw_qemu_disks_clean(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;
/* The socket's folder, if it is ours alone. */
void gw_qemu_disks_fini(struct gw_qemu *q);

/* check.c */
int gw_qemu_check(struct gw_vm *vm, bool source, struct gw_error *err);

#endif
