/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * refuse.h - a godwit source came where its VM cannot be taken. It is answered
 * as if everything fitted, so that it reads the reason; one that only asks
 * (`check`) gets it as a difference.
 */
#ifndef GW_DEST_REFUSE_H
#define GW_DEST_REFUSE_H

#include <stdbool.h>

#include "base/error.h"
#include "base/reader.h"
#include "chan/chan.h"

/*
 * Over @chan, whose bytes come through @in. @name: who refuses; @kind: what it
 * is, to whoever asks. *@probe: it only asked. Return: 0 when it was told;
 * -errno with @err when it did not even greet.
 */
int gw_refuse(struct gw_chan *chan, struct gw_reader *in, const char *name,
	      const char *kind, const struct gw_error *why, bool *probe,
	      struct gw_error *err) GW_MUST_CHECK;

#endif
