/* SPDX-License-Identifier: BSD-3-Clause */
/* section.c - fuzz QEMU's framing (lib/wire/section.c): the first byte
 * chooses the message. */
#include "wire/section.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_command_record command;
	struct gw_configuration config;
	struct gw_rp_record rp;
	struct gw_section s;
	struct gw_reader r;
	int ret = 0;

	if (!size)
		return 0;
	gw_reader_init_mem(&r, data + 1, size - 1);
	switch (data[0] % 5) {
	case 0:
		ret = gw_stream_get_header(&r);
		break;
	case 1:
		ret = gw_configuration_get(&r, &config);
		break;
	case 2:
		ret = gw_command_get(&r, &command);
		break;
	case 3:
		while (!ret)
			ret = gw_rp_get(&r, &rp);
		break;
	default:
		gw_section_get_long(&r, &s);
		ret = gw_section_get_footer(&r, s.id);
	}
	return ret > 0;
}
