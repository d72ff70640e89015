/* SPDX-License-Identifier: BSD-3-Clause */
/* balloon.c - what godwit.h promises about free page hints of a balloon. */
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "control/internal.h"
#include "godwit.h"
#include "hint/balloon.h"

struct godwit_balloon {
	struct gw_balloon b;
	const struct godwit_balloon_ops *ops;
	void *data;
	struct godwit_op *op; /* the one that uses it */
};

static void config_changed(void *arg)
{
	struct godwit_balloon *b = arg;

	if (b->ops->config_changed)
		b->ops->config_changed(b->data);
}

static uint64_t map(void *arg, uint64_t addr, uint64_t len, const char **block,
		    uint64_t *offset)
{
	struct godwit_balloon *b = arg;

	return b->ops->map(b->data, addr, len, block, offset);
}

static const struct gw_balloon_ops ops = { config_changed, map };

struct godwit_balloon *godwit_balloon_new(const struct godwit_balloon_ops *o,
					  void *data, struct godwit_error *err)
{
	struct godwit_balloon *b = calloc(1, sizeof(*b));

	if (!b) {
		gw_fail((struct gw_error *)err, ENOMEM, "no memory");
		return NULL;
	}
	b->ops = o;
	b->data = data;
	gw_balloon_init(&b->b, &ops, b);
	return b;
}

void godwit_balloon_free(struct godwit_balloon *b)
{
	if (!b)
		return;
	gw_balloon_fini(&b->b);
	free(b);
}

static void wanted(uint32_t id, void *data)
{
	struct godwit_balloon *b = data;

	if (id)
		gw_balloon_begin(&b->b, &b->op->hint, id);
	else
		gw_balloon_stop(&b->b);
}

void godwit_balloon_use(struct godwit_balloon *b, struct godwit_op *op)
{
	b->op = op;
	godwit_op_want_hints(op, wanted, b);
}

void godwit_balloon_done(struct godwit_balloon *b)
{
	gw_balloon_done(&b->b);
	if (b->op)
		godwit_op_want_hints(b->op, NULL, NULL);
	b->op = NULL;
}

uint32_t godwit_balloon_cmd_id(struct godwit_balloon *b)
{
	return gw_balloon_cmd_id(&b->b);
}

void godwit_balloon_out(struct godwit_balloon *b, const void *buf,
			uint64_t len)
{
	gw_balloon_out(&b->b, buf, len);
}

void godwit_balloon_in(struct godwit_balloon *b, uint64_t addr, uint64_t len)
{
	gw_balloon_in(&b->b, addr, len);
}

void godwit_balloon_poison(struct godwit_balloon *b, uint32_t value)
{
	gw_balloon_poison(&b->b, value);
}

void godwit_balloon_reset(struct godwit_balloon *b)
{
	gw_balloon_reset(&b->b);
}
