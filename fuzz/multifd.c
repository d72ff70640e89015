/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * multifd.c - fuzz a multifd channel: hello, then packets, checked
 * (lib/wire/multifd.c) and with their pages placed (lib/dest/channel.c):
 * uncompressed, zlib, zstd, zero pages and deltas.
 */
#include "dest/channel.h"
#include "page/inflate.h"
#include "wire/multifd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NPAGES 65536u

static uint8_t *scratch; /* of a packet; what is read there counts for nothing */

static void check(uint64_t first, uint64_t n)
{
	if (!n || n > GW_MULTIFD_PAGES || first >= NPAGES || n > NPAGES - first)
		abort();
}

static int room(struct gw_place *p, int block, uint64_t first, uint32_t n,
		uint8_t **host, struct gw_error *err)
{
	check(first, n);
	*host = scratch;
	return 0;
}

static int zeros(struct gw_place *p, int block, uint64_t first, uint64_t n,
		 struct gw_error *err)
{
	check(first, n);
	return 0;
}

/* What a receiver relies on. */
static void check_packet(const struct gw_multifd_packet *p)
{
	uint32_t n = p->normal + p->zero;

	if (n > GW_MULTIFD_PAGES || p->normal > n ||
	    p->payload > GW_MULTIFD_MAX_PAYLOAD ||
	    (p->payload && !p->normal) || (n && !p->idstr[0]) ||
	    !memchr(p->idstr, 0, sizeof(p->idstr)))
		abort();
	for (uint32_t i = 0; i < n; i++)
		if (p->offset[i] % GW_PAGE_SIZE)
			abort();
}

static void serve(struct gw_chan *chan)
{
	static const struct gw_place_ops ops = { .room = room, .zeros = zeros };
	static struct gw_ram_table table = {
		.n = 1,
		.entry = { { .idstr = "pc.ram",
			     .used_length = (uint64_t)NPAGES * GW_PAGE_SIZE } }
	};
	struct gw_place place = { &ops, &table };
	struct gw_channels all = { .place = &place, .deltas = true };
	static struct gw_channel ch; /* large */
	struct gw_error err = { 0 };

	memset(&ch, 0, sizeof(ch));
	ch.all = &all;
	ch.chan = chan;
	ch.block = -1;
	ch.payload = malloc(GW_MULTIFD_MAX_PAYLOAD);
	if (!ch.payload)
		abort();
	while (!gw_channel_get(&ch, &err)) {
		check_packet(&ch.p);
		if (ch.p.normal + ch.p.zero && gw_channel_place(&ch, &err))
			break;
	}
	gw_inflate_free(ch.zlib);
	gw_inflate_free(ch.zstd);
	free(ch.payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct gw_multifd_hello h;
	struct gw_error err;
	struct gw_chan *chan;
	struct gw_reader r;

	gw_reader_init_mem(&r, data, size);
	if (!gw_multifd_get_hello(&r, 8, &h)) {
		if (h.id >= 8)
			abort();
		data += r.offset;
		size -= r.offset;
	}
	if (!scratch)
		scratch = malloc((size_t)GW_MULTIFD_PAGES * GW_PAGE_SIZE);
	if (!scratch || fd < 0 || write(fd, data, size) != (ssize_t)size ||
	    lseek(fd, 0, SEEK_SET))
		abort();
	chan = gw_chan_from_fd(fd, "fuzz", &err);
	if (!chan)
		abort();
	serve(chan);
	gw_chan_close(chan);
	return 0;
}
