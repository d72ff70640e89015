/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * guardian.h - a process that sets the source's VM going again when the
 * godwit that moves it dies between stopping the VM and telling the
 * destination to run it.
 *
 * QEMU does so by itself only in part: with the death its socket closes, and
 * in status `device` that makes it run on; but in `pre-switchover` it waits
 * for migrate-continue, and once it has read SHUT 0 it is in `postmigrate`:
 * in both the VM would stand for ever (QEMU 7.2, 10.0, 11.1).
 *
 * The guardian is forked before QEMU is asked to stop the VM and waits at a
 * socket whose other end only its godwit has. It
 *
 *	reads a byte		ends. The byte comes before the first byte of
 *				GO, or when the VM was taken back.
 *	reads the end		its godwit died, and GO was never begun: the
 *				destination can not run the VM. It takes quotas
 *				back, ends what
 *				migration QEMU is in, puts the settings back,
 *				runs the VM if it ran, and leaves a note.
 *
 * The kernel keeps that order, whatever kills the godwit. The guardian holds
 * the move lock, so nobody else moves or resumes the VM meanwhile, and no
 * other descriptor: channel, tracker and device socket end with the godwit.
 *
 * Before that, when vCPUs are slowed down, there is one already: QEMU has not
 * been asked for anything then, and only quotas are to be taken back.
 *
 * In native mode (native.h) there is no GO: the destination runs the VM when
 * it has all of it. There the guardian is told when that begins to be possible
 * and has a copy of the socket that QEMU writes to. Should its godwit die after
 * that, it says SHUT 0 to QEMU, which then does not run the VM on: an operator
 * decides. (Closing the socket would make QEMU run it.)
 */
#ifndef GW_VM_QEMU_GUARDIAN_H
#define GW_VM_QEMU_GUARDIAN_H

#include <sys/types.h>

#include "base/error.h"

struct gw_qemu;

/*
 * What such a process does: @fd is the socket to its godwit (pid @godwit).
 * First it sends a byte 0, or the reason (text) why it cannot do its work; it
 * ends with the function. It has only the descriptors named above.
 */
typedef void gw_guardian_task(struct gw_qemu *q, int fd, pid_t godwit);

/* Fork one; *@fd: our end of the socket. */
int gw_guardian_fork(struct gw_qemu *q, gw_guardian_task *task, int *fd,
		     struct gw_error *err) GW_MUST_CHECK;

/* Fork it. @q: settings are saved, QEMU's migration has not begun. One that
 * watched quotas ends. */
int gw_guardian_start(struct gw_qemu *q, struct gw_error *err) GW_MUST_CHECK;

/* One that takes quotas back and does nothing else, unless there is one. */
int gw_guardian_watch_quotas(struct gw_qemu *q,
			     struct gw_error *err) GW_MUST_CHECK;

/* Native mode: from here on the destination may have the VM. */
int gw_guardian_hand_over(struct gw_qemu *q,
			  struct gw_error *err) GW_MUST_CHECK;

/* It has nothing to do any more. Idempotent. */
void gw_guardian_dismiss(struct gw_qemu *q);
/* The same, for a VM that is given up: it still takes quotas back, so that
 * they go also if its godwit is killed from here on. */
void gw_guardian_release(struct gw_qemu *q);

#endif
