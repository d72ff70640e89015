/* SPDX-License-Identifier: BSD-3-Clause */
/* internal.h - what the sinks share among themselves. */
#ifndef GW_IMAGE_INTERNAL_H
#define GW_IMAGE_INTERNAL_H

#include "base/writer.h"
#include "image/sink.h"

/* EOF and, if there is one, the description: the end of every QEMU image. */
void gw_image_put_end(struct gw_writer *w, const char *vmdesc,
		      size_t vmdesc_len);

/* One constructor per format, see gw_sink_file(). */
struct gw_sink *gw_sink_stream_file(const char *path,
				    const struct gw_sink_options *o,
				    struct gw_error *err);
struct gw_sink *gw_sink_mapped_file(const char *path,
				    const struct gw_sink_options *o,
				    struct gw_error *err);
struct gw_sink *gw_sink_raw_file(const char *path,
				 const struct gw_sink_options *o,
				 struct gw_error *err);
struct gw_sink *gw_sink_elf_file(const char *path,
				 const struct gw_sink_options *o,
				 struct gw_error *err);

#endif
