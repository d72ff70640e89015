/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * devstream.c - fuzz the search for the end of a device stream
 * (lib/wire/devstream.c), fed in pieces: the first byte says how large.
 */
#include "wire/devstream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gw_devstream d;
	struct gw_error err;
	size_t piece, at;

	if (!size)
		return 0;
	piece = data[0] ? (size_t)data[0] * 16 : size;
	gw_devstream_init(&d);
	for (at = 1; at < size; at += piece) {
		size_t n = size - at < piece ? size - at : piece;

		if (gw_devstream_feed(&d, data + at, n, &err))
			break;
	}
	gw_devstream_fini(&d);
	return 0;
}
