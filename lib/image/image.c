/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * image.c - see image.h: opening, which is one pass over the stream up to its
 * device sections, and what does not depend on where pages are.
 */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image/direct.h"
#include "image/file.h"

#define READ_SIZE (1u << 20)

/* --- shared by the two kinds -------------------------------------------- */

void *gw_lazy_alloc(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void gw_lazy_free(void *p, uint64_t size)
{
	if (p)
		munmap(p, size);
}

bool gw_bits_run(const uint64_t *word, uint64_t first, uint64_t max,
		 uint64_t *n)
{
	bool value = word[first / 64] >> first % 64 & 1;
	uint64_t skip = value ? ~0ULL : 0, at = first;

	while (at - first < max) {
		/* bits that differ, from @at on */
		uint64_t w = (word[at / 64] ^ skip) >> at % 64;

		if (w) {
			at += (uint64_t)__builtin_ctzll(w);
			break;
		}
		at += 64 - at % 64;
	}
	*n = at - first < max ? at - first : max;
	return value;
}

/* --- opening ------------------------------------------------------------ */

struct loader {
	struct gw_input in;
	const struct gw_cancel *cancel;
	const struct gw_image_kind *kind;
	struct gw_image_file *f; /* NULL before CONFIG */
	char name[256];
	struct gw_reader r;
	uint64_t pos; /* file offset behind what @r has read */
	struct gw_stream s;
	struct gw_stream_event ev;
	uint64_t section_at; /* r.offset where the section began */
};

static ssize_t refill(void *arg, const struct iovec *iov, int niov,
		      struct gw_error *err)
{
	struct loader *l = arg;
	ssize_t n;

	if (gw_cancel_requested(l->cancel))
		return gw_cancel_fail(err);
	do
		n = preadv(l->in.fd, iov, niov, (off_t)l->pos);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return gw_fail_as(err, GW_FAULT_INPUT, errno,
				  "reading the file: %s", strerror(errno));
	l->pos += (uint64_t)n;
	return n;
}

/* Over the pages of a mapped-ram file. */
static int seek(void *arg, uint64_t len, struct gw_error *err)
{
	struct loader *l = arg;

	if (len > l->in.size - l->pos)
		return gw_fail_as(err, GW_FAULT_INPUT, ENODATA,
				  "the file has %llu bytes, but bitmap and pages go on to byte %llu",
				  (unsigned long long)l->in.size,
				  (unsigned long long)(l->pos + len));
	l->pos += len;
	return 0;
}

static uint64_t file_offset(const struct loader *l)
{
	return l->in.base + l->r.offset;
}

static int on_config(struct loader *l, struct gw_error *err)
{
	struct gw_image *img;

	l->kind = l->s.config.mapped_ram ? &gw_image_mapped : &gw_image_stream;
	l->f = l->kind->new();
	if (!l->f)
		return gw_fail(err, ENOMEM, "no memory for an image");
	img = &l->f->img;
	img->ops = &l->kind->ops;
	img->format = l->kind->format;
	snprintf(img->path, sizeof(img->path), "%s", l->name);
	img->desc.config = l->s.config;
	img->size = l->in.size;
	img->allocated = l->in.allocated;
	img->base = l->in.base;
	img->libvirt = l->in.libvirt;
	l->f->fd = l->in.fd; /* which the loader goes on reading */
	l->f->direct = -1;
	return 0;
}

/* Room for one more: sizes are powers of two. */
static int on_section(struct loader *l, struct gw_error *err)
{
	struct gw_image *img = &l->f->img;
	size_t n = (size_t)img->npasses;
	struct gw_image_pass *p;

	l->section_at = l->r.offset;
	if (!(n & (n - 1))) {
		p = realloc(img->pass, (n ? 2 * n : 1) * sizeof(*p));
		if (!p)
			return gw_fail(err, ENOMEM, "no memory for %zu sections",
				       2 * n);
		img->pass = p;
	}
	img->pass[n] = (struct gw_image_pass){ .item = l->ev.item };
	img->npasses++;
	return 0;
}

static int on_page(struct loader *l, struct gw_error *err)
{
	struct gw_image_pass *p = &l->f->img.pass[l->f->img.npasses - 1];
	uint64_t at = file_offset(l);

	switch (l->ev.kind) {
	case GW_STREAM_PAGE:
		p->normal++;
		gw_read_skip(&l->r, GW_PAGE_SIZE);
		if (gw_read_failed(&l->r))
			return -l->r.err.code;
		break;
	case GW_STREAM_ZERO:
		p->zero++;
		break;
	default:
		p->delta++;
		at -= l->ev.delta_len;
	}
	return l->kind->record(l->f, &l->ev, at, err);
}

static int on_event(struct loader *l, struct gw_error *err)
{
	struct gw_image *img = l->f ? &l->f->img : NULL;

	switch (l->ev.kind) {
	case GW_STREAM_CONFIG:
		return on_config(l, err);
	case GW_STREAM_SECTION:
		return on_section(l, err);
	case GW_STREAM_TABLE:
		img->desc.table = l->s.ram.table;
		return l->kind->table(l->f, err);
	case GW_STREAM_PAGE:
	case GW_STREAM_ZERO:
	case GW_STREAM_DELTA:
		return on_page(l, err);
	case GW_STREAM_FLUSH:
		return gw_fail_as(err, GW_FAULT_INPUT, ENOTSUP,
				  "this is the main connection of a migration with multifd: its pages went over other connections and are not here");
	case GW_STREAM_SECTION_END:
		img->pass[img->npasses - 1].nbytes =
			l->r.offset - l->section_at;
		return 0;
	case GW_STREAM_COMMAND:
		img->switchover |= l->ev.command.id == GW_CMD_SWITCHOVER_START;
		return 0;
	case GW_STREAM_EOS:
	case GW_STREAM_TAIL:
		break;
	}
	return 0;
}

static int read_ram(struct loader *l, struct gw_error *err)
{
	do {
		int r = gw_stream_next(&l->s, &l->ev);

		if (!r)
			r = on_event(l, err);
		if (!r)
			continue;
		return gw_read_failed(&l->r) ? gw_read_check(&l->r, err) : r;
	} while (l->ev.kind != GW_STREAM_TAIL);
	return 0;
}

/* Everything to the end of the file: the sections have no lengths. Behind those
 * of COLO come checkpoints. */
static int read_tail(struct loader *l, struct gw_error *err)
{
	struct gw_image *img = &l->f->img;
	uint64_t rest = l->in.size - file_offset(l), len = rest;

	img->colo = l->s.colo;
	if (img->colo && len > GW_MAX_DEVICE_STATE)
		len = GW_MAX_DEVICE_STATE;
	if (len > GW_MAX_DEVICE_STATE)
		return gw_fail_as(err, GW_FAULT_INPUT, EMSGSIZE,
				  "%llu bytes behind RAM, the limit for device state is %u",
				  (unsigned long long)len, GW_MAX_DEVICE_STATE);
	img->tail = malloc(len ? len : 1);
	if (!img->tail)
		return gw_fail(err, ENOMEM, "no memory for %llu bytes of device state",
			       (unsigned long long)len);
	gw_read_bytes(&l->r, img->tail, len);
	if (gw_read_check(&l->r, err))
		return -err->code;
	if (img->colo && gw_tail_length(img->tail, len)) {
		len = gw_tail_length(img->tail, len);
		img->colo_bytes = rest - len;
	}
	img->tail_len = len;
	img->have_end = l->s.have_end;
	img->return_path = l->s.return_path;
	return gw_tail_find_end(img->tail, len, &img->eof, &img->vmdesc,
				&img->vmdesc_len, err);
}

/* "PART 17 of ram, block 'pc.ram' at 0x2000" */
static void where(const struct loader *l, char *text, size_t len)
{
	const struct gw_ram_table *t = &l->s.ram.table;
	const char *item = l->s.item == GW_ITEM_SECTION_START ? "START" :
			   l->s.item == GW_ITEM_SECTION_END   ? "END" :
								"PART";
	int n;

	if (!l->s.have_config) {
		snprintf(text, len, "header");
	} else if (!l->s.in_section) {
		snprintf(text, len, "between sections");
		if (l->ev.kind == GW_STREAM_TAIL)
			snprintf(text, len, "device sections");
	} else {
		n = snprintf(text, len, "section ram %s", item);
		if (l->s.item == GW_ITEM_SECTION_PART)
			n += snprintf(text + n, len - (size_t)n, " %u",
				      l->s.nparts);
		if (l->s.ram.last >= 0)
			snprintf(text + n, len - (size_t)n,
				 ", block '%s' at 0x%llx or behind it",
				 t->entry[l->s.ram.last].idstr,
				 (unsigned long long)l->ev.addr);
		else if (l->s.item == GW_ITEM_SECTION_START && t->n)
			snprintf(text + n, len - (size_t)n, ", block '%s'",
				 t->entry[t->n - 1].idstr);
	}
}

static int load(struct loader *l, struct gw_error *err)
{
	char text[GW_IDSTR_MAX + 128];
	uint64_t at;
	int r = gw_reader_init(&l->r, refill, l, READ_SIZE, err);

	if (r)
		return r;
	l->r.seek = seek;
	l->pos = l->in.base;
	posix_fadvise(l->in.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	gw_stream_init(&l->s, &l->r, l->in.base);
	r = read_ram(l, err);
	at = file_offset(l);
	if (!r)
		r = read_tail(l, err);
	if (r && err->fault != GW_FAULT_CANCELLED) {
		where(l, text, sizeof(text));
		gw_error_prefix(err, "%s: byte %llu, %s%s", l->name,
				(unsigned long long)at, text,
				r == -ECONNRESET ? " (cut off or unfinished)" :
						   "");
	}
	return r;
}

struct gw_image *gw_image_open(const char *path,
			       const struct gw_cancel *cancel,
			       struct gw_error *err)
{
	struct loader *l = calloc(1, sizeof(*l)); /* too large for a stack */
	struct gw_image_file *f;
	struct gw_error local = { 0 };
	int r;

	err = err ? err : &local;
	if (!l) {
		gw_fail(err, ENOMEM, "no memory");
		return NULL;
	}
	l->cancel = cancel;
	r = gw_input_open(&l->in, path, l->name, cancel, err);
	if (!r)
		r = load(l, err);
	gw_reader_fini(&l->r);
	f = l->f;
	if (!f && l->in.fd >= 0)
		close(l->in.fd);
	free(l);
	if (!r)
		return &f->img;
	gw_image_close(f ? &f->img : NULL);
	return NULL;
}

void gw_image_close(struct gw_image *img)
{
	struct gw_image_file *f = (struct gw_image_file *)img;

	if (!img)
		return;
	close(f->fd);
	if (f->direct >= 0)
		close(f->direct);
	free(img->pass);
	free(img->tail);
	img->ops->close(img);
}

/* --- reading ------------------------------------------------------------ */

void gw_image_read_direct(struct gw_image *img)
{
	struct gw_image_file *f = (struct gw_image_file *)img;

	if (f->direct < 0)
		f->direct = gw_direct_open(f->fd, O_RDONLY);
}

int gw_image_read(struct gw_image *img, int block, uint64_t page, uint32_t n,
		  void *dst, struct gw_error *err)
{
	uint8_t *to = dst;
	uint64_t run;
	int r;

	for (; n; n -= (uint32_t)run, page += run, to += run * GW_PAGE_SIZE) {
		if (img->ops->state(img, block, page, n, &run) !=
		    GW_PAGE_DATA) {
			memset(to, 0, run * GW_PAGE_SIZE);
			continue;
		}
		r = img->ops->read(img, block, page, (uint32_t)run, to, err);
		if (!r)
			continue;
		gw_error_prefix(err, "%s: block '%s', pages from 0x%llx",
				img->path, img->desc.table.entry[block].idstr,
				(unsigned long long)page * GW_PAGE_SIZE);
		return r;
	}
	return 0;
}

static void count_block(struct gw_image *img, int block, uint64_t npages[3])
{
	uint64_t all = gw_image_npages(img, block), n;

	for (uint64_t page = 0; page < all; page += n) {
		enum gw_page_state s =
			img->ops->state(img, block, page, all - page, &n);

		npages[s] += n;
	}
}

void gw_image_count(struct gw_image *img, int block, uint64_t npages[3])
{
	memset(npages, 0, 3 * sizeof(*npages));
	for (int i = 0; i < img->desc.table.n; i++)
		if (block < 0 || block == i)
			count_block(img, i, npages);
}
