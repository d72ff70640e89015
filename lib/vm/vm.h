/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vm.h - where a VM lives, behind one ops struct: an unmodified QEMU
 * (qemu/), or threads that write memory by a seed (synthetic.c).
 *
 * The engines (source/, dest/) call these in the order below, from one
 * thread, and know nothing of QMP. Every call that waits takes its time limits
 * from the driver and is ended by vm->cancel where that is safe.
 *
 *	source:	check  [describe]  track  [drain, throttle]*  save_begin  save_poll*
 *		(RAM is final)  save_read*  then save_commit  save_release
 *		save_done  [quit], or save_abort at any point
 *	dest:	check  load_begin  load_write*  load_finish  [run]  stay, or
 *		load_abort at any point before run
 */
#ifndef GW_VM_VM_H
#define GW_VM_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cancel.h"
#include "base/error.h"
#include "hint/hint.h"
#include "image/sink.h"
#include "ram/block.h"
#include "track/track.h"
#include "wire/disks.h"

struct gw_vm;

struct gw_vm_info {
	char name[64];
	char vmm[64];	  /* "QEMU 10.0.2" */
	char machine[64]; /* canonical machine type, "pc-i440fx-10.0" */
	char arch[32];	  /* "x86_64" */
	uint8_t uuid[16]; /* zeros: none */
	bool running;	  /* vCPUs run now (false: paused) */
	bool waiting;	  /* waits for an incoming migration */
	bool direct_io;	  /* a disk pins guest pages: drain after each scan */
};

/* Bytes of the device state; called as they come. Return: 0 or -errno. */
typedef int (*gw_vm_sink)(void *arg, const void *p, size_t len,
			  struct gw_error *err);

struct gw_vm_disks_now {
	uint64_t done, total; /* bytes; total grows as the guest writes */
	bool ready; /* the copies follow what the guest writes */
	bool ended; /* after complete(): they are whole, nothing follows */
};

/*
 * Disks that both sides do not share, copied by the VMMs (in QEMU: mirror
 * jobs into NBD exports) while the VM runs. The engines carry the bytes.
 *
 *	source:	list  [open  copy](each)  poll*  [speed]*  [settle]
 *		(the VM stands)  complete  poll*  end, or abort at any point
 *	dest:	serve  connect(each)  stop
 */
struct gw_vm_disk_ops {
	/* Those that the guest can write, in the VMM's order. */
	int (*list)(struct gw_vm *vm, bool incremental, struct gw_disks *d,
		    struct gw_error *err);
	/* A socket over which disk @i will go; our end. */
	int (*open)(struct gw_vm *vm, uint32_t i, struct gw_error *err);
	/* Begin; somebody carries the bytes of open()'s socket. @speed:
	 * bytes/s, 0: no limit. */
	int (*copy)(struct gw_vm *vm, uint32_t i, uint64_t speed,
		    struct gw_error *err);
	/* Never waits; a copy that failed is an error. */
	int (*poll)(struct gw_vm *vm, struct gw_vm_disks_now *now,
		    struct gw_error *err);
	/* For each of them. */
	int (*speed)(struct gw_vm *vm, uint64_t speed, struct gw_error *err);
	/* From now on the guest's writes wait for the destination, so that
	 * what is left only shrinks. -ENOSYS: this VMM cannot. */
	int (*settle)(struct gw_vm *vm, struct gw_error *err);
	/* The VM stands and all are ready: copy the rest. Does not wait. */
	int (*complete)(struct gw_vm *vm, struct gw_error *err);
	/* All have ended: take down what was set up. */
	int (*end)(struct gw_vm *vm, struct gw_error *err);
	/* The same, whatever state they are in; the VM does not notice. */
	void (*abort)(struct gw_vm *vm);

	/* Let the waiting VMM take in what is written to @d. Names the disk
	 * that does not fit and the remedy. */
	int (*serve)(struct gw_vm *vm, const struct gw_disks *d,
		     struct gw_error *err);
	/* A connection to it, for one disk. A descriptor. */
	int (*connect)(struct gw_vm *vm, struct gw_error *err);
	/* The disks are the VM's alone again. Idempotent. */
	int (*stop)(struct gw_vm *vm, struct gw_error *err);
};

/* What a checkpoint's device state is made of. A VMM loads the two parts one
 * behind the other; the first is the same in many checkpoints. */
struct gw_vm_state {
	const void *base, *part; /* the driver's, until the next state_begin */
	size_t nbase, npart;	 /* nbase may be 0 */
	uint64_t generation;	 /* of base: another number, another content */
};

struct gw_vm_checkpoint_options {
	bool hold_network; /* what the guest sends waits for release() */
	bool fence; /* false: no lease, and when this process ends the VM goes
		     * on, also if it stood */
};

/*
 * A VM of which a copy is taken again and again. The engine calls
 *
 *	begin  ( [lease]  stop  state_begin  [it reads RAM]  state_end  cont
 *		 [release] )*  end
 *
 * from its thread, but lease(), which may come from any.
 *
 * The VMM must not run on unnoticed when this process has died or stands
 * still, since somebody else may take over then: from begin() to end() a
 * process of its own (in QEMU: the guardian) stops the VM as soon as this
 * process ends, or when the lease runs out.
 */
struct gw_vm_checkpoint_ops {
	int (*begin)(struct gw_vm *vm,
		     const struct gw_vm_checkpoint_options *o,
		     struct gw_error *err);
	/* The VM may run until @until_ns (gw_now_ns() clock), and then stops
	 * unless that was moved on. INT64_MAX: no limit. Until the first call
	 * there is none. Any thread. -EPERM: it was stopped already. -EPIPE:
	 * who would stop it was killed. */
	int (*lease)(struct gw_vm *vm, int64_t until_ns, struct gw_error *err);
	/* vCPUs stand and transfers have landed when it returns; sets
	 * vm->stopped_ns. */
	int (*stop)(struct gw_vm *vm, struct gw_error *err);
	/* Have the device state written; returns at once. */
	int (*state_begin)(struct gw_vm *vm, struct gw_error *err);
	int (*state_end)(struct gw_vm *vm, struct gw_vm_state *s,
			 struct gw_error *err);
	/* Runs on, if it ran at begin(). Network output from here on belongs
	 * to the next checkpoint. -EPERM: the lease had run out (fenced). */
	int (*cont)(struct gw_vm *vm, struct gw_error *err);
	/* The last checkpoint is safe: output from before its stop() may go. */
	int (*release)(struct gw_vm *vm, struct gw_error *err);
	/*
	 * Over. @run: it goes on here as before begin(), and what was held
	 * goes out, also when it was fenced: somebody vouches for it now.
	 * Otherwise it stays stopped, nothing goes out, and the
	 * note @why is left for `resume` and `list`. Idempotent.
	 */
	int (*end)(struct gw_vm *vm, bool run, const char *why,
		   struct gw_error *err);
};

struct gw_vm_ops {
	const char *kind;

	/* Can this VM be moved away from (@source) or into here? Names the
	 * device or setting that stands in the way and the remedy. */
	int (*check)(struct gw_vm *vm, bool source, struct gw_error *err);

	/* What an image of this VM begins with: machine type, and every block
	 * that QEMU migrates, also those outside vm->ram. The VM runs on; the
	 * blocks may change until it stands. */
	int (*describe)(struct gw_vm *vm, struct gw_image_desc *d,
			struct gw_error *err);

	/* A tracker for vm->ram, @kind as in gw_track_open(). Not started. */
	int (*track)(struct gw_vm *vm, const char *kind, struct gw_track **t,
		     struct gw_error *err);

	/* Every transfer that pinned a page before the call has landed when
	 * it returns. vCPUs keep running. */
	int (*drain)(struct gw_vm *vm, struct gw_error *err);

	/* Optional. Take @percent (0...99) of the time from the vCPUs while
	 * the VM runs; 0 ends that at once, and does not fail. It ends too
	 * when this process does, and with close(). On failure they run at
	 * full speed. Stopping the VM is not slow meanwhile. */
	int (*throttle)(struct gw_vm *vm, unsigned int percent,
			struct gw_error *err);
	/* Optional: get ready to ask the guest which pages are free, as hints
	 * to @h. Nothing is asked yet. -ENOTSUP and so on: it cannot be
	 * asked. */
	int (*hint_begin)(struct gw_vm *vm, struct gw_hint *h,
			  struct gw_error *err);
	/* Ask; answers come from any thread as hints with @id. 0: no more. */
	void (*hint_ask)(struct gw_vm *vm, uint32_t id);
	void (*hint_end)(struct gw_vm *vm); /* idempotent */

	/* Ask the VMM to stop the VM and get its device state ready. Returns
	 * at once. */
	int (*save_begin)(struct gw_vm *vm, struct gw_error *err);

	/* Wait up to @timeout_ms. *@stopped: the VM stands, RAM is final. */
	int (*save_poll)(struct gw_vm *vm, int timeout_ms, bool *stopped,
			 struct gw_error *err);

	/* Device state. !@final: what is there already, without waiting (the
	 * VM may still run). @final, only after *stopped: all the rest, up to
	 * its end. */
	int (*save_read)(struct gw_vm *vm, bool final, gw_vm_sink sink,
			 void *arg, struct gw_error *err);

	/* The destination has it: give the VM up. Return: 0 when this side
	 * can never run it again by itself; otherwise @err says whether it
	 * runs here (GW_FAULT_FAILED) or nobody knows (GW_FAULT_UNCERTAIN). */
	int (*save_commit)(struct gw_vm *vm, struct gw_error *err);

	/* Right before the peer is told to run it: from here on nothing on
	 * this side may run the VM by itself, also should this process die. */
	void (*save_release)(struct gw_vm *vm);

	/* The peer said that it runs there. */
	void (*save_done)(struct gw_vm *vm);

	/* The VM was stored and given up: end the VMM too. */
	int (*quit)(struct gw_vm *vm, struct gw_error *err);

	/* The VM goes on here, as it was. Idempotent, also without
	 * save_begin. Return: 0 when that was confirmed, -ESRCH when the VMM
	 * has ended, and the VM with it. */
	int (*save_abort)(struct gw_vm *vm, struct gw_error *err);

	/* All RAM is in place: expect device state. load_write only collects
	 * and checks; the VMM sees nothing of it before load_finish. */
	int (*load_begin)(struct gw_vm *vm, struct gw_error *err);
	int (*load_write)(struct gw_vm *vm, const void *p, size_t len,
			  struct gw_error *err);
	/* Return: 0 when all is loaded and the VM stands paused. */
	int (*load_finish)(struct gw_vm *vm, struct gw_error *err);
	/* What was loaded must never run here; the VMM stays alive.
	 * Return: 0 when it is certain that it does not run. */
	int (*load_abort)(struct gw_vm *vm, struct gw_error *err);

	/* Run the loaded VM. GW_FAULT_UNCERTAIN: it may have run. */
	int (*run)(struct gw_vm *vm, struct gw_error *err);

	/* Optional: the VM stays here, running or paused, and that is
	 * settled. Takes its time: after the peer was told that it runs. */
	void (*stay)(struct gw_vm *vm);

	const struct gw_vm_disk_ops *disks; /* NULL: no disks to copy */
	const struct gw_vm_checkpoint_ops *checkpoint; /* NULL: none possible */

	/* Optional: a fresh VMM in the place of one that waited and ended, or
	 * did not like what it loaded: same name, same command, RAM empty, to
	 * be mapped anew. @vm then is that one. Never while it may run. After
	 * an error only this, load_abort() and close() may follow. */
	int (*replace)(struct gw_vm *vm, struct gw_error *err);

	void (*close)(struct gw_vm *vm); /* frees @vm */
};

struct gw_vm {
	const struct gw_vm_ops *ops;
	struct gw_vm_info info;
	struct gw_ram ram;
	/* set by whoever runs an engine on it */
	const struct gw_cancel *cancel; /* may be NULL */
	char peer[160];			/* for notes and messages */
	/* set by the driver */
	int64_t stopped_ns; /* gw_now_ns() when vCPUs stood still, 0: unknown */
};

static inline void gw_vm_stay(struct gw_vm *vm)
{
	if (vm->ops->stay)
		vm->ops->stay(vm);
}

static inline void gw_vm_close(struct gw_vm *vm)
{
	if (vm)
		vm->ops->close(vm);
}

#endif
