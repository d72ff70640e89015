/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * choice.h - compress auto: which pages are worth it? A channel's thread
 * either computes or writes. A byte written takes `link` ns there, one
 * compressed `work` ns and then ratio * link. So a class of pages is compressed
 * when work < link * (1 - ratio), with some margin.
 *
 *	ratio, work	of each class: a few pages now and then while it is not
 *			compressed, all of them while it is
 *	link		while nothing is compressed. Compressed bytes may leave the
 *			link idle and say less: so from time to time everything
 *			goes plain for a moment (a probe), but for what is too much
 *			for the link even so. A bandwidth limit is a link too.
 *
 * Any thread; gw_now_ns() is the caller's, so that a test can have its own.
 */
#ifndef GW_SOURCE_CHOICE_H
#define GW_SOURCE_CHOICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gw_page_class {
	GW_PAGES_FIRST,	   /* in the first pass */
	GW_PAGES_CHANGED,  /* sent before, and written since */
	GW_PAGES_OVERFLOW, /* their delta was too long */
	GW_PAGE_CLASSES,
};

enum gw_choose { GW_CHOOSE_PLAIN, GW_CHOOSE_COMPRESS, GW_CHOOSE_SAMPLE };

#define GW_CHOICE_SAMPLE 16u /* pages to compress for a sample */

struct gw_choice {
	unsigned int nthreads; /* set once */
	/* guarded by lock */
	pthread_mutex_t lock;
	struct gw_class {
		double ratio, work; /* work: ns per byte, in one thread */
		bool known, on;
		uint32_t until_sample, interval; /* in calls */
	} class[GW_PAGE_CLASSES];
	double link, limit; /* ns per byte of one thread; 0: none known */
	/* what was written since the last look, or in the probe, of which the
	 * first `fill` bytes only fill the sockets' buffers */
	uint64_t bytes, fill;
	int64_t ns;
	bool probing;
	int64_t probe_at, probe_every, since_ns;
};

void gw_choice_init(struct gw_choice *c, unsigned int nthreads, int64_t now);

/* What to do with the next pages of @class. */
enum gw_choose gw_choice_ask(struct gw_choice *c, enum gw_page_class class,
			     int64_t now);

/* @in bytes of @class became @out in @ns. */
void gw_choice_compressed(struct gw_choice *c, enum gw_page_class class,
			  uint64_t in, uint64_t out, int64_t ns);

/* @bytes were written in @ns; @plain: none of them compressed. */
void gw_choice_wrote(struct gw_choice *c, bool plain, uint64_t bytes,
		     int64_t ns, int64_t now);

/* All channels together are held to so many bytes/s; 0: not. */
void gw_choice_limit(struct gw_choice *c, uint64_t bps, int64_t now);

/* What was chosen and why, for people. */
void gw_choice_why(struct gw_choice *c, const char *method, char *text,
		   size_t size);

#endif
