/* SPDX-License-Identifier: BSD-3-Clause */
/* disks.c - see disks.h. */
#include "dest/disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pause.h"
#include "chan/pump.h"
#include "dest/internal.h"
#include "wire/disks.h"

struct gw_dest_disks {
	struct gw_disks list;
	struct gw_pump pump[GW_DISKS_MAX];
	bool served; /* the VMM may have written to an image */
	bool ended;
};

static const struct gw_vm_disk_ops *ops_of(struct gw_dest *d)
{
	return d->c.vm->ops->disks;
}

/* The source ended a disk's connection: it may have said why. */
static int source_reason(struct gw_dest *d, struct gw_error *err)
{
	struct gw_record rec;
	struct gw_error said = { 0 };

	d->c.chan->read_timeout_ms = 1000;
	if (gw_read_u8(&d->in) == GW_ITEM_RECORD &&
	    gw_dest_record(d, &rec, &said) && d->source_owns)
		*err = said;
	return -err->code;
}

/* Its VMM is about to speak: then ours is asked for a connection, and not
 * before, as it gives a client only some seconds to say hello. */
static int wait_now(struct gw_dest *d, struct gw_chan *chan,
		    struct gw_error *err)
{
	uint8_t byte = 0;
	struct iovec iov = { &byte, 1 };
	ssize_t n = gw_chan_readv(chan, &iov, 1, err);

	if (n == 0)
		gw_fail(err, ECONNRESET, "%s closed the connection of a disk",
			chan->peer);
	if (n <= 0)
		return source_reason(d, err);
	if (byte != GW_DISKS_NOW)
		return gw_fail_as(
			err, GW_FAULT_INPUT, EPROTO,
			"byte 0x%02x where a disk's connection begins", byte);
	return 0;
}

static int connect_disk(struct gw_dest *d, uint32_t i, struct gw_error *err)
{
	struct gw_chan **net = &d->join.chan[d->nchannels + i], *local;
	int64_t idle_ms = d->c.params->idle_timeout_ns / GW_NS_PER_MS;
	int r, fd;

	(*net)->read_timeout_ms = (*net)->write_timeout_ms = idle_ms;
	r = wait_now(d, *net, err);
	if (r)
		return r;
	fd = ops_of(d)->connect(d->c.vm, err);
	if (fd < 0)
		return fd;
	local = gw_chan_from_fd(fd, "the destination QEMU", err);
	if (!local) {
		close(fd);
		return -err->code;
	}
	local->cancel = d->c.cancel;
	/* A guest that writes nothing is silent. */
	(*net)->read_timeout_ms = -1;
	r = gw_pump_start(&d->disks->pump[i], *net, local, err);
	if (r)
		gw_chan_close(local);
	else
		*net = NULL;
	return r;
}

static int read_list(struct gw_dest *d, const struct gw_record *rec,
		     struct gw_error *err)
{
	if (!d->ndisks || d->disks || !ops_of(d) || d->phase > GW_DEST_RAM)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "a list of disks that was not agreed on");
	d->disks = calloc(1, sizeof(*d->disks));
	if (!d->disks)
		return gw_fail(err, ENOMEM, "no memory for disks");
	if (gw_disks_get(&d->in, rec, &d->disks->list))
		return gw_read_check(&d->in, err);
	if (d->disks->list.n != d->ndisks)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "%u disks in the list, %u were announced",
				  d->disks->list.n, d->ndisks);
	return 0;
}

int gw_dest_disks_serve(struct gw_dest *d, const struct gw_record *rec,
			struct gw_error *err)
{
	int r = read_list(d, rec, err);

	if (r)
		return r;
	d->disks->served = true;
	r = ops_of(d)->serve(d->c.vm, &d->disks->list, err);
	if (r)
		return r;
	gw_record_put(&d->out, GW_RECORD_DISKS_READY, true, 0);
	r = gw_write_flush(&d->out, err);
	for (uint32_t i = 0; i < d->ndisks && !r; i++)
		r = connect_disk(d, i, err);
	if (!r)
		gw_pause_at(GW_PAUSE_DEST_DISKS);
	return r;
}

int gw_dest_disks_progress(struct gw_dest *d, const struct gw_record *rec,
			   struct gw_error *err)
{
	if (gw_disks_get_progress(&d->in, rec, &d->now->disk_done,
				  &d->now->disk_total))
		return gw_read_check(&d->in, err);
	gw_progress_tick(d->c.progress);
	return 0;
}

int gw_dest_disks_end(struct gw_dest *d, struct gw_error *err)
{
	int64_t ms = d->c.params->idle_timeout_ns / GW_NS_PER_MS;
	int r = 0;

	if (!d->disks || d->disks->ended || d->phase != GW_DEST_DEVICE)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the end of disks that are not under way");
	for (uint32_t i = 0; i < d->ndisks && !r; i++) {
		r = gw_pump_wait(&d->disks->pump[i], ms, err);
		d->now->disk_transferred +=
			gw_chan_bytes_read(d->disks->pump[i].a);
		if (r)
			gw_error_prefix(err, "disk '%s'",
					d->disks->list.disk[i].name);
	}
	if (!r)
		r = ops_of(d)->stop(d->c.vm, err);
	d->disks->ended = !r;
	d->now->disk_done = d->now->disk_total;
	return r;
}

int gw_dest_disks_check(const struct gw_dest *d, struct gw_error *err)
{
	if (!d->ndisks || (d->disks && d->disks->ended))
		return 0;
	return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			  "%u disks were announced and did not come",
			  d->ndisks);
}

bool gw_dest_disks_touched(const struct gw_dest *d)
{
	return d->disks && d->disks->served;
}

void gw_dest_disks_free(struct gw_dest *d)
{
	struct gw_error why;

	if (!d->disks)
		return;
	for (uint32_t i = 0; i < d->ndisks; i++)
		gw_pump_stop(&d->disks->pump[i]);
	if (ops_of(d)->stop(d->c.vm, &why))
		gw_warn("%s", why.msg);
	free(d->disks);
	d->disks = NULL;
}
