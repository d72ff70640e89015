/* SPDX-License-Identifier: BSD-3-Clause */
/* ram.c - fuzz the `ram` section decoder (lib/wire/ram.c). */
#include "wire/ram.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gw_ram_decoder d;
	struct gw_ram_record rec;
	struct gw_reader r;

	if (!size)
		return 0;
	gw_reader_init_mem(&r, data + 1, size - 1);
	gw_ram_decoder_init(&d, data[0] & 1);
	while (!gw_ram_get(&r, &d, &rec)) {
		if (rec.kind == GW_RAM_FLAG_PAGE)
			gw_read_skip(&r, GW_PAGE_SIZE);
		else if (rec.kind == GW_RAM_FLAG_XBZRLE)
			gw_read_skip(&r, 3);
	}
	return 0;
}
