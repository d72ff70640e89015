/* SPDX-License-Identifier: BSD-3-Clause */
/* devstream.c - see devstream.h. */
#include "wire/devstream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/vmdesc.h"

void gw_devstream_init(struct gw_devstream *d)
{
	memset(d, 0, sizeof(*d));
	gw_stream_init(&d->s, NULL, 0);
}

void gw_devstream_init_tail(struct gw_devstream *d)
{
	gw_devstream_init(d);
	d->in_tail = true;
}

void gw_devstream_fini(struct gw_devstream *d)
{
	free(d->buf);
	d->buf = NULL;
	d->len = d->cap = 0;
}

static int append(struct gw_devstream *d, const void *p, size_t len,
		  struct gw_error *err)
{
	if (len > GW_MAX_DEVICE_STATE - d->len)
		return gw_fail_as(err, GW_FAULT_INPUT, EMSGSIZE,
				  "the device state is larger than %u bytes",
				  GW_MAX_DEVICE_STATE);
	if (d->len + len > d->cap) {
		size_t cap = d->cap ? d->cap : 1 << 20;
		void *n;

		while (cap < d->len + len)
			cap *= 2;
		n = realloc(d->buf, cap);
		if (!n)
			return gw_fail(err, ENOMEM,
				       "no memory for %zu bytes of device state",
				       cap);
		d->buf = n;
		d->cap = cap;
	}
	memcpy(d->buf + d->len, p, len);
	d->len += len;
	return 0;
}

/* --- up to the last RAM record: exact --------------------------------- */

static void check_config(const struct gw_configuration *c,
			 struct gw_reader *r)
{
	if (!c->ignore_shared || c->mapped_ram)
		gw_read_fail(r, EPROTO,
			     "the device stream was made %s",
			     c->mapped_ram ?
				     "with capability mapped-ram" :
				     "without capability x-ignore-shared");
}

static void take_ping(struct gw_devstream *d, uint32_t value,
		      struct gw_reader *r)
{
	if (d->npings == sizeof(d->ping) / sizeof(d->ping[0]))
		gw_read_fail(r, EPROTO, "more than %u PINGs", d->npings);
	else
		d->ping[d->npings++] = value;
}

static void begin_tail(struct gw_devstream *d, struct gw_reader *r)
{
	const uint8_t *item = gw_read_peek(r, 1);

	if (item && *item != GW_ITEM_SECTION_FULL)
		gw_read_fail(r, EPROTO,
			     "unknown item 0x%02x in the device stream", *item);
	d->tail = d->search = d->pos;
	d->in_tail = true;
}

static void take_event(struct gw_devstream *d,
		       const struct gw_stream_event *ev, struct gw_reader *r)
{
	switch (ev->kind) {
	case GW_STREAM_CONFIG:
		check_config(&d->s.config, r);
		break;
	case GW_STREAM_COMMAND:
		if (ev->command.id == GW_CMD_PING)
			take_ping(d, ev->command.ping, r);
		if (ev->command.id == GW_CMD_ENABLE_COLO)
			gw_read_fail(r, EPROTO,
				     "the device stream was made with capability x-colo");
		break;
	case GW_STREAM_PAGE:
		gw_read_skip(r, GW_PAGE_SIZE);
		break;
	case GW_STREAM_DELTA:
		gw_read_fail(r, EPROTO,
			     "a compressed page in the device stream");
		break;
	case GW_STREAM_TAIL:
		begin_tail(d, r);
		break;
	default:
		break;
	}
}

/*
 * One event of the exact part: parsed whole or not at all. Return: 1 parsed,
 * 0 more bytes needed, -errno.
 */
static int parse_event(struct gw_devstream *d, struct gw_error *err)
{
	struct gw_stream_mark mark = gw_stream_mark(&d->s);
	struct gw_stream_event ev;
	struct gw_reader r;

	gw_reader_init_mem(&r, d->buf + d->pos, d->len - d->pos);
	d->s.r = &r;
	if (!gw_stream_next(&d->s, &ev))
		take_event(d, &ev, &r);
	d->s.r = NULL;
	if (!gw_read_failed(&r)) {
		d->pos += r.offset;
		return 1;
	}
	if (r.err.code != ECONNRESET)
		return gw_read_check(&r, err);
	/* Short: parse this event again when more has come. */
	gw_stream_rewind(&d->s, &mark);
	return 0;
}

/* --- the tail: found by its end, split by its own description ---------- */

/*
 * After each piece: is this the end? Where the last NUL byte is decides which
 * description could end here, so that every byte is looked at once however
 * the pieces are cut, and each piece of text is parsed at most once.
 */
static int parse_tail(struct gw_devstream *d, struct gw_error *err)
{
	const uint8_t *tail = d->buf + d->tail, *nul;
	size_t len = d->len - d->tail, eof, text;
	struct gw_tail t;
	int r;

	nul = memrchr(d->buf + d->search, 0, d->len - d->search);
	if (nul)
		d->nul = (size_t)(nul - tail);
	d->search = d->len;
	if (!gw_tail_ends(tail, len, d->nul, &eof))
		return 0;
	text = eof + 6; /* EOF, VMDESCRIPTION, its length */
	r = gw_tail_split(&t, tail, eof, (const char *)tail + text, len - text,
			  NULL);
	if (r == -ENOMEM)
		return gw_fail(err, ENOMEM,
			       "no memory to split %zu bytes of device state",
			       eof);
	if (r) /* a look-alike in a device's payload */
		return 0;
	d->ndevices = t.n;
	d->complete = true;
	gw_tail_fini(&t);
	return 0;
}

int gw_devstream_feed(struct gw_devstream *d, const void *p, size_t len,
		      struct gw_error *err)
{
	int r;

	if (d->complete && len)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%zu bytes after the end of the device state",
				  len);
	r = append(d, p, len, err);
	while (!r && !d->in_tail) {
		r = parse_event(d, err);
		if (r < 0) {
			gw_error_prefix(err, "device state at byte %zu", d->pos);
			return r;
		}
		if (!r)
			return 0;
		r = 0;
	}
	return r ? r : parse_tail(d, err);
}
