/* SPDX-License-Identifier: BSD-3-Clause */
/* multifd.c - fuzz a multifd channel (lib/wire/multifd.c): hello, packets,
 * their payload skipped. */
#include "wire/multifd.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_multifd_packet p;
	struct gw_multifd_hello h;
	struct gw_reader r;

	gw_reader_init_mem(&r, data, size);
	if (gw_multifd_get_hello(&r, 8, &h))
		return 0;
	if (h.id >= 8)
		abort();
	while (gw_read_more(&r) && !gw_multifd_get_packet(&r, &p)) {
		uint32_t n = p.normal + p.zero;

		/* what a receiver relies on */
		if (n > GW_MULTIFD_PAGES || p.normal > n ||
		    p.payload > GW_MULTIFD_MAX_PAYLOAD ||
		    (p.payload && !p.normal) || (n && !p.idstr[0]) ||
		    !memchr(p.idstr, 0, sizeof(p.idstr)))
			abort();
		for (uint32_t i = 0; i < n; i++)
			if (p.offset[i] % GW_PAGE_SIZE)
				abort();
		gw_read_skip(&r, p.payload);
	}
	return 0;
}
