/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * verify.c - compare every page with the source's hash, while the VM stands
 * on both sides. Pages without a hash must be zero.
 */
#include <errno.h>

#include "dest/internal.h"
#include "page/hash.h"

static int mismatch(const struct gw_ramblock *b, uint64_t page, uint64_t theirs,
		    uint64_t ours, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_VERIFY, EBADMSG,
			  "verification failed: page 0x%llx of RAM block '%s' has hash %016llx on the source and %016llx on the destination",
			  (unsigned long long)page, b->idstr,
			  (unsigned long long)theirs, (unsigned long long)ours);
}

/* Compare pages [@first, @first + @n) with @hash, NULL for all zero. */
static int compare(struct gw_ramblock *b, uint64_t first, uint32_t n,
		   const uint64_t *hash, struct gw_error *err)
{
	uint64_t ours[GW_VERIFY_CHUNK];
	bool any;
	int r = gw_page_hash_range(b, first, n, ours, &any, err);

	if (r || (!hash && !any))
		return r;
	for (uint32_t i = 0; i < n; i++)
		if (ours[i] != (hash ? hash[i] : 0))
			return mismatch(b, first + i, hash ? hash[i] : 0,
					ours[i], err);
	return 0;
}

/* Pages that the source jumped over are zero there: here too? */
static int compare_gap(struct gw_ramblock *b, uint64_t from, uint64_t to,
		       struct gw_error *err)
{
	int r = 0;

	while (from < to && !r) {
		uint32_t n = to - from < GW_VERIFY_CHUNK ?
				     (uint32_t)(to - from) :
				     GW_VERIFY_CHUNK;

		r = compare(b, from, n, NULL, err);
		from += n;
	}
	return r;
}

int gw_dest_verify(struct gw_dest *d, const struct gw_record *rec,
		   struct gw_error *err)
{
	uint64_t hash[GW_VERIFY_CHUNK], first, *at;
	struct gw_ramblock *b;
	uint32_t n;
	int r;

	if (gw_record_get_verify(&d->in, rec, &d->c.vm->ram, &b, &first, hash,
				 &n))
		return gw_read_check(&d->in, err);
	at = &d->verified[b - d->c.vm->ram.block];
	if (first < *at)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "page hashes of block '%s' come out of order",
				  b->idstr);
	r = compare_gap(b, *at, first, err);
	if (!r)
		r = compare(b, first, n, hash, err);
	*at = first + n;
	gw_progress_tick(d->c.progress);
	return r;
}

int gw_dest_verify_end(struct gw_dest *d, struct gw_error *err)
{
	struct gw_ram *ram = &d->c.vm->ram;
	int r = 0;

	for (int i = 0; i < ram->nblocks && !r; i++) {
		uint64_t npages = gw_ramblock_npages(&ram->block[i]);

		r = compare_gap(&ram->block[i], d->verified[i], npages, err);
		d->now->verified += npages;
	}
	if (r)
		return r;
	gw_record_put(&d->out, GW_RECORD_VERIFY_END, true, 0);
	return gw_write_flush(&d->out, err);
}
