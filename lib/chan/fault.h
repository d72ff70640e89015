/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fault.h - a real channel over another one, that misbehaves as told: the
 * means to test what happens when a cable is cut, a peer stalls, a bit flips.
 *
 * A specification is a list of KEY=VALUE with commas; positions count bytes
 * of that direction from 0, sizes and times take unit suffixes:
 *
 *	cut-read=N cut-write=N		after N bytes the connection is shut
 *					down both ways: the peer reads an end,
 *					here it was reset. Exactly N bytes pass.
 *	hang-read=N hang-write=N	after N bytes nothing moves any more
 *					that way; only a time limit, cancel or
 *					shutdown ends the wait. Both directions
 *					are independent; an end said by
 *					shutdown_write does not pass either.
 *	corrupt-read=N corrupt-write=N	one bit of byte N is flipped
 *	short=MAX or short=MIN-MAX	every attempt moves at most a random
 *					number of bytes from that range
 *	rate=N				bytes per second, per direction
 *	delay-read=T delay-write=T	every attempt that way waits first
 *	seed=N				for short and corrupt; 1 by default.
 *					The same seed, the same faults
 *
 * In a uri, "fault:SPEC+URI": the first '+' ends SPEC (which cannot contain
 * one), everything behind it is the uri inside, e.g.
 * "fault:cut-write=1M,short=1-4096,seed=7+tcp:127.0.0.1:4444". When listening,
 * every connection gets the faults.
 */
#ifndef GW_CHAN_FAULT_H
#define GW_CHAN_FAULT_H

#include "chan/chan.h"

/*
 * Stack on @inner, taken over when this succeeds with its peer name, cancel
 * and time limits. Return: the channel, or NULL with @err, naming the key.
 */
struct gw_chan *gw_chan_fault(struct gw_chan *inner, const char *spec,
			      struct gw_error *err);

/* Is @spec well-formed? Return: 0 or -EINVAL with @err. */
int gw_chan_fault_check(const char *spec, struct gw_error *err) GW_MUST_CHECK;

#endif
