/* SPDX-License-Identifier: BSD-3-Clause */
/* disks.c - see disks.h. */
#include "wire/disks.h"

#include <errno.h>
#include <string.h>

#define FLAG_BACKING 0x01u
#define SECTOR	     512u

/* Bytes of a disk behind its name. */
#define TAIL 9u

void gw_disks_put(struct gw_writer *w, const struct gw_disks *d)
{
	uint32_t len = 2;

	for (uint32_t i = 0; i < d->n; i++)
		len += 1 + (uint32_t)strlen(d->disk[i].name) + TAIL;
	gw_record_put(w, GW_RECORD_DISKS, true, len);
	gw_write_be16(w, (uint16_t)d->n);
	for (uint32_t i = 0; i < d->n; i++) {
		gw_write_cstr8(w, d->disk[i].name);
		gw_write_be64(w, d->disk[i].size);
		gw_write_u8(w, d->disk[i].backing ? FLAG_BACKING : 0);
	}
}

/* It is shown to people and given to QEMU. */
static bool is_name(const char *s)
{
	if (!*s)
		return false;
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || (unsigned char)*s > 0x7e)
			return false;
	return true;
}

static int get_disk(struct gw_reader *r, struct gw_disks *d, uint32_t *left)
{
	struct gw_disk *disk = &d->disk[d->n];
	uint32_t used;
	uint8_t flags;

	gw_read_cstr8(r, disk->name, "the name of a disk");
	disk->size = gw_read_be64(r);
	flags = gw_read_u8(r);
	if (gw_read_failed(r))
		return -r->err.code;
	used = 1 + (uint32_t)strlen(disk->name) + TAIL;
	if (used > *left)
		return gw_read_fail(
			r, EPROTO, "the list of disks is shorter than it says");
	*left -= used;
	if (!is_name(disk->name))
		return gw_read_fail(r, EPROTO,
				    "disk %u has a name that is none", d->n);
	if (!disk->size || disk->size % SECTOR || disk->size > INT64_MAX)
		return gw_read_fail(r, EPROTO,
				    "disk '%s' of %llu bytes: not sectors",
				    disk->name, (unsigned long long)disk->size);
	if (flags & ~FLAG_BACKING)
		return gw_read_fail(r, EPROTO,
				    "disk '%s' has unknown flags 0x%02x",
				    disk->name, flags);
	disk->backing = flags & FLAG_BACKING;
	for (uint32_t i = 0; i < d->n; i++)
		if (!strcmp(d->disk[i].name, disk->name))
			return gw_read_fail(r, EPROTO,
					    "disk '%s' is named twice",
					    disk->name);
	d->n++;
	return 0;
}

int gw_disks_get(struct gw_reader *r, const struct gw_record *rec,
		 struct gw_disks *d)
{
	uint32_t n = gw_read_be16(r), left = rec->len - 2;

	d->n = 0;
	if (gw_read_failed(r))
		return -r->err.code;
	if (rec->len < 2 || !n || n > GW_DISKS_MAX)
		return gw_read_fail(r, EPROTO,
				    "a list of %u disks, 1 to %u are possible",
				    n, GW_DISKS_MAX);
	while (d->n < n)
		if (get_disk(r, d, &left))
			return -r->err.code;
	if (left)
		return gw_read_fail(r, EPROTO,
				    "%u bytes behind the list of disks", left);
	return 0;
}

void gw_disks_put_progress(struct gw_writer *w, uint64_t done, uint64_t total)
{
	gw_record_put(w, GW_RECORD_DISKS_PROGRESS, false, 16);
	gw_write_be64(w, done);
	gw_write_be64(w, total);
}

int gw_disks_get_progress(struct gw_reader *r, const struct gw_record *rec,
			  uint64_t *done, uint64_t *total)
{
	if (rec->len != 16)
		return gw_read_fail(r, EPROTO,
				    "the progress of the disks in %u bytes",
				    rec->len);
	*done = gw_read_be64(r);
	*total = gw_read_be64(r);
	return -r->err.code;
}
