/* SPDX-License-Identifier: BSD-3-Clause */
/* refuse.c - see refuse.h. */
#include "dest/refuse.h"

#include <stdio.h>

#include "base/clock.h"
#include "wire/hello.h"
#include "wire/record.h"

#define GOODBYE_MS 3000

/* Closing first could destroy the reason on its way. */
static void wait_end(struct gw_chan *chan, struct gw_reader *in)
{
	int64_t deadline = gw_deadline_ms(GOODBYE_MS);
	struct iovec iov = { in->buf, in->cap };
	struct gw_error ignored;

	if (gw_chan_shutdown_write(chan, &ignored))
		return;
	while (gw_deadline_left_ms(deadline) > 0 &&
	       gw_chan_readv(chan, &iov, 1, &ignored) > 0)
		;
}

int gw_refuse(struct gw_chan *chan, struct gw_reader *in, const char *name,
	      const char *kind, const struct gw_error *why, bool *probe,
	      struct gw_error *err)
{
	struct gw_error ignored;
	struct gw_writer out;
	struct gw_hello h;

	if (gw_hello_get(in, &h))
		return gw_read_check(in, err);
	*probe = h.probe;
	h.source = h.probe = false;
	h.required = 0;
	h.timeout_ms = 1000; /* for who wants to send checkpoints */
	snprintf(h.name, sizeof(h.name), "%s", name);
	snprintf(h.godwit, sizeof(h.godwit), "%s", GW_VERSION);
	if (*probe)
		snprintf(h.machine, sizeof(h.machine), "%s", kind);
	gw_writer_init(&out, gw_chan_flush, chan);
	chan->read_timeout_ms = chan->write_timeout_ms = 1000;
	if (!gw_hello_put(&out, &h, &ignored) && !*probe) {
		gw_record_put_error(&out, why, true);
		if (!gw_write_flush(&out, &ignored))
			wait_end(chan, in);
	}
	gw_hello_fini(&h);
	return 0;
}
