/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * stream_sink.c - see stream_sink.h; and the stream as a file.
 *
 * Pages are referenced until the writer's next flush, and the caller's buffer
 * is only ours until pages() returns. So a long run is flushed at once, while
 * single pages are copied first: a memcpy is cheaper than a system call.
 */
#include "image/stream_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "chan/chan.h"
#include "image/internal.h"
#include "image/savefile.h"

/* A handle within the stream. QEMU takes any; device sections keep the small
 * numbers that their source gave them, so this must be none of those. */
#define RAM_SECTION_ID 0x52414d00u

#define COPY_PAGES 32 /* longer runs are flushed instead */
#define BUFFER	   (128u * GW_PAGE_SIZE)

struct stream_sink {
	struct gw_sink base;
	struct gw_stream_out out;
	struct gw_sink_ops ops; /* with the name, and check if there is one */
	void *arg;
	const struct gw_image_desc *d;
	struct gw_ram_encoder enc;
	bool in_part;
	bool flushes; /* MULTIFD_FLUSH says where to wait, not the EOS */
	size_t used; /* of buffer, since the last flush */
	uint8_t *buffer;
	char *vmdesc; /* until the last word */
	size_t vmdesc_len;
	struct gw_writer w;
};

static int account(struct stream_sink *s, struct gw_error *err)
{
	__atomic_store_n(&s->base.nbytes, s->w.offset, __ATOMIC_RELAXED);
	return gw_write_check(&s->w, err);
}

static int flush(struct stream_sink *s, struct gw_error *err)
{
	int r = gw_write_flush(&s->w, err);

	s->used = 0;
	return r ? r : account(s, err);
}

/* EOS and footer; with channels the receiver waits for them here. */
static void close_section(struct stream_sink *s)
{
	if (s->out.channels)
		s->base.syncs++;
	if (s->flushes)
		gw_ram_put_flush(&s->w);
	gw_ram_put_eos(&s->w);
	gw_section_put_footer(&s->w, RAM_SECTION_ID);
	s->in_part = false;
}

/*
 * What the destination expects on channels goes by the machine type: up to 8.0
 * it waits at every EOS; up to 8.2 it cannot have zero pages in packets.
 */
static void channel_rules(struct stream_sink *s, const char *machine)
{
	unsigned int major = 0, minor = 0, version;
	bool known = gw_machine_version(machine, &major, &minor);

	version = 100 * major + minor;
	s->flushes = s->out.channels && (!known || version > 800);
	s->base.channel_zeros = s->out.channels && known && version >= 900;
}

static int stream_begin(struct gw_sink *base, const struct gw_image_desc *d,
			struct gw_error *err)
{
	static const struct gw_section ram = { .id = RAM_SECTION_ID,
					       .idstr = "ram",
					       .version_id = GW_RAM_VERSION };
	struct stream_sink *s = (struct stream_sink *)base;
	struct gw_configuration config = d->config;

	s->d = d;
	config.ignore_shared = config.mapped_ram = false;
	gw_stream_put_header(&s->w);
	gw_configuration_put(&s->w, &config);
	if (s->out.return_path) {
		gw_command_put(&s->w, GW_CMD_OPEN_RETURN_PATH);
		gw_command_put_ping(&s->w, GW_STREAM_PING_BEGIN);
	}
	gw_section_put_long(&s->w, GW_ITEM_SECTION_START, &ram);
	gw_ram_put_total(&s->w, d->table.total);
	for (int i = 0; i < d->table.n; i++)
		gw_ram_put_entry(&s->w, d->table.entry[i].idstr,
				 d->table.entry[i].used_length, NULL);
	channel_rules(s, config.machine);
	close_section(s);
	return flush(s, err);
}

static void open_part(struct stream_sink *s)
{
	if (!s->in_part)
		gw_section_put_short(&s->w, GW_ITEM_SECTION_PART,
				     RAM_SECTION_ID);
	s->in_part = true;
}

static void put_page(struct stream_sink *s, int block, uint64_t page,
		     const void *data)
{
	gw_ram_put_page(&s->w, &s->enc, s->d->table.entry[block].idstr,
			page * GW_PAGE_SIZE, data);
}

/* A copy that is good until the next flush, @len at most a page. NULL: failed. */
static const void *keep(struct stream_sink *s, const void *data, size_t len,
			struct gw_error *err)
{
	void *copy;

	/* What the writer refers to must not be overwritten before it is out. */
	if (s->used + len > BUFFER && flush(s, err))
		return NULL;
	copy = memcpy(s->buffer + s->used, data, len);
	s->used += len;
	return copy;
}

static int put_copy(struct stream_sink *s, int block, uint64_t page,
		    const void *data, struct gw_error *err)
{
	const void *copy = keep(s, data, GW_PAGE_SIZE, err);

	if (!copy)
		return -s->w.err.code;
	put_page(s, block, page, copy);
	return 0;
}

static int stream_pages(struct gw_sink *base, int block, uint64_t first,
			uint32_t n, const void *data, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;
	const uint8_t *p = data;
	int r = 0;

	open_part(s);
	if (n > COPY_PAGES) {
		for (uint32_t i = 0; i < n; i++, p += GW_PAGE_SIZE)
			put_page(s, block, first + i, p);
		return flush(s, err);
	}
	for (uint32_t i = 0; i < n && !r; i++, p += GW_PAGE_SIZE)
		r = put_copy(s, block, first + i, p, err);
	return r ? r : account(s, err);
}

static int stream_zeros(struct gw_sink *base, int block, uint64_t first,
			uint64_t n, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;
	const char *idstr = s->d->table.entry[block].idstr;

	open_part(s);
	for (uint64_t i = 0; i < n && !gw_write_failed(&s->w); i++)
		gw_ram_put_zero(&s->w, &s->enc, idstr,
				(first + i) * GW_PAGE_SIZE);
	return account(s, err);
}

static int stream_delta(struct gw_sink *base, int block, uint64_t page,
			const void *delta, uint16_t len, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;

	const void *copy;

	open_part(s);
	copy = keep(s, delta, len, err);
	if (!copy)
		return -s->w.err.code;
	gw_ram_put_delta(&s->w, &s->enc, s->d->table.entry[block].idstr,
			 page * GW_PAGE_SIZE, copy, len);
	return account(s, err);
}

static int stream_pass(struct gw_sink *base, bool last, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;

	if (s->out.channels)
		open_part(s);
	if (s->in_part)
		close_section(s);
	if (last) {
		gw_section_put_short(&s->w, GW_ITEM_SECTION_END,
				     RAM_SECTION_ID);
		close_section(s);
	}
	return flush(s, err);
}

static int stream_device(struct gw_sink *base, const void *sections, size_t len,
			 const char *vmdesc, size_t vmdesc_len,
			 struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;

	if (vmdesc) {
		s->vmdesc = malloc(vmdesc_len + 1);
		if (!s->vmdesc)
			return gw_fail(err, ENOMEM,
				       "no memory for %zu bytes of description",
				       vmdesc_len);
		memcpy(s->vmdesc, vmdesc, vmdesc_len);
		s->vmdesc_len = vmdesc_len;
	}
	gw_write_ref(&s->w, sections, len);
	return flush(s, err);
}

static int last_word(struct stream_sink *s, struct gw_error *err)
{
	gw_image_put_end(&s->w, s->vmdesc, s->vmdesc_len);
	return flush(s, err);
}

static int stream_ready(struct gw_sink *base, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;
	int r = 0;

	if (!s->out.runs_it)
		r = last_word(s, err);
	else if (s->out.return_path)
		gw_command_put_ping(&s->w, GW_STREAM_PING_READY);
	if (!r)
		r = flush(s, err);
	return r || !s->out.ready ? r : s->out.ready(s->arg, err);
}

static int stream_finish(struct gw_sink *base, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;
	int r = s->out.runs_it ? last_word(s, err) : 0;

	return s->out.finish ? s->out.finish(s->arg, r, err) : r;
}

static int stream_check(struct gw_sink *base, struct gw_error *err)
{
	struct stream_sink *s = (struct stream_sink *)base;

	return s->out.check(s->arg, err);
}

static void stream_close(struct gw_sink *base)
{
	struct stream_sink *s = (struct stream_sink *)base;

	if (s->out.close)
		s->out.close(s->arg);
	free(s->vmdesc);
	free(s->buffer);
	free(s);
}

static const struct gw_sink_ops stream_ops = {
	.name = "stream",
	.begin = stream_begin,
	.pages = stream_pages,
	.zeros = stream_zeros,
	.delta = stream_delta,
	.pass = stream_pass,
	.device = stream_device,
	.ready = stream_ready,
	.finish = stream_finish,
	.close = stream_close,
};

struct gw_sink *gw_sink_stream(const struct gw_stream_out *out, void *arg,
			       struct gw_error *err)
{
	struct stream_sink *s = calloc(1, sizeof(*s));

	if (s)
		s->buffer = malloc(BUFFER);
	if (!s || !s->buffer) {
		free(s);
		if (out->close)
			out->close(arg);
		gw_fail(err, ENOMEM, "no memory for a stream");
		return NULL;
	}
	s->out = *out;
	s->arg = arg;
	s->ops = stream_ops;
	s->base.ops = &s->ops;
	s->base.runs_it = out->runs_it;
	s->base.channels = out->channels;
	if (out->name)
		s->ops.name = out->name;
	if (out->check)
		s->ops.check = stream_check;
	gw_writer_init(&s->w, out->flush, arg);
	return &s->base;
}

/* --- a file ------------------------------------------------------------- */

struct stream_file {
	struct gw_savefile file;
	struct gw_chan *chan; /* over a duplicate of file.fd */
	uint64_t nbytes;      /* flushed */
};

static int file_flush(void *arg, struct iovec *iov, int niov,
		      struct gw_error *err)
{
	struct stream_file *f = arg;
	struct gw_error why = { 0 };
	size_t len = 0;
	int r;

	for (int i = 0; i < niov; i++)
		len += iov[i].iov_len;
	if (gw_cancel_requested(f->chan->cancel))
		return gw_cancel_fail(err);
	r = gw_chan_writev(f->chan, iov, niov, &why);
	if (r == -ENOSPC || r == -EDQUOT || r == -EFBIG)
		return gw_savefile_full(&f->file, -r, len, f->nbytes, err);
	if (r && err)
		*err = why;
	f->nbytes += len;
	return r;
}

static int file_ready(void *arg, struct gw_error *err)
{
	struct stream_file *f = arg;

	return gw_savefile_sync(&f->file, err);
}

static int file_finish(void *arg, int r, struct gw_error *err)
{
	struct stream_file *f = arg;

	gw_chan_close(f->chan);
	f->chan = NULL;
	return r ? r : gw_savefile_finish(&f->file, err);
}

static void file_close(void *arg)
{
	struct stream_file *f = arg;

	gw_chan_close(f->chan);
	gw_savefile_close(&f->file);
	free(f);
}

struct gw_sink *gw_sink_stream_file(const char *path,
				    const struct gw_sink_options *o,
				    struct gw_error *err)
{
	static const struct gw_stream_out out = { .flush = file_flush,
						  .ready = file_ready,
						  .finish = file_finish,
						  .close = file_close };
	struct stream_file *f = calloc(1, sizeof(*f));
	gw_autoclose int fd = -1;

	if (!f) {
		gw_fail(err, ENOMEM, "no memory for a file");
		return NULL;
	}
	if (gw_savefile_open(&f->file, path, GW_SAVE_IN_ORDER, o->cancel, err))
		goto fail;
	fd = fcntl(f->file.fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0) {
		gw_fail_errno(err, errno, "%s", path);
		goto fail;
	}
	f->chan = gw_chan_from_fd(fd, path, err);
	if (!f->chan)
		goto fail;
	fd = -1;
	f->chan->cancel = o->cancel;
	return gw_sink_stream(&out, f, err);
fail:
	file_close(f);
	return NULL;
}
