/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * carry.h - carry a VMM's own migration stream to a peer, and what the peer
 * answers back, with a thread for each direction.
 *
 *	VMM's socket --read--> 256 KiB --write--> channel	as it is
 *	VMM's socket <--send-- messages <--read-- channel	see below
 *
 * What came is passed on at once; nothing waits for more. The stream is not
 * looked into. The answers are QEMU's return path, messages of a few bytes:
 * they pass whole and unchanged, and one is noted on the way, SHUT, with which
 * the peer says that it has the VM (0) or not (anything else).
 *
 * The carrier decides nothing. It never closes the VMM's socket by itself,
 * because that may make the VMM run its VM on, and it never stops reading it,
 * because a QEMU that cannot write its device state answers no command: after
 * the peer is gone the stream is read and thrown away. Whoever started it looks
 * (gw_carry_look) and acts.
 */
#ifndef GW_SOURCE_CARRY_H
#define GW_SOURCE_CARRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "chan/chan.h"

struct gw_carry;

enum gw_carry_peer {
	GW_CARRY_OPEN,
	/* It closed, or reset the connection: nobody holds it any more. */
	GW_CARRY_ENDED,
	/* It takes or gives nothing, for another reason: it may well live. */
	GW_CARRY_LOST,
};

struct gw_carry_state {
	uint64_t forth, back; /* bytes written to the peer, read from it */
	/* The VMM has written nothing that is not written to the peer. */
	bool idle;
	/* The VMM ended its stream, and the peer was told so. */
	bool ended;
	/* SHUT has come; when; and it was passed on to the VMM */
	bool shut, shut_passed;
	uint32_t shut_value;
	int64_t shut_ns;
	/* What came back is the protocol of two godwits. */
	bool godwit;
	enum gw_carry_peer peer;
	struct gw_error why; /* unless OPEN */
};

/*
 * Carry between @fd, a stream socket to the VMM, and @chan; both stay the
 * caller's and must live until gw_carry_free(). @back: the peer can answer.
 * @chan's time limits are the caller's to set before. NULL with @err.
 */
struct gw_carry *gw_carry_start(int fd, struct gw_chan *chan, bool back,
				struct gw_error *err);

/* Any time, any thread. */
void gw_carry_look(struct gw_carry *c, struct gw_carry_state *out);

/* From here on nothing passes to the peer or from it, for good: what
 * gw_carry_look() says of it is final. The VMM's stream is still read. */
void gw_carry_cut(struct gw_carry *c);

/* Say SHUT @value to the VMM in the peer's place; after gw_carry_cut(). */
int gw_carry_say_shut(struct gw_carry *c, uint32_t value,
		      struct gw_error *err) GW_MUST_CHECK;

/* End the VMM's socket, in both directions: it notices. */
void gw_carry_hang_up(struct gw_carry *c);

/* Stop both threads. The VMM's socket stays open, the channel is of no use
 * afterwards but for gw_chan_close(). NULL is fine. */
void gw_carry_free(struct gw_carry *c);

#endif
