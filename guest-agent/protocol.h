/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * protocol.h - what godwit and its guest agent say to each other over a
 * virtio-serial port. Both sides and nobody else include this.
 *
 *	REQUEST  ->	which pages are free? Asked with an id
 *	<-  PART*	some that are, by guest physical address
 *	<-  END		that was all; or REFUSED with a reason
 *	STOP  ->	no more, it is too late
 *
 * A port is no connection: after a migration, or when the host's end was
 * closed in between, a frame may begin in the middle or belong to an older
 * question. So a frame has a mark to look for, a checksum and the id.
 *
 *	0  4  'g' 'w' 'F' 'P'
 *	4  1  version, 1
 *	5  1  type
 *	6  2  length of the payload, big endian, at most 32768
 *	8  4  id of the question, big endian
 *	12 4  CRC-32 of bytes 4 to 12 and the payload, big endian
 *	16    payload
 *
 * PART: one byte, log2 of the page size; then pairs of LEB128 numbers: pages
 * in use or unknown, pages free (at least 1), from page 0 on. Each PART begins
 * at page 0 again. REFUSED: text. The others: nothing.
 */
#ifndef GUEST_AGENT_PROTOCOL_H
#define GUEST_AGENT_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define GFP_PORT	"org.godwit.free-pages.0"
#define GFP_MARK	"gwFP"
#define GFP_VERSION	1
#define GFP_HEAD	16
#define GFP_MAX_PAYLOAD 32768

enum gfp_type {
	GFP_REQUEST = 1,
	GFP_PART = 2,
	GFP_END = 3,
	GFP_REFUSED = 4,
	GFP_STOP = 5,
};

static inline uint32_t gfp_crc(uint32_t crc, const void *p, size_t n)
{
	const uint8_t *b = (const uint8_t *)p;

	crc = ~crc;
	while (n--) {
		crc ^= *b++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static inline void gfp_put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

static inline uint32_t gfp_get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
	       (uint32_t)p[2] << 8 | p[3];
}

/* Fill @head for the payload of @n bytes. */
static inline void gfp_head(uint8_t head[GFP_HEAD], enum gfp_type type,
			    uint32_t id, const void *payload, uint16_t n)
{
	memcpy(head, GFP_MARK, 4);
	head[4] = GFP_VERSION;
	head[5] = (uint8_t)type;
	head[6] = (uint8_t)(n >> 8);
	head[7] = (uint8_t)n;
	gfp_put32(head + 8, id);
	gfp_put32(head + 12, gfp_crc(gfp_crc(0, head + 4, 8), payload, n));
}

/*
 * Look at @n bytes for a frame at their beginning.
 * Return: its length; 0: more bytes are needed; -1: there is none here, go on
 * at the next byte.
 */
static inline int gfp_frame(const uint8_t *p, size_t n)
{
	size_t len;

	if (memcmp(p, GFP_MARK, n < 4 ? n : 4))
		return -1;
	if (n < GFP_HEAD)
		return 0;
	len = (size_t)p[6] << 8 | p[7];
	if (p[4] != GFP_VERSION || len > GFP_MAX_PAYLOAD)
		return -1;
	if (n < GFP_HEAD + len)
		return 0;
	if (gfp_get32(p + 12) !=
	    gfp_crc(gfp_crc(0, p + 4, 8), p + GFP_HEAD, len))
		return -1;
	return (int)(GFP_HEAD + len);
}

#endif
