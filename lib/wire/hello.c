/* SPDX-License-Identifier: BSD-3-Clause */
/* hello.c - see hello.h. */
#include "wire/hello.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"
#include "wire/qemu.h"

static const struct {
	const char *name;
	unsigned int bit;
} features[] = { { "verify", GW_FEATURE_VERIFY },
		 { "multifd", GW_FEATURE_MULTIFD },
		 { "xbzrle", GW_FEATURE_XBZRLE },
		 { "zlib", GW_FEATURE_ZLIB },
		 { "zstd", GW_FEATURE_ZSTD },
		 { "disks", GW_FEATURE_DISKS },
		 { "skip-zero-pages", GW_FEATURE_SKIP_ZERO },
		 { "fill", GW_FEATURE_FILL },
		 { "checkpoint", GW_FEATURE_CHECKPOINT } };

#define NFEATURES (sizeof(features) / sizeof(features[0]))

void gw_hello_fini(struct gw_hello *h)
{
	gw_ram_fini(&h->ram);
}

static json_t *pack_features(unsigned int bits)
{
	json_t *a = json_array();

	for (size_t i = 0; i < NFEATURES; i++)
		if (bits & features[i].bit)
			json_array_append_new(a, json_string(features[i].name));
	return a;
}

static json_t *pack_ram(const struct gw_ram *ram)
{
	json_t *a = json_array();

	for (int i = 0; i < ram->nblocks; i++)
		json_array_append_new(
			a, json_pack("{s:s, s:I, s:i}", "idstr",
				     ram->block[i].idstr, "used-length",
				     (json_int_t)ram->block[i].used_length,
				     "page-size",
				     (int)ram->block[i].page_size));
	return a;
}

#define SESSION_DIGITS (2 * GW_HELLO_SESSION)

static void put_session(const uint8_t *session, char *hex)
{
	for (size_t i = 0; i < GW_HELLO_SESSION; i++)
		sprintf(hex + 2 * i, "%02x", session[i]);
}

int gw_hello_put(struct gw_writer *w, const struct gw_hello *h,
		 struct gw_error *err)
{
	char session[SESSION_DIGITS + 1];
	json_t *j = json_pack(
		"{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:i, s:o, s:o, s:o}",
		"role", h->source ? "source" : "destination", "name", h->name,
		"godwit", h->godwit, "vmm", h->vmm, "machine", h->machine,
		"arch", h->arch, "running", h->running, "probe", h->probe,
		"page-size",
		(int)h->page_bytes, "features", pack_features(h->features),
		"required", pack_features(h->required), "ram",
		pack_ram(&h->ram));
	gw_autofree char *text = NULL;

	put_session(h->session, session);
	if (j && h->source) {
		json_object_set_new(j, "channels", json_integer(h->channels));
		json_object_set_new(j, "disks", json_integer(h->disks));
	} else if (j) {
		json_object_set_new(j, "session", json_string(session));
		if (h->timeout_ms)
			json_object_set_new(j, "timeout-ms",
					    json_integer(h->timeout_ms));
	}
	if (j)
		text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	if (!text || strlen(text) > GW_HELLO_MAX_JSON)
		return gw_fail(err, EINVAL,
			       "cannot describe this VM to the peer");
	gw_write_bytes(w, GW_HELLO_MAGIC, GW_HELLO_MAGIC_LEN);
	gw_write_be32(w, GW_HELLO_VERSION);
	gw_write_be32(w, (uint32_t)strlen(text));
	gw_write_bytes(w, text, strlen(text));
	return gw_write_flush(w, err);
}

static int not_godwit(struct gw_reader *r, const uint8_t *p)
{
	char shown[GW_HELLO_MAGIC_LEN + 1] = "";

	if (!memcmp(p, "QEVM", 4))
		return gw_read_fail(r, EPROTO,
				    "the peer is a plain QEMU sending its own stream; this needs a godwit on both sides");
	for (size_t i = 0; i < GW_HELLO_MAGIC_LEN; i++)
		shown[i] = isprint(p[i]) ? (char)p[i] : '.';
	return gw_read_fail(r, EPROTO,
			    "the peer is not a godwit: its first bytes are '%s'",
			    shown);
}

static int get_string(struct gw_reader *r, json_t *j, const char *key,
		      char *dst, size_t cap)
{
	json_t *v = json_object_get(j, key);
	const char *s = json_string_value(v);

	if (!s || json_string_length(v) >= cap)
		return gw_read_fail(r, EPROTO,
				    "the greeting's '%s' is missing or longer than %zu bytes",
				    key, cap - 1);
	for (size_t i = 0; i <= strlen(s); i++) /* shown to people */
		dst[i] = s[i] && (unsigned char)s[i] < 0x20 ? '?' : s[i];
	return 0;
}

/* Unknown names are fine in "features", an error in "required". */
static int get_features(struct gw_reader *r, json_t *j, const char *key,
			bool must_know, unsigned int *bits)
{
	json_t *a = json_object_get(j, key), *v;
	size_t i, k;

	*bits = 0;
	if (!json_is_array(a) || json_array_size(a) > 64)
		return gw_read_fail(r, EPROTO,
				    "the greeting's '%s' is not a short list",
				    key);
	json_array_foreach(a, i, v) {
		const char *s = json_string_value(v);

		for (k = 0; s && k < NFEATURES; k++)
			if (!strcmp(s, features[k].name))
				break;
		if (s && k < NFEATURES)
			*bits |= features[k].bit;
		else if (must_know)
			return gw_read_fail(r, ENOTSUP,
					    "the peer requires '%.40s', which this godwit does not have",
					    s ? s : "?");
	}
	return 0;
}

static int get_ram(struct gw_reader *r, json_t *j, struct gw_ram *ram)
{
	json_t *a = json_object_get(j, "ram"), *v;
	struct gw_error err = { 0 };
	size_t i;

	if (!json_is_array(a) || json_array_size(a) > GW_RAM_MAX_BLOCKS)
		return gw_read_fail(r, EPROTO,
				    "the greeting's 'ram' is not a list of at most %d blocks",
				    GW_RAM_MAX_BLOCKS);
	json_array_foreach(a, i, v) {
		const char *idstr;
		json_int_t len;
		int page;

		if (json_unpack(v, "{s:s, s:I, s:i}", "idstr", &idstr,
				"used-length", &len, "page-size", &page) ||
		    len <= 0 || page <= 0 ||
		    ram->total > GW_RAM_MAX_LENGTH - (uint64_t)len ||
		    (uint64_t)len > GW_RAM_MAX_LENGTH)
			return gw_read_fail(r, EPROTO,
					    "the greeting's RAM block %zu is malformed",
					    i);
		if (gw_ram_describe(ram, idstr, (uint64_t)len, (uint32_t)page,
				    &err))
			return gw_read_fail(r, EPROTO, "the greeting: %s",
					    err.msg);
	}
	return 0;
}

/* Absent in version 0.1: zero. */
static int get_count(struct gw_reader *r, json_t *j, const char *key,
		     uint32_t max, uint32_t *n)
{
	json_t *v = json_object_get(j, key);
	json_int_t i = json_integer_value(v);

	if (v && (!json_is_integer(v) || i < 0 || i > max))
		return gw_read_fail(r, EPROTO,
				    "the greeting's '%s' is not a number up to %u",
				    key, max);
	*n = (uint32_t)i;
	return 0;
}

static int get_session(struct gw_reader *r, json_t *j, uint8_t *session)
{
	json_t *v = json_object_get(j, "session");
	const char *s = json_string_value(v);

	if (!v)
		return 0;
	if (!s || json_string_length(v) != SESSION_DIGITS ||
	    strspn(s, "0123456789abcdef") != SESSION_DIGITS)
		return gw_read_fail(r, EPROTO,
				    "the greeting's 'session' is not %u hexadecimal digits",
				    SESSION_DIGITS);
	for (size_t i = 0; i < GW_HELLO_SESSION; i++)
		sscanf(s + 2 * i, "%2hhx", &session[i]);
	return 0;
}

static int get_fields(struct gw_reader *r, json_t *j, struct gw_hello *h)
{
	char role[16];
	int page = 0, running = 0, probe = 0;

	if (get_string(r, j, "role", role, sizeof(role)) ||
	    get_string(r, j, "name", h->name, sizeof(h->name)) ||
	    get_string(r, j, "godwit", h->godwit, sizeof(h->godwit)) ||
	    get_string(r, j, "vmm", h->vmm, sizeof(h->vmm)) ||
	    get_string(r, j, "machine", h->machine, sizeof(h->machine)) ||
	    get_string(r, j, "arch", h->arch, sizeof(h->arch)) ||
	    get_features(r, j, "features", false, &h->features) ||
	    get_features(r, j, "required", true, &h->required) ||
	    get_count(r, j, "channels", GW_HELLO_MAX_CONNECTIONS,
		      &h->channels) ||
	    get_count(r, j, "disks", GW_HELLO_MAX_CONNECTIONS, &h->disks) ||
	    get_count(r, j, "timeout-ms", GW_HELLO_MAX_TIMEOUT_MS,
		      &h->timeout_ms) ||
	    get_session(r, j, h->session))
		return -r->err.code;
	if (json_unpack(j, "{s:i, s:b, s?b}", "page-size", &page, "running",
			&running, "probe", &probe) || page <= 0)
		return gw_read_fail(r, EPROTO,
				    "the greeting lacks 'page-size' or 'running'");
	h->source = !strcmp(role, "source");
	h->page_bytes = (uint32_t)page;
	h->running = running;
	h->probe = probe;
	return get_ram(r, j, &h->ram);
}

int gw_hello_get(struct gw_reader *r, struct gw_hello *h)
{
	const uint8_t *p = gw_read_peek(r, GW_HELLO_MAGIC_LEN);
	gw_autofree char *text = NULL;
	uint32_t version, len;
	json_t *j;
	int ret;

	memset(h, 0, sizeof(*h));
	if (!p)
		return -r->err.code;
	if (memcmp(p, GW_HELLO_MAGIC, GW_HELLO_MAGIC_LEN))
		return not_godwit(r, p);
	gw_read_skip(r, GW_HELLO_MAGIC_LEN);
	version = gw_read_be32(r);
	if (!gw_read_failed(r) && version != GW_HELLO_VERSION)
		return gw_read_fail(r, ENOTSUP,
				    "the peer speaks version %u of the protocol, this godwit version %u",
				    version, GW_HELLO_VERSION);
	len = gw_read_len32(r, GW_HELLO_MAX_JSON, "the greeting");
	text = malloc(len + 1);
	if (!text)
		return gw_read_fail(r, ENOMEM, "no memory for the greeting");
	gw_read_bytes(r, text, len);
	if (gw_read_failed(r))
		return -r->err.code;
	j = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(j)) {
		json_decref(j);
		return gw_read_fail(r, EPROTO, "the greeting is not JSON");
	}
	ret = get_fields(r, j, h);
	json_decref(j);
	if (ret)
		gw_hello_fini(h);
	return ret;
}

static int differ(const char *what, const char *s, const char *d,
		  const char *remedy, struct gw_error *err)
{
	return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
			  "%s differs: '%s' on the source, '%s' on the destination: %s",
			  what, s, d, remedy);
}

/* Is each what the other waits for: a migration, or checkpoints? */
static int agree_on_kind(const struct gw_hello *source,
			 const struct gw_hello *dest, struct gw_error *err)
{
	bool protects = source->required & GW_FEATURE_CHECKPOINT;
	bool stands_by = dest->required & GW_FEATURE_CHECKPOINT;

	if (protects && !stands_by)
		return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
				  "checkpoints need a standby, and a migration is waited for there: run 'godwit standby' instead of 'godwit receive' on the destination");
	if (stands_by && !protects)
		return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
				  "a standby waits for checkpoints there, not for a migration: run 'godwit protect' instead of 'godwit migrate' on the source, or 'godwit receive' instead of 'godwit standby' on the destination");
	if (stands_by && !dest->timeout_ms)
		return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
				  "the standby does not say when it takes over ('timeout-ms')");
	return 0;
}

int gw_hello_agree(const struct gw_hello *source, const struct gw_hello *dest,
		   unsigned int *bits, struct gw_error *err)
{
	unsigned int lacks;

	if (!source->source || dest->source)
		return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
				  "both sides are a %s: one has to run 'godwit migrate', the other 'godwit receive'",
				  dest->source ? "source" : "destination");
	if (agree_on_kind(source, dest, err))
		return -EPROTO;
	if (strcmp(source->arch, dest->arch))
		return differ("CPU architecture", source->arch, dest->arch,
			      "use the same qemu-system binary", err);
	if (strcmp(source->machine, dest->machine))
		return differ("machine type", source->machine, dest->machine,
			      "start the destination with the source's -machine",
			      err);
	if (source->page_bytes != dest->page_bytes)
		return gw_fail_as(err, GW_FAULT_REFUSED, EPROTO,
				  "page size differs: %u bytes on the source, %u on the destination",
				  source->page_bytes, dest->page_bytes);
	if (gw_ram_compare(&source->ram, "source", &dest->ram, "destination",
			   err))
		return -err->code;
	*bits = source->features & dest->features;
	lacks = (source->required | dest->required) & ~*bits;
	for (size_t i = 0; i < NFEATURES; i++)
		if (lacks & features[i].bit)
			return gw_fail_as(err, GW_FAULT_REFUSED, ENOTSUP,
					  "'%s' was asked for, but only one side has it",
					  features[i].name);
	return 0;
}
