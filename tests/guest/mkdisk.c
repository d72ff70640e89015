// SPDX-License-Identifier: BSD-3-Clause
/*
 * mkdisk FILE MIB - write the disk image that the test guest reads and verifies
 * with gw.direct: every 4 KiB block holds its own number and a pattern.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pattern.h"

#define BLOCKS_PER_MIB	256

int main(int argc, char **argv)
{
	static uint64_t mib_of_blocks[BLOCKS_PER_MIB][GW_WORDS];
	unsigned long mib;
	FILE *out;
	char *end;

	if (argc != 3) {
		fprintf(stderr, "usage: mkdisk FILE MIB\n");
		return 2;
	}
	errno = 0;
	mib = strtoul(argv[2], &end, 10);
	if (errno || *end || !mib || mib > 1 << 20) {
		fprintf(stderr, "mkdisk: size '%s': want MiB, 1 to 1048576\n",
			argv[2]);
		return 2;
	}

	out = fopen(argv[1], "w");
	if (!out)
		goto fail;
	for (unsigned long m = 0; m < mib; m++) {
		for (size_t b = 0; b < BLOCKS_PER_MIB; b++)
			gw_block_make(mib_of_blocks[b],
				      m * BLOCKS_PER_MIB + b);
		if (!fwrite(mib_of_blocks, sizeof(mib_of_blocks), 1, out))
			goto fail;
	}
	if (!fclose(out))
		return 0;
fail:
	fprintf(stderr, "mkdisk: %s: %s\n", argv[1], strerror(errno));
	return 1;
}
