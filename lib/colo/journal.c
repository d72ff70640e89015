/* SPDX-License-Identifier: BSD-3-Clause */
/* journal.c - see journal.h. */
#include "colo/journal.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/reader.h"

#define VERSION	 1
#define HASH_LEN 8

void gw_store_layout(const struct gw_store_head *h, struct gw_store_layout *l)
{
	uint64_t at = GW_STORE_HEAD, words = 0;

	memset(l, 0, sizeof(*l));
	for (int i = 0; i < 2; i++, at += GW_PAGE_SIZE)
		l->slot[i] = at;
	for (int i = 0; i < h->nblocks; i++)
		words += (h->block[i].used_length / GW_PAGE_SIZE + 63) / 64;
	l->map = at;
	l->map_max = words * 2 * GW_STORE_ENTRY;
	at += (l->map_max + GW_PAGE_SIZE - 1) & -(uint64_t)GW_PAGE_SIZE;
	for (int i = 0; i < 2; i++, at += GW_STORE_STATE_MAX)
		l->state[i] = at;
	for (int i = 0; i < h->nblocks; at += h->block[i++].used_length)
		l->committed[i] = at;
	for (int i = 0; i < h->nblocks; at += h->block[i++].used_length)
		l->next[i] = at;
	l->total = at;
}

/* --- head ----------------------------------------------------------------- */

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	gw_put_be32(p, v);
	return p + 4;
}

static uint8_t *put64(uint8_t *p, uint64_t v)
{
	gw_put_be64(p, v);
	return p + 8;
}

static uint8_t *put_text(uint8_t *p, const char *s)
{
	size_t n = strlen(s);

	p = put32(p, (uint32_t)n);
	memcpy(p, s, n);
	return p + n;
}

void gw_store_head_put(const struct gw_store_head *h, uint8_t *buf)
{
	uint8_t *p = buf + GW_STORE_MAGIC_LEN;

	memset(buf, 0, GW_STORE_HEAD);
	memcpy(buf, GW_STORE_MAGIC, GW_STORE_MAGIC_LEN);
	p = put32(p, VERSION);
	p = put32(p, 0); /* the length, once it is known */
	p = put_text(p, h->name);
	p = put_text(p, h->machine);
	p = put32(p, (uint32_t)h->nblocks);
	for (int i = 0; i < h->nblocks; i++) {
		p = put_text(p, h->block[i].idstr);
		p = put64(p, h->block[i].used_length);
		p = put32(p, h->block[i].page_size);
	}
	put32(buf + GW_STORE_MAGIC_LEN + 4, (uint32_t)(p - buf));
	put64(p, XXH3_64bits(buf, (size_t)(p - buf)));
}

static void get_text(struct gw_reader *r, char to[GW_STORE_NAME_MAX + 1],
		     const char *what)
{
	uint32_t n = gw_read_len32(r, GW_STORE_NAME_MAX, what);

	memset(to, 0, GW_STORE_NAME_MAX + 1);
	gw_read_bytes(r, to, n);
	if (!gw_read_failed(r) && strlen(to) != n)
		gw_read_fail(r, EPROTO, "the %s has a NUL in it", what);
}

static void get_block(struct gw_reader *r, struct gw_store_block *b)
{
	get_text(r, b->idstr, "name of a block");
	b->used_length = gw_read_be64(r);
	b->page_size = gw_read_be32(r);
	if (!gw_read_failed(r) &&
	    (!b->used_length || b->used_length % GW_PAGE_SIZE ||
	     b->used_length > GW_RAM_MAX_LENGTH))
		gw_read_fail(r, EPROTO, "block '%s' has %llu bytes", b->idstr,
			     (unsigned long long)b->used_length);
}

static void get_fields(struct gw_reader *r, struct gw_store_head *h)
{
	get_text(r, h->name, "VM's name");
	get_text(r, h->machine, "machine type");
	h->nblocks =
		(int)gw_read_len32(r, GW_RAM_MAX_BLOCKS, "number of blocks");
	for (int i = 0; i < h->nblocks && !gw_read_failed(r); i++)
		get_block(r, &h->block[i]);
}

/* Version and length before the rest, whose meaning they are. */
static int check_head(const uint8_t *buf, uint32_t *len, struct gw_error *err)
{
	const uint8_t *p = buf + GW_STORE_MAGIC_LEN;
	uint32_t version = gw_get_be32(p);

	*len = gw_get_be32(p + 4);
	if (memcmp(buf, GW_STORE_MAGIC, GW_STORE_MAGIC_LEN))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "not a standby's cache");
	if (version != VERSION)
		return gw_fail_as(
			err, GW_FAULT_INPUT, EPROTO,
			"a standby's cache of version %u, this godwit knows %d",
			version, VERSION);
	if (*len < GW_STORE_MAGIC_LEN + 8 || *len > GW_STORE_HEAD - HASH_LEN ||
	    gw_get_be64(buf + *len) != XXH3_64bits(buf, *len))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "its head is damaged (length %u)", *len);
	return 0;
}

int gw_store_head_get(struct gw_store_head *h, const uint8_t *buf,
		      struct gw_error *err)
{
	struct gw_reader r;
	uint32_t len;
	int ret = check_head(buf, &len, err);

	memset(h, 0, sizeof(*h));
	if (ret)
		return ret;
	gw_reader_init_mem(&r, buf + GW_STORE_MAGIC_LEN + 8,
			   len - GW_STORE_MAGIC_LEN - 8);
	get_fields(&r, h);
	ret = gw_read_check(&r, err);
	gw_reader_fini(&r);
	return ret;
}

/* --- slots ---------------------------------------------------------------- */

void gw_store_slot_put(const struct gw_store_slot *s,
		       uint8_t buf[GW_STORE_SLOT])
{
	uint8_t *p = buf;

	p = put64(p, s->serial);
	p = put64(p, s->seq);
	p = put32(p, s->phase);
	p = put32(p, s->flags);
	p = put32(p, s->area);
	p = put32(p, 0);
	p = put64(p, s->nstate);
	p = put64(p, s->state_hash);
	p = put64(p, s->nmap);
	p = put64(p, s->map_hash);
	p = put64(p, 0);
	put64(p, XXH3_64bits(buf, (size_t)(p - buf)));
}

int gw_store_slot_get(struct gw_store_slot *s, const uint8_t buf[GW_STORE_SLOT],
		      const struct gw_store_layout *l, struct gw_error *err)
{
	const uint8_t *hash = buf + GW_STORE_SLOT - HASH_LEN;

	s->serial = gw_get_be64(buf);
	s->seq = gw_get_be64(buf + 8);
	s->phase = gw_get_be32(buf + 16);
	s->flags = gw_get_be32(buf + 20);
	s->area = gw_get_be32(buf + 24);
	s->nstate = gw_get_be64(buf + 32);
	s->state_hash = gw_get_be64(buf + 40);
	s->nmap = gw_get_be64(buf + 48);
	s->map_hash = gw_get_be64(buf + 56);
	if (gw_get_be64(hash) != XXH3_64bits(buf, GW_STORE_SLOT - HASH_LEN))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "its journal is damaged (hash)");
	if ((s->phase != GW_STORE_APPLYING && s->phase != GW_STORE_DONE) ||
	    s->area > 1 || s->nstate > GW_STORE_STATE_MAX ||
	    s->nmap > l->map_max || s->nmap % GW_STORE_ENTRY)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "its journal is damaged (phase %u, area %u, "
				  "%llu bytes of state, %llu of map)",
				  s->phase, s->area,
				  (unsigned long long)s->nstate,
				  (unsigned long long)s->nmap);
	return 0;
}

int gw_store_slot_newest(struct gw_store_slot *s, const uint8_t *a,
			 const uint8_t *b, const struct gw_store_layout *l,
			 struct gw_error *err)
{
	struct gw_store_slot x, y;
	int r = gw_store_slot_get(&x, a, l, err);

	if (!r)
		r = gw_store_slot_get(&y, b, l, err);
	if (r)
		return r;
	/*
	 * Not "the newest that checks": an older one may speak of pages in
	 * `next` that have been overwritten since. A slot is written whole,
	 * so one that does not check was not cut short.
	 */
	if (x.serial + 1 != y.serial && y.serial + 1 != x.serial)
		return gw_fail_as(
			err, GW_FAULT_INPUT, EPROTO,
			"its journal is damaged (numbers %llu and %llu)",
			(unsigned long long)x.serial,
			(unsigned long long)y.serial);
	*s = x.serial + 1 == y.serial ? y : x;
	return 0;
}

/* --- map ------------------------------------------------------------------ */

void gw_store_entry_put(const struct gw_store_entry *e,
			uint8_t buf[GW_STORE_ENTRY])
{
	uint8_t *p = buf;

	p = put32(p, e->block);
	p = put32(p, e->zero);
	p = put64(p, e->word);
	put64(p, e->bits);
}

int gw_store_entry_get(struct gw_store_entry *e,
		       const uint8_t buf[GW_STORE_ENTRY],
		       const struct gw_store_head *h, struct gw_error *err)
{
	uint64_t npages = 0;

	e->block = gw_get_be32(buf);
	e->zero = gw_get_be32(buf + 4);
	e->word = gw_get_be64(buf + 8);
	e->bits = gw_get_be64(buf + 16);
	if (e->block < (uint32_t)h->nblocks)
		npages = h->block[e->block].used_length / GW_PAGE_SIZE;
	if (e->zero > 1 || e->word >= (npages + 63) / 64 ||
	    (npages - e->word * 64 < 64 && e->bits >> (npages - e->word * 64)))
		return gw_fail_as(
			err, GW_FAULT_INPUT, EPROTO,
			"its map of pages is damaged (word %llu of block %u)",
			(unsigned long long)e->word, e->block);
	return 0;
}
