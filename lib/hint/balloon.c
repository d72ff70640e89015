/* SPDX-License-Identifier: BSD-3-Clause */
/* balloon.c - see balloon.h. */
#include "hint/balloon.h"

#include <string.h>

#include "base/scope.h"

void gw_balloon_init(struct gw_balloon *b, const struct gw_balloon_ops *ops,
		     void *arg)
{
	memset(b, 0, sizeof(*b));
	pthread_mutex_init(&b->using, NULL);
	b->ops = ops;
	b->arg = arg;
	b->cmd_id = GW_BALLOON_CMD_DONE;
	pthread_mutex_init(&b->lock, NULL);
}

void gw_balloon_fini(struct gw_balloon *b)
{
	pthread_mutex_destroy(&b->lock);
	pthread_mutex_destroy(&b->using);
}

static void set_cmd(struct gw_balloon *b, uint32_t cmd, struct gw_hint *hint)
{
	pthread_mutex_lock(&b->lock);
	b->cmd_id = cmd;
	b->hint = hint;
	b->wanted = hint ? cmd : 0;
	b->started = false;
	pthread_mutex_unlock(&b->lock);
	if (b->ops->config_changed)
		b->ops->config_changed(b->arg);
}

void gw_balloon_begin(struct gw_balloon *b, struct gw_hint *hint, uint32_t id)
{
	set_cmd(b, id, hint);
}

void gw_balloon_stop(struct gw_balloon *b)
{
	set_cmd(b, GW_BALLOON_CMD_STOP, NULL);
}

void gw_balloon_done(struct gw_balloon *b)
{
	set_cmd(b, GW_BALLOON_CMD_DONE, NULL);
	/* A range that is being given was begun before. */
	pthread_mutex_lock(&b->using);
	pthread_mutex_unlock(&b->using);
}

uint32_t gw_balloon_cmd_id(struct gw_balloon *b)
{
	GW_LOCKED(&b->lock);
	return b->cmd_id;
}

void gw_balloon_out(struct gw_balloon *b, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	GW_LOCKED(&b->lock);
	uint32_t id;

	if (len != 4) {
		b->stats.ignored++;
		return;
	}
	id = (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 |
	     (uint32_t)p[1] << 8 | p[0];
	/* STOP, an old id, nonsense: ranges that follow answer nothing. */
	b->started = b->wanted && id == b->wanted;
	if (!b->started && id != GW_BALLOON_CMD_STOP)
		b->stats.ignored++;
}

/* The window that ranges belong to now; 0: none. */
static uint32_t window(struct gw_balloon *b, struct gw_hint **hint)
{
	GW_LOCKED(&b->lock);
	if (b->started && !b->poisoned) {
		b->stats.ranges++;
		*hint = b->hint;
		return b->wanted;
	}
	b->stats.ignored++;
	return 0;
}

void gw_balloon_in(struct gw_balloon *b, uint64_t addr, uint64_t len)
{
	GW_LOCKED(&b->using);
	struct gw_hint *hint;
	uint32_t id = window(b, &hint);
	const char *block;
	uint64_t offset, n;

	if (addr + len < addr)
		return;
	while (id && len) {
		n = b->ops->map(b->arg, addr, len, &block, &offset);
		/* The window closed: the rest does not matter. */
		if (!n || n > len || gw_hint_free(hint, id, block, offset, n))
			return;
		addr += n;
		len -= n;
	}
}

void gw_balloon_poison(struct gw_balloon *b, uint32_t value)
{
	GW_LOCKED(&b->lock);
	b->poisoned = value != 0;
}

/* The driver is another one now, and has not seen the id. */
void gw_balloon_reset(struct gw_balloon *b)
{
	GW_LOCKED(&b->lock);
	b->started = b->poisoned = false;
}

void gw_balloon_get_stats(struct gw_balloon *b, struct gw_balloon_stats *s)
{
	GW_LOCKED(&b->lock);
	*s = b->stats;
}
