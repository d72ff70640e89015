/* SPDX-License-Identifier: BSD-3-Clause */
/* standby.c - what a standby of this host says of itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/cli.h"

int cli_standby_ask(const char *name, struct cli_standby *s,
		    struct gw_error *err)
{
	const json_t *age;
	char *line = NULL;
	int r = godwit_failover(name, &line, (struct godwit_error *)err);

	if (r)
		return r;
	s->json = json_loads(line, 0, NULL);
	free(line);
	if (!json_is_object(s->json)) {
		json_decref(s->json);
		return gw_fail_as(err, GW_FAULT_INPUT, EPROTO,
				  "the standby of '%s' gave an answer that is no JSON",
				  name);
	}
	s->state = json_string_value(json_object_get(s->json, "state")) ?: "?";
	s->checkpoint = (uint64_t)json_integer_value(
		json_object_get(s->json, "checkpoint"));
	age = json_object_get(s->json, "age_ms");
	s->age_ms = age ? json_integer_value(age) : -1;
	return 0;
}

char *cli_standby_text(const struct cli_standby *s, char *buf, size_t len)
{
	char age[32];

	if (s->checkpoint && s->age_ms >= 0)
		snprintf(buf, len, "standby, %s, checkpoint %llu, %s old",
			 s->state, (unsigned long long)s->checkpoint,
			 gw_format_time(age, sizeof(age),
					s->age_ms * GW_NS_PER_MS));
	else if (s->checkpoint) /* from before it was started */
		snprintf(buf, len,
			 "standby, %s, checkpoint %llu, of unknown age",
			 s->state, (unsigned long long)s->checkpoint);
	else
		snprintf(buf, len, "standby, %s, no checkpoint yet", s->state);
	return buf;
}
