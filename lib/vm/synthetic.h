/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * synthetic.h - a VM without a VMM: threads that write memory by a seed. The
 * whole engine is tested and benched on it. Its device state is the list of
 * what every page must hold, so a destination can check all of its memory.
 */
#ifndef GW_VM_SYNTHETIC_H
#define GW_VM_SYNTHETIC_H

#include <stdbool.h>
#include <stdint.h>

#include "vm/vm.h"

/* Where a driver call fails, as a VMM would; tests of the hand-over. */
enum gw_synthetic_fault {
	GW_SYNTHETIC_SOUND,
	GW_SYNTHETIC_FAIL_DRAIN,
	GW_SYNTHETIC_FAIL_THROTTLE,
	GW_SYNTHETIC_FAIL_SAVE_BEGIN,
	GW_SYNTHETIC_FAIL_SAVE_READ,
	GW_SYNTHETIC_FAIL_COMMIT,
	GW_SYNTHETIC_FAIL_LOAD,
	GW_SYNTHETIC_FAIL_RUN,
	GW_SYNTHETIC_FAIL_CHECKPOINT_BEGIN,
	GW_SYNTHETIC_FAIL_STOP,
	GW_SYNTHETIC_FAIL_STATE,
	GW_SYNTHETIC_FAIL_CONT,
};

struct gw_synthetic_config {
	const char *name;
	uint64_t seed;
	uint64_t nbytes;       /* RAM of each block, multiple of a page */
	int nblocks;	       /* 1 to 4, named "synthetic.ram0" ... */
	uint64_t populated;    /* pages of each block written before start */
	int nthreads;	       /* writers */
	uint64_t pages_per_s;  /* each writer; 0: as fast as it can */
	uint64_t working_set;  /* pages of each block the writers choose from */
	unsigned int zero_percent; /* of the writes that clear the page */
	unsigned int give_percent; /* of those that give it back instead */
	unsigned int free_percent; /* of the writes that free it instead */
	bool waiting;	       /* a destination */
	/*
	 * A destination whose writers run before anything was loaded and
	 * between two loads, and mark what they write in the blocks' `dirty`.
	 * checkpoint->stop() before each load.
	 */
	bool secondary;
	unsigned int base_every; /* checkpoints with the same state base; 0: all */
	const char *machine;   /* NULL: "synthetic" */
	enum gw_synthetic_fault fault;
};

/* NULL with @err. The writers of a source run at once. */
struct gw_vm *gw_synthetic_open(const struct gw_synthetic_config *c,
				struct gw_error *err);

/* Does every page hold what it must? While paused, or it pauses for it.
 * Return: 0 or -EBADMSG naming the first page. */
int gw_synthetic_check(struct gw_vm *vm, struct gw_error *err) GW_MUST_CHECK;

/* Pages that are given back now; while it stands. */
uint64_t gw_synthetic_given_back(struct gw_vm *vm);
/* Is the page free now? As soon as this returns it may not be any more. */
bool gw_synthetic_is_free(struct gw_vm *vm, int block, uint64_t page);

/* Pages written in all its life, here and where it came from; and how many of
 * them somebody outside has seen (hold_network). */
uint64_t gw_synthetic_writes(struct gw_vm *vm);
uint64_t gw_synthetic_seen(struct gw_vm *vm);

/* Do its writers run now? */
bool gw_synthetic_running(struct gw_vm *vm);

/* Percent of their time that is taken from its writers now. */
unsigned int gw_synthetic_throttled(struct gw_vm *vm);

#endif
