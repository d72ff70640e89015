/* SPDX-License-Identifier: BSD-3-Clause */
/* synthetic_internal.h - what synthetic.c and synthetic_checkpoint.c share. */
#ifndef GW_VM_SYNTHETIC_INTERNAL_H
#define GW_VM_SYNTHETIC_INTERNAL_H

#include <pthread.h>

#include "vm/synthetic.h"

#define GW_SYNTHETIC_BLOCKS  4
#define GW_SYNTHETIC_THREADS 16
#define GW_SYNTHETIC_MAGIC   0x67775359u /* "gwSY" */
#define GW_SYNTHETIC_HEAD    20		 /* bytes: magic, seed, writes */

struct synthetic_checkpoint {
	bool begun, ran, hold;
	uint8_t *part; /* of the last state */
	size_t npart;
	uint8_t base[GW_SYNTHETIC_HEAD];
	uint64_t generation, states; /* of the base; taken since begin() */
	/* writes: of the last stop, and seen from outside; atomic */
	uint64_t stopped_at, seen;
	pthread_t thread; /* keeps to the lease */
	bool thread_runs;
	/* guarded by the VM's lock */
	pthread_cond_t moved;
	int64_t until;
	bool fenced, over;
};

struct synthetic {
	struct gw_vm vm;
	struct gw_synthetic_config c;
	uint8_t *mem[GW_SYNTHETIC_BLOCKS]; /* the "VM's own" mapping */
	uint32_t *gen[GW_SYNTHETIC_BLOCKS]; /* what each page holds; 0: never
					     * written */
	uint64_t writes;	  /* atomic */
	unsigned int throttle;	  /* percent; atomic */
	pthread_t thread[GW_SYNTHETIC_THREADS];
	int nthreads;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool run, quit;
	int resting; /* writers that stand still */
	/* device state being loaded */
	uint8_t *state;
	size_t state_len;
	struct synthetic_checkpoint ck;
};

static inline struct synthetic *gw_synthetic_of(struct gw_vm *vm)
{
	return (struct synthetic *)vm;
}

/* The writers stand when it returns, or may run. */
void gw_synthetic_set_run(struct synthetic *s, bool run);
/* The same with the lock held. */
void gw_synthetic_set_run_locked(struct synthetic *s, bool run);
int gw_synthetic_inject(struct synthetic *s, enum gw_synthetic_fault f,
			struct gw_error *err);
/* Head, then a generation (be32) per page and block. While it stands. */
void gw_synthetic_put_head(struct synthetic *s, uint8_t *head);
int gw_synthetic_put_pages(struct synthetic *s, gw_vm_sink sink, void *arg,
			   struct gw_error *err);

/* synthetic_checkpoint.c */
extern const struct gw_vm_checkpoint_ops gw_synthetic_checkpoint_ops;
void gw_synthetic_checkpoint_init(struct synthetic *s);
void gw_synthetic_checkpoint_fini(struct synthetic *s);

#endif
