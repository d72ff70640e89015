/* SPDX-License-Identifier: BSD-3-Clause */
/* libvirt.c - see libvirt.h. */
#include "image/libvirt.h"

#include <byteswap.h>
#include <errno.h>
#include <string.h>

#define MAGIC	 "LibvirtQemudSave"
#define PARTIAL	 "LibvirtQemudPart"
#define MAGIC_LEN 16u
#define VERSION_MAX 3u

enum { VERSION, DATA_LEN, WAS_RUNNING, FORMAT, COOKIE_OFFSET };

/* By the numbers in the file; NULL: the stream as it is. */
static const struct {
	const char *program; /* that made it, and undoes it with -dc */
} formats[] = {
	[0] = { NULL }, /* raw */
	[1] = { "gzip" },
	[2] = { "bzip2" },
	[3] = { "xz" },
	[4] = { "lzop" },
	[5] = { "zstd" },
	[6] = { NULL }, /* sparse: mapped-ram */
};
#define NFORMATS (sizeof(formats) / sizeof(*formats))

static int check(const uint32_t word[], uint64_t *stream, struct gw_error *err)
{
	uint32_t format = word[FORMAT];

	if (!word[VERSION] || word[VERSION] > VERSION_MAX)
		return gw_fail_as(err, GW_FAULT_INPUT, ENOTSUP,
				  "libvirt's save header has version %u, only 1 to %u are known",
				  word[VERSION], VERSION_MAX);
	if (word[DATA_LEN] > GW_LIBVIRT_MAX_DATA)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "libvirt's save header announces %u bytes of XML, the limit is %u",
				  word[DATA_LEN], GW_LIBVIRT_MAX_DATA);
	if (format >= NFORMATS)
		return gw_fail_as(err, GW_FAULT_INPUT, ENOTSUP,
				  "libvirt's save header names format %u, which is not known (0 raw to %zu sparse are)",
				  format, NFORMATS - 1);
	*stream = GW_LIBVIRT_HEADER_SIZE + (uint64_t)word[DATA_LEN];
	if (formats[format].program)
		return gw_fail_as(err, GW_FAULT_INPUT, ENOTSUP,
				  "libvirt's save header says that the stream is compressed by %s: decompress it first, tail -c +%llu FILE | %s -dc",
				  formats[format].program,
				  (unsigned long long)*stream + 1,
				  formats[format].program);
	return 1;
}

int gw_libvirt_parse(const uint8_t *p, size_t len, uint64_t *stream,
		     struct gw_error *err)
{
	uint32_t word[5];

	if (len < MAGIC_LEN)
		return 0;
	if (!memcmp(p, PARTIAL, MAGIC_LEN))
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "an unfinished save of libvirt (it begins with \"" PARTIAL
				  "\"): it was interrupted and is not complete");
	if (memcmp(p, MAGIC, MAGIC_LEN))
		return 0;
	if (len < GW_LIBVIRT_HEADER_SIZE)
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "libvirt's save header is cut after %zu bytes, it has %u",
				  len, GW_LIBVIRT_HEADER_SIZE);
	memcpy(word, p + MAGIC_LEN, sizeof(word));
	if (word[VERSION] > 0xffff) /* from a host of the other byte order */
		for (size_t i = 0; i < sizeof(word) / sizeof(*word); i++)
			word[i] = bswap_32(word[i]);
	return check(word, stream, err);
}
