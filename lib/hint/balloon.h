/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * balloon.h - the device's side of virtio-balloon's free page hinting, for a
 * VMM that embeds godwit and has that device (virtio 1.2, 5.5.6.6; feature
 * VIRTIO_BALLOON_F_FREE_PAGE_HINT). It knows no virtqueue: the VMM feeds it
 * the elements of the free page queue in order, and shows the driver the
 * configuration field free_page_hint_cmd_id as gw_balloon_cmd_id() has it.
 *
 *	device			driver
 *	cmd_id = N	->			begin
 *			<-	out: N		reports begin
 *			<-	in: page range	it is kept for the device...
 *			<-	...
 *			<-	out: STOP	that was all
 *	cmd_id = STOP	->			stop: the bulk pass is over
 *	cmd_id = DONE	->			...until here: the driver may use
 *						its ranges again
 *
 * Drivers also take pages back at any time, when memory is short. That is
 * sound: what they write then some scan reports (hint/hint.h).
 *
 * begin, stop and done: one thread. The elements: one thread, maybe another.
 * cmd_id: any.
 */
#ifndef GW_HINT_BALLOON_H
#define GW_HINT_BALLOON_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hint/hint.h"

#define GW_BALLOON_CMD_STOP 0u
#define GW_BALLOON_CMD_DONE 1u

struct gw_balloon_ops {
	/* cmd_id changed: raise a configuration interrupt. Called by begin,
	 * stop and done. May be NULL. */
	void (*config_changed)(void *arg);
	/*
	 * Where is guest physical @addr? The name of the RAM block in @block,
	 * the place in it in *@offset, and how much of @len lies there in one
	 * piece. Return: that, 0: no memory.
	 */
	uint64_t (*map)(void *arg, uint64_t addr, uint64_t len,
			const char **block, uint64_t *offset);
};

struct gw_balloon_stats {
	uint64_t ranges;  /* taken as hints */
	uint64_t ignored; /* elements out of place, of the wrong size, no RAM */
};

struct gw_balloon {
	const struct gw_balloon_ops *ops;
	void *arg;
	pthread_mutex_t using; /* held while hints are given; before lock */
	pthread_mutex_t lock;
	/* guarded by lock */
	uint32_t cmd_id;  /* what the driver reads */
	struct gw_hint *hint; /* of the operation; NULL: none */
	uint32_t wanted;  /* the window that is open; 0: none */
	bool started;	  /* the driver answers to it */
	bool poisoned;
	struct gw_balloon_stats stats;
};

void gw_balloon_init(struct gw_balloon *b, const struct gw_balloon_ops *ops,
		     void *arg);
void gw_balloon_fini(struct gw_balloon *b);

/* The window @id of @hint was opened: ask the driver. */
void gw_balloon_begin(struct gw_balloon *b, struct gw_hint *hint, uint32_t id);
/* The bulk pass is over: no more. */
void gw_balloon_stop(struct gw_balloon *b);
/* The migration is over: the driver has its pages back. The hint object is not
 * touched any more when this returns. */
void gw_balloon_done(struct gw_balloon *b);

uint32_t gw_balloon_cmd_id(struct gw_balloon *b);

/* The driver filled @buf for us: a command id, little endian. */
void gw_balloon_out(struct gw_balloon *b, const void *buf, size_t len);

/* The driver gives us the range: a free one. Nothing is written to it. */
void gw_balloon_in(struct gw_balloon *b, uint64_t addr, uint64_t len);

/*
 * The driver wrote poison_val (VIRTIO_BALLOON_F_PAGE_POISON) and expects it in
 * free pages. The destination has zeros there: other values end the use of
 * hints until the device is reset.
 */
void gw_balloon_poison(struct gw_balloon *b, uint32_t value);

/* The driver reset the device. */
void gw_balloon_reset(struct gw_balloon *b);

void gw_balloon_get_stats(struct gw_balloon *b, struct gw_balloon_stats *s);

#endif
