/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fuzz/uri.c - any bytes as a migration uri and, behind the first NUL, as a
 * fault specification. Nothing is opened.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "chan/fault.h"
#include "chan/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(int ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct gw_uri u;
	struct gw_error err = { 0 };
	char *text = malloc(len + 1);
	int r;

	if (!text)
		return 0;
	memcpy(text, data, len);
	text[len] = '\0';
	r = gw_uri_parse(&u, text, &err);
	must(strlen(u.shown) < sizeof(u.shown));
	must(r ? err.code == -r && *err.msg : !err.code && u.scheme != NULL);
	for (const char *p = err.msg; *p; p++)
		must((unsigned char)*p >= 0x20);
	if (!r) {
		r = gw_uri_check_role(&u, GW_URI_CONNECT, &err);
		must(r <= 0);
		r = gw_uri_check_role(&u, GW_URI_LISTEN, &err);
		must(r == 0);
	}
	if (strlen(text) < len)
		(void)!gw_chan_fault_check(text + strlen(text) + 1, &err);
	free(text);
	return 0;
}
