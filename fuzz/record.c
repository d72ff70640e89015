/* SPDX-License-Identifier: BSD-3-Clause */
/* record.c - fuzz godwit's records (lib/wire/record.c). */
#include <stddef.h>

#include "wire/checkpoint.h"
#include "wire/disks.h"
#include "wire/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void payload(struct gw_reader *r, struct gw_record *rec,
		    struct gw_ram *ram)
{
	static struct gw_extent e[GW_RECORD_MAX_EXTENTS];
	uint64_t hash[GW_VERIFY_CHUNK], first, total;
	static struct gw_disks disks;
	struct gw_checkpoint checkpoint;
	struct gw_ramblock *b;
	struct gw_error err;
	int64_t flush_ns;
	bool not_here;
	uint32_t n;
	int ret;

	switch (rec->type) {
	case GW_RECORD_ERROR:
		ret = gw_record_get_error(r, rec, "peer", &err, &not_here);
		break;
	case GW_RECORD_EXTENTS:
		ret = gw_record_get_extents(r, rec, ram, &b, e, &n);
		break;
	case GW_RECORD_VERIFY:
		ret = gw_record_get_verify(r, rec, ram, &b, &first, hash, &n);
		break;
	case GW_RECORD_DISKS:
		ret = gw_disks_get(r, rec, &disks);
		break;
	case GW_RECORD_DISKS_PROGRESS:
		ret = gw_disks_get_progress(r, rec, &first, &total);
		break;
	case GW_RECORD_CHECKPOINT:
		ret = gw_record_get_checkpoint(r, rec, &checkpoint);
		break;
	case GW_RECORD_ACK:
		ret = gw_record_get_ack(r, rec, &first, &flush_ns);
		break;
	default:
		gw_read_skip(r, rec->len);
		return;
	}
	if (ret)
		gw_read_fail(r, 1, "stop");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gw_record rec;
	struct gw_ram ram;
	struct gw_reader r;

	gw_ram_init(&ram);
	if (gw_ram_describe(&ram, "pc.ram", 1 << 20, GW_PAGE_SIZE, NULL))
		return 0;
	gw_reader_init_mem(&r, data, size);
	while (gw_read_u8(&r) == GW_ITEM_RECORD && !gw_record_get(&r, &rec))
		payload(&r, &rec, &ram);
	gw_ram_fini(&ram);
	return 0;
}
