/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qemu.h - every number of QEMU's migration formats that godwit speaks, and
 * of godwit's own framing between two godwits. Numbers are written out: they
 * are wire format, not implementation. Checked against QEMU 7.2, 10.0, 11.1;
 * the described grammar is in docs/internals/stream.md.
 */
#ifndef GW_WIRE_QEMU_H
#define GW_WIRE_QEMU_H

/* File header: be32 magic, be32 version. */
#define GW_QEMU_MAGIC	0x5145564du /* "QEVM" */
#define GW_QEMU_VERSION 3u

/* First byte of every item (QEMU 10.0 migration/savevm.h). */
enum gw_item {
	GW_ITEM_EOF = 0x00,
	GW_ITEM_SECTION_START = 0x01,
	GW_ITEM_SECTION_PART = 0x02,
	GW_ITEM_SECTION_END = 0x03,
	GW_ITEM_SECTION_FULL = 0x04,
	GW_ITEM_SUBSECTION = 0x05,
	GW_ITEM_VMDESCRIPTION = 0x06,
	GW_ITEM_CONFIGURATION = 0x07,
	GW_ITEM_COMMAND = 0x08,
	GW_ITEM_RECORD = 0x47, /* 'G': a godwit record (record.h) */
	GW_ITEM_SECTION_FOOTER = 0x7e,
};

/* MIG_CMD: be16 id, be16 length, payload. */
enum gw_command {
	GW_CMD_OPEN_RETURN_PATH = 1,
	GW_CMD_PING = 2,
	GW_CMD_POSTCOPY_ADVISE = 3,
	GW_CMD_POSTCOPY_LISTEN = 4,
	GW_CMD_POSTCOPY_RUN = 5,
	GW_CMD_POSTCOPY_RAM_DISCARD = 6,
	GW_CMD_PACKAGED = 7,
	GW_CMD_ENABLE_COLO = 8,
	GW_CMD_POSTCOPY_RESUME = 9,
	GW_CMD_RECV_BITMAP = 10,
	GW_CMD_SWITCHOVER_START = 11,
	GW_CMD_MAX = 11,
};

/* Return path, destination to source: be16 type, be16 length, payload. */
enum gw_rp {
	GW_RP_SHUT = 1,
	GW_RP_PONG = 2,
	GW_RP_SWITCHOVER_ACK = 7,
};
#define GW_RP_MAX_LEN 512u

/* Low bits of the be64 that begins a record of the ram section, version 4. */
#define GW_RAM_VERSION	   4u
#define GW_RAM_FLAG_ZERO	  0x002u
#define GW_RAM_FLAG_MEM_SIZE	  0x004u
#define GW_RAM_FLAG_PAGE	  0x008u
#define GW_RAM_FLAG_EOS		  0x010u
#define GW_RAM_FLAG_CONTINUE	  0x020u
#define GW_RAM_FLAG_XBZRLE	  0x040u
#define GW_RAM_FLAG_MULTIFD_FLUSH 0x200u
#define GW_RAM_FLAGS_MASK	  0xfffu
#define GW_RAM_XBZRLE		  0x01u /* encoding byte of an XBZRLE page */

/* Limits on what a peer may ask us to read or hold. */
#define GW_MAX_MACHINE_NAME 255u
#define GW_MAX_CAPABILITIES 64u
#define GW_MAX_VMDESC	    (64u << 20)
#define GW_MAX_DEVICE_STATE (256u << 20)
#define GW_MAX_TABLE_BLOCKS 256 /* RAM, ROM and video blocks of one QEMU */

#endif
