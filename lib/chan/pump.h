/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pump.h - bytes go from one channel to another and back, unseen, until both
 * have ended. A thread per direction: each waits for one side only, so that a
 * slow one never holds the other up.
 *
 * The end of one side is passed on as an end; when a direction fails, both
 * channels are shut down. @b, the near side, is closed as soon as both
 * directions have ended: a VMM that waits for room in its socket does not hear
 * of a shutdown (QEMU waits for POLLOUT, and POLLHUP is all that comes).
 */
#ifndef GW_CHAN_PUMP_H
#define GW_CHAN_PUMP_H

#include <pthread.h>
#include <stdbool.h>

#include "base/error.h"
#include "chan/chan.h"

struct gw_pump {
	struct gw_chan *a; /* owned once it was started; set once */
	struct gw_chan *b; /* the same; guarded by lock: NULL once closed */
	struct gw_pump_way {
		struct gw_pump *pump;
		struct gw_chan *from, *to;
		uint8_t *buf;
		pthread_t thread;
		bool started;
		uint64_t limit;	 /* atomic; bytes/s, 0: none */
		int64_t paid_ns; /* its thread's: when it may go on */
	} way[2];
	bool open;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t ended;
	int running;	     /* directions */
	struct gw_error err; /* the first failure */
};

/* Takes @a and @b over if it succeeds; @p is zeroed before. */
int gw_pump_start(struct gw_pump *p, struct gw_chan *a, struct gw_chan *b,
		  struct gw_error *err) GW_MUST_CHECK;

/* Has it failed? Return: 0 or -errno with @err. Never waits. */
int gw_pump_check(struct gw_pump *p, struct gw_error *err) GW_MUST_CHECK;

/* Until both directions have ended. Return: 0, -ETIMEDOUT, or as above. */
int gw_pump_wait(struct gw_pump *p, int64_t timeout_ms,
		 struct gw_error *err) GW_MUST_CHECK;

/* From @b to @a at most so many bytes per second; 0: no limit. Any thread. */
void gw_pump_limit(struct gw_pump *p, uint64_t bytes_per_s);

/* No byte more, now; any thread. */
void gw_pump_cut(struct gw_pump *p);

/* The same, wait for the threads and close both. Idempotent. */
void gw_pump_stop(struct gw_pump *p);

#endif
