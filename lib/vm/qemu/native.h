/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * native.h - QEMU migrates the VM by itself, memory and all, into a socket
 * whose other end is ours. No agent and no tracker; devices and memory of any
 * kind that QEMU itself can move. QEMU's side only: who carries the bytes is
 * source/carry.h, what is done when is source/native.h.
 *
 *	check  prepare  start  [wait, query]*  (pre-switchover)
 *	continue  [wait, query]*  (completed)  done
 *	or undo at any point, while the peer cannot have the VM
 *
 * `pause-before-switchover` makes QEMU wait, with the VM stopped, until it is
 * told to go on: up to there the peer cannot have all of the VM.
 *
 * A guardian (guardian.h) stands by. Should this process die before
 * gw_qemu_native_continue(), it sets the VM going again. After that the
 * peer may have the VM: then it tells QEMU that it has (SHUT 0), so that the
 * VM stands still here, and leaves a note for `resume`.
 */
#ifndef GW_VM_QEMU_NATIVE_H
#define GW_VM_QEMU_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vm/vm.h"

struct gw_native_config {
	bool return_path;	   /* the peer can answer */
	uint64_t max_bandwidth;	   /* bytes/s; 0: as QEMU has it */
	int64_t downtime_limit_ms; /* -1: as QEMU has it */
};

/* query-migrate, as far as it is of use. */
struct gw_native_numbers {
	char status[32]; /* "" none */
	char why[512];	 /* error-desc, "" none */
	uint64_t remaining, total;
	uint64_t normal, duplicate; /* pages */
	uint64_t dirty_pages_rate;
	uint32_t pass; /* dirty-sync-count */
	int64_t setup_ms, downtime_ms, expected_downtime_ms; /* -1: unknown */
};

/* Is there a VM that QEMU can move now? vm->info is brought up to date. */
int gw_qemu_native_check(struct gw_vm *vm, struct gw_error *err) GW_MUST_CHECK;

/*
 * Settings, guardian, socket. Return: our end of the socket, which stays the
 * VM's and is to be read from now on, or -errno.
 */
int gw_qemu_native_prepare(struct gw_vm *vm, const struct gw_native_config *c,
			   struct gw_error *err) GW_MUST_CHECK;

/* Begin. Somebody reads the socket. */
int gw_qemu_native_start(struct gw_vm *vm, struct gw_error *err) GW_MUST_CHECK;

/* Wait up to @timeout_ms for news of the migration. Return: 1, 0 none, -errno.
 * Sets vm->stopped_ns. */
int gw_qemu_native_wait(struct gw_vm *vm, int timeout_ms,
			struct gw_error *err) GW_MUST_CHECK;

/*
 * While QEMU writes its device state it answers nothing. So when it says
 * `device` here after gw_qemu_native_continue(), all of it is in the socket.
 */
int gw_qemu_native_query(struct gw_vm *vm, struct gw_native_numbers *n,
			 struct gw_error *err) GW_MUST_CHECK;

/* Out of pre-switchover. From here on the peer may come to have the VM. */
int gw_qemu_native_continue(struct gw_vm *vm,
			    struct gw_error *err) GW_MUST_CHECK;

/* The VM goes on here, as it was. Idempotent, also without prepare. Return: 0
 * confirmed, -ESRCH when QEMU has ended. */
int gw_qemu_native_undo(struct gw_vm *vm, struct gw_error *err) GW_MUST_CHECK;

/* The VM must not run here, as the peer has it or may have it; QEMU may have
 * set it going. Return: 0 when it stands. */
int gw_qemu_native_stop(struct gw_vm *vm, struct gw_error *err) GW_MUST_CHECK;

/* It is over, and the VM is the peer's (@certain) or may be. */
void gw_qemu_native_done(struct gw_vm *vm, bool certain);

/* Let go of the socket; who read it has ended. */
void gw_qemu_native_end(struct gw_vm *vm);

/* What `godwit resume` takes for this VM. */
const char *gw_qemu_native_name(struct gw_vm *vm, char buf[128]);

#endif
