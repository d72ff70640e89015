/* SPDX-License-Identifier: BSD-3-Clause */
/* direct.c - see direct.h. */
#include "image/direct.h"

#include <fcntl.h>
#include <stdio.h>

#include "image/sink.h"

#define DIRECT_MIN (64u << 10)

int gw_direct_open(int fd, int mode)
{
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return open(proc, mode | O_DIRECT | O_CLOEXEC);
}

bool gw_direct_fits(int direct, const void *p, size_t len, uint64_t offset)
{
	return direct >= 0 && len >= DIRECT_MIN &&
	       ((uintptr_t)p | offset | len) % GW_PAGE_SIZE == 0;
}
