/* SPDX-License-Identifier: BSD-3-Clause */
/* store.c - open a store, place pages in it. See store.h; commit.c commits. */
#include "colo/store.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hugepage.h"
#include "base/scope.h"
#include "base/units.h"
#include "colo/internal.h"

#define REMEDY "remove it, or name another file with --cache"

/* --- the file ------------------------------------------------------------- */

static int lock_file(struct gw_store *s, struct gw_error *err)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (!fcntl(s->fd, F_OFD_SETLK, &l))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return gw_fail(err, EBUSY,
			       "%s is in use by another standby: name another "
			       "file with --cache",
			       s->path);
	return gw_fail_errno(err, errno, "locking %s", s->path);
}

static int open_file(struct gw_store *s, struct gw_error *err)
{
	struct stat st;

	if (s->memory)
		s->fd = memfd_create("godwit-cache", MFD_CLOEXEC);
	else
		s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->fd < 0 || fstat(s->fd, &st))
		return gw_fail_errno(err, errno, "opening %s", s->path);
	if (!S_ISREG(st.st_mode))
		return gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"%s is no regular file: name another one with --cache",
			s->path);
	return lock_file(s, err);
}

/* A file that was created must be in its folder after a power failure too. */
static int sync_folder(struct gw_store *s, struct gw_error *err)
{
	gw_autofree char *copy = NULL;
	gw_autoclose int dir = -1;

	if (s->memory || !s->sync)
		return 0;
	copy = strdup(s->path);
	if (copy)
		dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || fsync(dir))
		return gw_fail_errno(err, errno, "the folder of %s", s->path);
	return 0;
}

static int write_slots(struct gw_store *s, struct gw_error *err)
{
	struct gw_store_slot slot = { .phase = GW_STORE_DONE };
	uint8_t buf[GW_STORE_SLOT];
	int r = 0;

	for (int i = 0; i < 2 && !r; i++) {
		slot.serial = (uint64_t)i;
		gw_store_slot_put(&slot, buf);
		r = gw_store_pwrite(s, buf, sizeof(buf), s->layout.slot[i],
				    err);
	}
	return r;
}

/*
 * The first thing and the last thing that is written are 8 bytes, which are
 * there or not, whenever this process dies: a file that is half created says
 * so of itself.
 */
static int create(struct gw_store *s, struct gw_error *err)
{
	gw_autofree uint8_t *head = malloc(GW_STORE_HEAD);
	size_t n = GW_STORE_MAGIC_LEN;
	char size[32];
	int r;

	if (!head)
		return gw_fail(err, ENOMEM, "no memory for the head of %s",
			       s->path);
	gw_store_head_put(&s->head, head);
	r = gw_store_pwrite(s, GW_STORE_MAGIC_NEW, n, 0, err);
	if (!r && ftruncate(s->fd, (off_t)s->layout.total))
		r = gw_fail_errno(
			err, errno,
			"making %s %s long (it is sparse; the file system must "
			"take files of that length)",
			s->path,
			gw_format_size(size, sizeof(size), s->layout.total));
	if (!r)
		r = gw_store_pwrite(s, head + n, GW_STORE_HEAD - n, n, err);
	if (!r)
		r = write_slots(s, err);
	if (!r)
		r = gw_store_sync(s, err);
	if (!r)
		r = gw_store_pwrite(s, head, n, 0, err);
	if (!r)
		r = gw_store_sync(s, err);
	return r ? r : sync_folder(s, err);
}

/* --- whose it is ---------------------------------------------------------- */

static int other_vm(struct gw_store *s, const struct gw_store_head *h,
		    struct gw_error *err)
{
	if (strcmp(h->name, s->head.name))
		return gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"%s is the cache of VM '%s', not of VM '%s': " REMEDY,
			s->path, h->name, s->head.name);
	if (strcmp(h->machine, s->head.machine))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s is of a VM '%s' that is a '%s', not a "
				  "'%s': " REMEDY,
				  s->path, h->name, h->machine,
				  s->head.machine);
	if (h->nblocks != s->head.nblocks)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s is of a VM with %d RAM blocks, VM '%s' "
				  "has %d: " REMEDY,
				  s->path, h->nblocks, s->head.name,
				  s->head.nblocks);
	return 0;
}

static int other_block(struct gw_store *s, const struct gw_store_block *theirs,
		       const struct gw_store_block *ours, struct gw_error *err)
{
	if (strcmp(theirs->idstr, ours->idstr))
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "%s is of a VM with RAM block '%s', VM '%s' "
				  "has '%s': " REMEDY,
				  s->path, theirs->idstr, s->head.name,
				  ours->idstr);
	if (theirs->used_length != ours->used_length ||
	    theirs->page_size != ours->page_size)
		return gw_fail_as(
			err, GW_FAULT_USAGE, EINVAL,
			"%s has %llu bytes of RAM block '%s' in pages of %u, "
			"VM '%s' has %llu in pages of %u: " REMEDY,
			s->path, (unsigned long long)theirs->used_length,
			ours->idstr, theirs->page_size, s->head.name,
			(unsigned long long)ours->used_length, ours->page_size);
	return 0;
}

static int check_owner(struct gw_store *s, const struct gw_store_head *h,
		       struct gw_error *err)
{
	int r = other_vm(s, h, err);

	for (int i = 0; i < h->nblocks && !r; i++)
		r = other_block(s, &h->block[i], &s->head.block[i], err);
	return r;
}

/* What is in the file that is there, as far as its head. */
static int check_file(struct gw_store *s, const uint8_t *head, off_t size,
		      struct gw_error *err)
{
	gw_autofree struct gw_store_head *h = malloc(sizeof(*h));
	int r;

	if (!h)
		return gw_fail(err, ENOMEM, "no memory for the head of %s",
			       s->path);
	r = gw_store_head_get(h, head, err);
	if (r) {
		gw_error_prefix(err, "%s (" REMEDY ")", s->path);
		return r;
	}
	r = check_owner(s, h, err);
	if (!r && (uint64_t)size != s->layout.total)
		r = gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
			       "%s has %lld bytes, it had %llu when it was "
			       "made: " REMEDY,
			       s->path, (long long)size,
			       (unsigned long long)s->layout.total);
	return r;
}

/* Create it, or check it. */
static int begin(struct gw_store *s, struct gw_error *err)
{
	gw_autofree uint8_t *head = calloc(1, GW_STORE_HEAD);
	struct stat st;
	ssize_t n;

	if (!head)
		return gw_fail(err, ENOMEM, "no memory for the head of %s",
			       s->path);
	n = pread(s->fd, head, GW_STORE_HEAD, 0);
	if (n < 0 || fstat(s->fd, &st))
		return gw_fail_errno(err, errno, "reading %s", s->path);
	if (!n || !memcmp(head, GW_STORE_MAGIC_NEW, GW_STORE_MAGIC_LEN))
		return create(s, err);
	return check_file(s, head, st.st_size, err);
}

/* --- open, close ---------------------------------------------------------- */

static int describe(struct gw_store *s, const struct gw_store_config *c,
		    struct gw_error *err)
{
	struct gw_store_head *h = &s->head;

	if (!c->ram->nblocks)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "VM '%s' has no RAM to protect", c->name);
	if (strlen(c->name) > GW_STORE_NAME_MAX ||
	    strlen(c->machine) > GW_STORE_NAME_MAX)
		return gw_fail_as(err, GW_FAULT_USAGE, EINVAL,
				  "the name of VM '%.60s...' or of its machine "
				  "type has more than %d bytes",
				  c->name, GW_STORE_NAME_MAX);
	strcpy(h->name, c->name);
	strcpy(h->machine, c->machine);
	for (; h->nblocks < c->ram->nblocks; h->nblocks++) {
		const struct gw_ramblock *b = &c->ram->block[h->nblocks];

		strcpy(h->block[h->nblocks].idstr, b->idstr);
		h->block[h->nblocks].used_length = b->used_length;
		h->block[h->nblocks].page_size = b->page_size;
	}
	gw_store_layout(h, &s->layout);
	return 0;
}

static int map_file(struct gw_store *s, struct gw_error *err)
{
	void *p = mmap(NULL, s->layout.total, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_NORESERVE, s->fd, 0);
	char size[32];

	if (p == MAP_FAILED)
		return gw_fail_errno(
			err, errno, "mapping %s, %s", s->path,
			gw_format_size(size, sizeof(size), s->layout.total));
	s->map = p;
	return 0;
}

static int init_pages(struct gw_store *s, struct gw_error *err)
{
	int r = 0;

	for (int i = 0; i < s->head.nblocks && !r; i++) {
		struct gw_store_pages *p = &s->pages[i];

		p->npages = s->head.block[i].used_length / GW_PAGE_SIZE;
		p->committed = s->map + s->layout.committed[i];
		p->next = s->map + s->layout.next[i];
		r = gw_bitmap_init(&p->data, p->npages, err);
		if (!r)
			r = gw_bitmap_init(&p->zero, p->npages, err);
		if (!r)
			r = gw_bitmap_init(&p->present, p->npages, err);
		if (!r)
			r = gw_bitmap_init(&p->backed, p->npages, err);
	}
	return r;
}

static int open_steps(struct gw_store *s, const struct gw_store_config *c,
		      struct gw_error *err)
{
	int r = describe(s, c, err);

	if (!r)
		r = open_file(s, err);
	if (!r)
		r = begin(s, err);
	if (!r)
		r = map_file(s, err);
	if (!r)
		r = init_pages(s, err);
	if (r)
		return r;
	s->hash = XXH3_createState();
	if (!s->hash)
		return gw_fail(err, ENOMEM, "no memory for a store");
	s->flush = gw_flush_new(c->threads, err);
	if (!s->flush)
		return -ENOMEM;
	r = gw_store_resume(s, err);
	if (r)
		gw_error_prefix(err, "%s (" REMEDY ")", s->path);
	return r;
}

struct gw_store *gw_store_open(const struct gw_store_config *c,
			       struct gw_error *err)
{
	struct gw_store *s = calloc(1, sizeof(*s));

	if (!s) {
		gw_fail(err, ENOMEM, "no memory for a store");
		return NULL;
	}
	s->fd = -1;
	s->memory = !c->path;
	s->sync = c->sync;
	s->path = strdup(c->path ? c->path : "the cache in memory");
	if (!s->path)
		gw_fail(err, ENOMEM, "no memory for a store");
	if (!s->path || open_steps(s, c, err)) {
		gw_store_close(s);
		return NULL;
	}
	return s;
}

void gw_store_close(struct gw_store *s)
{
	if (!s)
		return;
	gw_flush_free(s->flush);
	XXH3_freeState(s->hash);
	for (int i = 0; i < s->head.nblocks; i++) {
		gw_bitmap_fini(&s->pages[i].data);
		gw_bitmap_fini(&s->pages[i].zero);
		gw_bitmap_fini(&s->pages[i].present);
		gw_bitmap_fini(&s->pages[i].backed);
	}
	if (s->map)
		munmap(s->map, s->layout.total);
	if (s->fd >= 0)
		close(s->fd);
	free(s->path);
	free(s);
}

/* --- memory --------------------------------------------------------------- */

uint64_t gw_store_run(const struct gw_bitmap *b, uint64_t *at, uint64_t end)
{
	uint64_t n = 0;

	if (*at < end)
		n = gw_bitmap_next_run(b, *at, end - *at, at);
	if (!n || *at >= end)
		return 0;
	return n < end - *at ? n : end - *at;
}

static int populate(struct gw_store *s, uint8_t *mem, uint64_t len,
		    struct gw_error *err)
{
	if (!gw_populate(mem, len))
		return 0;
	if (s->memory)
		return gw_fail(err, ENOMEM,
			       "no memory on this host for %s: name a file "
			       "with --cache",
			       s->path);
	return gw_fail(err, ENOSPC,
		       "no room for %s in its file system: name a file on "
		       "another one with --cache",
		       s->path);
}

int gw_store_back(struct gw_store *s, uint8_t *mem, struct gw_bitmap *have,
		  uint64_t first, uint64_t n, struct gw_error *err)
{
	uint64_t end = first + n, len;

	for (uint64_t at = first, has = first; at < end; at = has + len) {
		has = at;
		len = gw_store_run(have, &has, end);
		if (!len)
			has = end;
		if (has == at)
			continue;
		if (populate(s, mem + (at << GW_PAGE_BITS),
			     (has - at) << GW_PAGE_BITS, err))
			return -ENOSPC;
		gw_bitmap_set_range(have, at, has - at);
	}
	return 0;
}

int gw_store_punch(struct gw_store *s, uint64_t from, uint64_t len,
		   struct gw_error *err)
{
	if (!fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		       (off_t)from, (off_t)len))
		return 0;
	return gw_fail_errno(err, errno,
			     "giving back memory of %s (its file system must "
			     "be able to punch holes: ext4, xfs, btrfs, tmpfs)",
			     s->path);
}

/* --- placing -------------------------------------------------------------- */

int gw_store_usable(const struct gw_store *s, struct gw_error *err)
{
	if (s->broken.code && err)
		*err = s->broken;
	return -s->broken.code;
}

/* Page @page of `next` holds what came last, and is said to have come. */
static void fresh(struct gw_store_pages *p, uint64_t page)
{
	uint64_t at = page << GW_PAGE_BITS;

	if (gw_bitmap_set(&p->data, page))
		return;
	if (gw_bitmap_clear(&p->zero, page) ||
	    !gw_bitmap_test(&p->present, page))
		memset(p->next + at, 0, GW_PAGE_SIZE);
	else
		memcpy(p->next + at, p->committed + at, GW_PAGE_SIZE);
}

int gw_store_room(struct gw_store *s, int block, uint64_t first, uint32_t n,
		  uint8_t **host, struct gw_error *err)
{
	struct gw_store_pages *p = &s->pages[block];
	uint8_t *mem = s->slot.seq ? p->next : p->committed;
	int r = gw_store_usable(s, err);

	if (!r)
		r = gw_store_back(s, mem,
				  s->slot.seq ? &p->backed : &p->present, first,
				  n, err);
	if (r)
		return r;
	for (uint64_t i = first; i < first + n && s->slot.seq; i++)
		fresh(p, i);
	*host = mem + (first << GW_PAGE_BITS);
	return 0;
}

/* Of the first checkpoint: they are not touched if they never came. */
static void zero_first(struct gw_store_pages *p, uint64_t first, uint64_t end)
{
	uint64_t n;

	for (uint64_t at = first; (n = gw_store_run(&p->present, &at, end));
	     at += n)
		memset(p->committed + (at << GW_PAGE_BITS), 0,
		       n << GW_PAGE_BITS);
}

int gw_store_zeros(struct gw_store *s, int block, uint64_t first, uint64_t n,
		   struct gw_error *err)
{
	struct gw_store_pages *p = &s->pages[block];
	uint64_t end = first + n, len;
	int r = gw_store_usable(s, err);

	if (r)
		return r;
	if (!s->slot.seq) {
		zero_first(p, first, end);
		return 0;
	}
	for (uint64_t at = first; (len = gw_store_run(&p->data, &at, end));
	     at += len)
		for (uint64_t i = at; i < at + len; i++)
			gw_bitmap_clear(&p->data, i);
	/* What is a hole is zero and stays one. */
	for (uint64_t at = first; (len = gw_store_run(&p->present, &at, end));
	     at += len)
		gw_bitmap_set_range(&p->zero, at, len);
	return 0;
}

/* --- what is there -------------------------------------------------------- */

uint64_t gw_store_seq(const struct gw_store *s)
{
	return s->slot.seq;
}

const void *gw_store_state(const struct gw_store *s, size_t *len)
{
	*len = s->slot.nstate;
	return s->map + s->layout.state[s->slot.area];
}

uint32_t gw_store_flags(const struct gw_store *s)
{
	return s->slot.flags;
}

const uint8_t *gw_store_page(struct gw_store *s, int block, uint64_t page)
{
	struct gw_store_pages *p = &s->pages[block];

	return gw_bitmap_test(&p->present, page)
		       ? p->committed + (page << GW_PAGE_BITS)
		       : NULL;
}

uint64_t gw_store_bytes(const struct gw_store *s)
{
	struct stat st;

	return fstat(s->fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}
