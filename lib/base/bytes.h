/* SPDX-License-Identifier: BSD-3-Clause */
/* bytes.h - big-endian integers in memory, as every format here has them. */
#ifndef GW_BASE_BYTES_H
#define GW_BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define GW_DEFINE_BE(bits)                                             \
	static inline uint##bits##_t gw_get_be##bits(const void *p)    \
	{                                                              \
		uint##bits##_t v;                                      \
		memcpy(&v, p, sizeof(v));                              \
		return be##bits##toh(v);                               \
	}                                                              \
	static inline void gw_put_be##bits(void *p, uint##bits##_t v)  \
	{                                                              \
		v = htobe##bits(v);                                    \
		memcpy(p, &v, sizeof(v));                              \
	}
GW_DEFINE_BE(16)
GW_DEFINE_BE(32)
GW_DEFINE_BE(64)
#undef GW_DEFINE_BE

#endif
