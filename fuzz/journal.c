/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * journal.c - fuzz what opening a standby's cache reads (lib/colo/journal.c):
 * be16 length of the head, head, two slots, entries of the map. Each input is
 * read as it is, and with hashes that are right, so that what is behind them
 * is reached.
 */
#include "colo/journal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t head[GW_STORE_HEAD], again[GW_STORE_HEAD];

/* The next @n bytes; zeros behind the end. */
static void take(const uint8_t **data, size_t *size, uint8_t *to, size_t n)
{
	size_t have = n < *size ? n : *size;

	memcpy(to, *data, have);
	memset(to + have, 0, n - have);
	*data += have;
	*size -= have;
}

static void seal_head(void)
{
	uint32_t len = gw_get_be32(head + GW_STORE_MAGIC_LEN + 4);

	if (len <= GW_STORE_HEAD - 8)
		gw_put_be64(head + len, XXH3_64bits(head, len));
}

/* What was understood is written as the same, and understood again. */
static void check_head(const struct gw_store_head *h)
{
	static struct gw_store_head h2;
	struct gw_store_layout l;

	gw_store_head_put(h, again);
	if (gw_store_head_get(&h2, again, NULL) || memcmp(h, &h2, sizeof(h2)))
		abort();
	gw_store_layout(h, &l);
	for (int i = 0; i < h->nblocks; i++)
		if (l.committed[i] % GW_PAGE_SIZE || l.next[i] % GW_PAGE_SIZE ||
		    l.committed[i] < l.state[1] + GW_STORE_STATE_MAX ||
		    l.next[i] + h->block[i].used_length > l.total)
			abort();
}

static void check_slot(const uint8_t *a, const uint8_t *b,
		       const struct gw_store_layout *l)
{
	struct gw_store_slot s;
	struct gw_error err = { 0 };

	if (gw_store_slot_newest(&s, a, b, l, &err)) {
		if (!err.code || !err.msg[0])
			abort();
		return;
	}
	if (s.area > 1 || s.nstate > GW_STORE_STATE_MAX ||
	    s.nmap > l->map_max || s.nmap % GW_STORE_ENTRY)
		abort();
}

static void check_entry(const uint8_t *buf, const struct gw_store_head *h)
{
	struct gw_store_entry e;
	uint8_t back[GW_STORE_ENTRY];

	if (gw_store_entry_get(&e, buf, h, NULL))
		return;
	if (e.block >= (uint32_t)h->nblocks || !h->block[e.block].used_length)
		abort();
	for (uint64_t m = e.bits; m; m &= m - 1)
		if ((e.word * 64 + (uint64_t)__builtin_ctzll(m)) *
			    GW_PAGE_SIZE >=
		    h->block[e.block].used_length)
			abort();
	gw_store_entry_put(&e, back);
	if (memcmp(back, buf, sizeof(back)))
		abort();
}

static void one(const uint8_t *data, size_t size, bool seal)
{
	static struct gw_store_head h;
	struct gw_store_layout l;
	uint8_t n[2], slot[2][GW_STORE_SLOT], entry[GW_STORE_ENTRY];
	size_t len;

	take(&data, &size, n, 2);
	len = gw_get_be16(n) % (GW_STORE_HEAD + 1u);
	memset(head, 0, sizeof(head));
	take(&data, &size, head, len);
	if (seal)
		seal_head();
	if (gw_store_head_get(&h, head, NULL))
		return;
	check_head(&h);
	gw_store_layout(&h, &l);
	for (int i = 0; i < 2; i++) {
		take(&data, &size, slot[i], GW_STORE_SLOT);
		if (seal)
			gw_put_be64(slot[i] + GW_STORE_SLOT - 8,
				    XXH3_64bits(slot[i], GW_STORE_SLOT - 8));
	}
	check_slot(slot[0], slot[1], &l);
	while (size) {
		take(&data, &size, entry, sizeof(entry));
		check_entry(entry, &h);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	one(data, size, false);
	one(data, size, true);
	return 0;
}
