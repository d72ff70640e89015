/* SPDX-License-Identifier: BSD-3-Clause */
/* hello.c - fuzz the greeting (lib/wire/hello.c), and agreeing with it. */
#include <stdlib.h>
#include <string.h>

#include "wire/hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gw_hello h, mine;
	unsigned int features;
	struct gw_error err;
	struct gw_reader r;

	gw_reader_init_mem(&r, data, size);
	if (gw_hello_get(&r, &h))
		return 0;
	memset(&mine, 0, sizeof(mine));
	if (gw_hello_agree(&h, &mine, &features, &err) && !err.msg[0])
		abort(); /* a refusal without a reason */
	gw_hello_fini(&h);
	return 0;
}
