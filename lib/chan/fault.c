/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fault.c - see fault.h. Every attempt is first cut down to what the faults
 * let through (one "room" in bytes, or a time to wait until), then passed to
 * the channel inside.
 */
#include "chan/fault.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"

#define NEVER	  UINT64_MAX
#define FOREVER	  INT64_MAX
#define FAULT_IOV 64
/* The line of rate= may be this far behind: short sleeps come back late. */
#define RATE_SLACK_NS (20 * GW_NS_PER_MS)

struct side {
	/* set once */
	uint64_t cut, hang, corrupt; /* positions, NEVER without */
	uint64_t delay_ns;
	uint8_t flip; /* the bit of byte corrupt */
	/* owned by the thread of that direction */
	uint64_t pos;	   /* bytes passed so far */
	uint64_t rng;	   /* own state, so that threads do not matter */
	uint64_t chunk;	   /* short=: left of the present piece, so that the
			    * pieces depend on the seed only */
	int64_t pause;	   /* no attempt before this point in time */
	int64_t line_free; /* rate=: when the line is idle again */
	bool delayed;	   /* the wait before this attempt is over */
};

struct fault {
	struct gw_chan base;
	struct gw_chan *inner;
	/* set once */
	uint64_t short_min, short_max; /* 0: no short=; max <= 2^40 */
	uint64_t rate;		       /* 0: no limit */
	uint64_t seed;
	struct side read, write;
	int was_cut; /* atomic */
};

/* --- the specification ------------------------------------------------- */

enum value { SIZE, TIME, RANGE };

static const struct key {
	const char *name;
	enum value value;
	size_t offset;
} keys[] = {
#define KEY(name, value, field) { name, value, offsetof(struct fault, field) }
	KEY("cut-read", SIZE, read.cut),
	KEY("cut-write", SIZE, write.cut),
	KEY("hang-read", SIZE, read.hang),
	KEY("hang-write", SIZE, write.hang),
	KEY("corrupt-read", SIZE, read.corrupt),
	KEY("corrupt-write", SIZE, write.corrupt),
	KEY("delay-read", TIME, read.delay_ns),
	KEY("delay-write", TIME, write.delay_ns),
	KEY("short", RANGE, short_min),
	KEY("rate", SIZE, rate),
	KEY("seed", SIZE, seed),
#undef KEY
};
#define NKEYS (sizeof(keys) / sizeof(*keys))

static int unknown_key(const char *name, struct gw_error *err)
{
	char list[256];
	size_t n = 0;

	for (size_t i = 0; i < NKEYS; i++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s",
				      i ? ", " : "", keys[i].name);
	return gw_fail_as(
		err, GW_FAULT_USAGE, EINVAL,
		"fault specification: unknown key '%.40s'; possible are %s",
		name, list);
}

_Static_assert(offsetof(struct fault, short_max) ==
		       offsetof(struct fault, short_min) + sizeof(uint64_t),
	       "a RANGE is two fields, one behind the other");

/* "MAX" or "MIN-MAX" into out[0] and out[1]. */
static int parse_range(const char *name, char *v, uint64_t *out,
		       struct gw_error *err)
{
	char *dash = strchr(v, '-');
	int r;

	if (dash)
		*dash++ = '\0';
	r = gw_parse_size(name, v, &out[0], err);
	out[1] = out[0];
	if (!dash)
		out[0] = 1;
	else if (!r)
		r = gw_parse_size(name, dash, &out[1], err);
	if (r)
		return r;
	if (!out[0] || out[1] < out[0] || out[1] > (1ULL << 40))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s: not a range from 1 up", name);
	return 0;
}

static int parse_pair(struct fault *f, char *pair, struct gw_error *err)
{
	char *v = strchr(pair, '='), what[64];
	int64_t ns;

	if (v)
		*v++ = '\0';
	for (size_t i = 0; i < NKEYS; i++) {
		uint64_t *field = (void *)((char *)f + keys[i].offset);
		int r;

		if (strcmp(keys[i].name, pair))
			continue;
		snprintf(what, sizeof(what), "fault specification: %s", pair);
		if (!v)
			return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
					  "%s wants a value", what);
		if (keys[i].value == RANGE)
			return parse_range(what, v, field, err);
		if (keys[i].value == SIZE)
			return gw_parse_size(what, v, field, err);
		r = gw_parse_time(what, v, &ns, err);
		if (!r)
			*field = (uint64_t)ns;
		return r;
	}
	return unknown_key(pair, err);
}

static uint64_t next_random(struct side *s)
{
	uint64_t x = s->rng; /* xorshift64* */

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	s->rng = x;
	return x * 2685821657736338717ULL;
}

static void side_init(struct side *s, uint64_t seed, uint64_t salt)
{
	/* Neighbouring seeds must not give neighbouring sequences. */
	s->rng = (seed + salt) * 0x9e3779b97f4a7c15ULL;
	s->rng ^= s->rng >> 29;
	if (!s->rng)
		s->rng = 1;
	s->flip = (uint8_t)(1u << (next_random(s) >> 61));
}

static int parse_spec(struct fault *f, const char *spec, struct gw_error *err)
{
	char buf[512], *save = NULL, *p;

	f->read.cut = f->read.hang = f->read.corrupt = NEVER;
	f->write.cut = f->write.hang = f->write.corrupt = NEVER;
	f->seed = 1;
	if (strlen(spec) >= sizeof(buf))
		return gw_fail_as(err, GW_FAULT_USAGE, ENAMETOOLONG,
				  "fault specification: more than %zu bytes",
				  sizeof(buf) - 1);
	strcpy(buf, spec);
	for (p = strtok_r(buf, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		int r = parse_pair(f, p, err);

		if (r)
			return r;
	}
	side_init(&f->read, f->seed, 0x72656164);
	side_init(&f->write, f->seed, 0x77726974);
	return 0;
}

int gw_chan_fault_check(const char *spec, struct gw_error *err)
{
	struct fault f = { 0 };

	return parse_spec(&f, spec, err);
}

/* --- misbehaving ------------------------------------------------------- */

static void lower(uint64_t *room, uint64_t limit)
{
	if (limit < *room)
		*room = limit;
}

/*
 * May an attempt be made, and of how many bytes? @room is at least 1 then.
 * Return: 0, -EAGAIN with s->pause set, or -ECONNRESET.
 */
static int admit(struct fault *f, struct side *s, uint64_t *room)
{
	int64_t now = s->delay_ns || f->rate || s->pause ? gw_now_ns() : 0;

	if (__atomic_load_n(&f->was_cut, __ATOMIC_RELAXED))
		return -ECONNRESET;
	if (s->pos >= s->hang)
		s->pause = FOREVER;
	if (now < s->pause)
		return -EAGAIN;
	s->pause = 0;
	if (s->delay_ns && !s->delayed) {
		s->delayed = true;
		s->pause = now + (int64_t)s->delay_ns;
		return -EAGAIN;
	}
	if (f->rate && now < s->line_free) {
		s->pause = s->line_free;
		return -EAGAIN;
	}
	*room = NEVER;
	if (f->rate) /* about 10 ms worth */
		lower(room, f->rate / 100 + 1);
	if (f->short_max && !s->chunk)
		s->chunk = f->short_min +
			   next_random(s) % (f->short_max - f->short_min + 1);
	if (f->short_max)
		lower(room, s->chunk);
	if (s->cut != NEVER)
		lower(room, s->cut - s->pos);
	if (s->hang != NEVER)
		lower(room, s->hang - s->pos);
	return 0;
}

/* Both ways, as far as the transport inside can. */
static void cut(struct fault *f, bool writing)
{
	__atomic_store_n(&f->was_cut, 1, __ATOMIC_RELAXED);
	if (writing) /* a pipe's end is closed by its own thread only */
		(void)f->inner->ops->shutdown_write(f->inner);
	gw_chan_shutdown(f->inner);
}

/* @n bytes have passed. */
static void account(struct fault *f, struct side *s, bool writing, size_t n)
{
	s->pos += n;
	s->chunk -= n < s->chunk ? n : s->chunk;
	s->delayed = false;
	if (f->rate) {
		int64_t now = gw_now_ns();

		if (s->line_free < now - RATE_SLACK_NS)
			s->line_free = now - RATE_SLACK_NS;
		s->line_free += (int64_t)((double)n * 1e9 / (double)f->rate);
	}
	if (s->pos >= s->cut)
		cut(f, writing);
}

/* At most @room bytes of @iov as @out[FAULT_IOV]. Return: entries. */
static int clip(struct iovec *out, const struct iovec *iov, int niov,
		uint64_t room)
{
	int n = 0;

	for (int i = 0; i < niov && n < FAULT_IOV && room; i++) {
		if (!iov[i].iov_len)
			continue;
		out[n] = iov[i];
		if (out[n].iov_len > room)
			out[n].iov_len = (size_t)room;
		room -= out[n++].iov_len;
	}
	return n;
}

/* Show the waiting code what the side inside, or the fault, waits for. */
static void publish(struct fault *f, const struct side *s, bool writing)
{
	const struct gw_chan *in = f->inner;

	if (writing) {
		f->base.wfd = s->pause ? -1 : in->wfd;
		f->base.wpause = s->pause ? s->pause : in->wpause;
	} else {
		f->base.rfd = s->pause ? -1 : in->rfd;
		f->base.rpause = s->pause ? s->pause : in->rpause;
	}
}

/* So that gw_chan_readable() knows of a hang before the attempt. */
static void after(struct fault *f, struct side *s, bool writing)
{
	if (s->pos >= s->hang)
		s->pause = FOREVER;
	publish(f, s, writing);
}

/* Flip the bit in what was read, if it is among the @n bytes of @iov. */
static void corrupt_read(struct side *s, const struct iovec *iov, size_t n)
{
	uint64_t skip = s->corrupt - s->pos;

	if (s->corrupt < s->pos || skip >= n)
		return;
	while (skip >= iov->iov_len)
		skip -= (iov++)->iov_len;
	((uint8_t *)iov->iov_base)[skip] ^= s->flip;
}

static ssize_t fault_readv(struct gw_chan *c, const struct iovec *iov, int niov)
{
	struct fault *f = (struct fault *)c;
	struct iovec part[FAULT_IOV];
	struct side *s = &f->read;
	uint64_t room;
	ssize_t n = admit(f, s, &room);

	if (!n && !room) { /* cut-read=0 */
		cut(f, false);
		n = -ECONNRESET;
	}
	if (!n)
		n = f->inner->ops->readv(f->inner, part,
					 clip(part, iov, niov, room));
	if (n > 0) {
		corrupt_read(s, part, (size_t)n);
		account(f, s, false, (size_t)n);
	}
	after(f, s, false);
	return n;
}

/* Byte s->corrupt alone, from a copy: the caller's memory is not ours. */
static ssize_t write_flipped(struct fault *f, const struct side *s,
			     const struct iovec *part)
{
	uint8_t byte = *(const uint8_t *)part->iov_base ^ s->flip;
	struct iovec one = { &byte, 1 };

	return f->inner->ops->writev(f->inner, &one, 1);
}

static ssize_t fault_writev(struct gw_chan *c, const struct iovec *iov,
			    int niov)
{
	struct fault *f = (struct fault *)c;
	struct iovec part[FAULT_IOV];
	struct side *s = &f->write;
	uint64_t room;
	ssize_t n = admit(f, s, &room);

	if (!n && !room) { /* cut-write=0 */
		cut(f, true);
		n = -ECONNRESET;
	}
	if (!n && s->corrupt != NEVER && s->corrupt > s->pos)
		lower(&room, s->corrupt - s->pos);
	if (!n) {
		int np = clip(part, iov, niov, room);

		n = np && s->corrupt == s->pos ?
			    write_flipped(f, s, part) :
			    f->inner->ops->writev(f->inner, part, np);
	}
	if (n > 0)
		account(f, s, true, (size_t)n);
	after(f, s, true);
	return n;
}

static int fault_shutdown_write(struct gw_chan *c)
{
	struct fault *f = (struct fault *)c;

	if (__atomic_load_n(&f->was_cut, __ATOMIC_RELAXED))
		return -ECONNRESET;
	if (f->write.pos >= f->write.hang)
		return 0; /* lost in the hanging line */
	return f->inner->ops->shutdown_write(f->inner);
}

static void fault_shutdown(struct gw_chan *c)
{
	gw_chan_shutdown(((struct fault *)c)->inner);
}

static void fault_close(struct gw_chan *c)
{
	gw_chan_close(((struct fault *)c)->inner);
	free(c);
}

static int64_t fault_unacked(struct gw_chan *c)
{
	return gw_chan_unacked(((struct fault *)c)->inner);
}

static bool fault_explain(struct gw_chan *c, int code, struct gw_error *err)
{
	struct gw_chan *in = ((struct fault *)c)->inner;

	return in->ops->explain && in->ops->explain(in, code, err);
}

static const struct gw_chan_ops fault_ops = {
	.readv = fault_readv,
	.writev = fault_writev,
	.shutdown_write = fault_shutdown_write,
	.shutdown = fault_shutdown,
	.close = fault_close,
	.explain = fault_explain,
	.unacked = fault_unacked,
};

struct gw_chan *gw_chan_fault(struct gw_chan *inner, const char *spec,
			      struct gw_error *err)
{
	struct fault *f = calloc(1, sizeof(*f));

	if (!f) {
		gw_fail(err, ENOMEM, "no memory for a fault channel");
		return NULL;
	}
	if (parse_spec(f, spec, err) ||
	    gw_chan_init(&f->base, &fault_ops, inner->peer, err)) {
		free(f);
		return NULL;
	}
	f->inner = inner;
	f->base.storage = inner->storage;
	f->base.cancel = inner->cancel;
	f->base.read_timeout_ms = inner->read_timeout_ms;
	f->base.write_timeout_ms = inner->write_timeout_ms;
	after(f, &f->read, false);
	after(f, &f->write, true);
	return &f->base;
}
