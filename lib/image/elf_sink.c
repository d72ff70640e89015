/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * elf_sink.c - the headers of an ELF core of a PC: one PT_LOAD per part of
 * memory and one thread without registers.
 *
 * Addresses are physical, in p_paddr and in p_vaddr too: a debugger looks
 * things up by p_vaddr, and what it is given are physical addresses. The
 * thread is for readers that insist on one; the registers of the vCPUs are in
 * QEMU's device state, which is not interpreted here.
 */
#include <elf.h>
#include <stddef.h>
#include <string.h>

#include "image/raw_sink.h"

#define PRSTATUS_SIZE 336 /* of struct elf_prstatus, x86-64 */
#define PRSTATUS_PID  32  /* where pr_pid is in it */

struct note {
	Elf64_Nhdr head;
	char name[8]; /* padded to 4 */
	uint8_t desc[PRSTATUS_SIZE];
};

struct header {
	Elf64_Ehdr file;
	Elf64_Phdr part[3]; /* the note, then memory */
	struct note note;
};
_Static_assert(sizeof(struct header) <= GW_ELF_HEADER_SIZE, "room for it");

static void put_file(Elf64_Ehdr *e, int nparts)
{
	memcpy(e->e_ident, ELFMAG, SELFMAG);
	e->e_ident[EI_CLASS] = ELFCLASS64;
	e->e_ident[EI_DATA] = ELFDATA2LSB;
	e->e_ident[EI_VERSION] = EV_CURRENT;
	e->e_type = ET_CORE;
	e->e_machine = EM_X86_64;
	e->e_version = EV_CURRENT;
	e->e_phoff = offsetof(struct header, part);
	e->e_ehsize = sizeof(Elf64_Ehdr);
	e->e_phentsize = sizeof(Elf64_Phdr);
	e->e_phnum = (Elf64_Half)nparts;
}

static void put_note(struct note *n)
{
	uint32_t pid = 1;

	n->head.n_namesz = sizeof("CORE");
	n->head.n_descsz = PRSTATUS_SIZE;
	n->head.n_type = NT_PRSTATUS;
	memcpy(n->name, "CORE", sizeof("CORE"));
	memcpy(n->desc + PRSTATUS_PID, &pid, sizeof(pid));
}

/* godwit runs on little-endian x86 only, as do its guests. */
void gw_elf_put_header(uint8_t header[GW_ELF_HEADER_SIZE],
		       const struct gw_physmem *m)
{
	uint64_t at = GW_ELF_HEADER_SIZE;
	struct header h = { 0 };

	put_file(&h.file, 1 + m->n);
	put_note(&h.note);
	h.part[0].p_type = PT_NOTE;
	h.part[0].p_offset = offsetof(struct header, note);
	h.part[0].p_filesz = sizeof(h.note);
	h.part[0].p_align = 4;
	for (int i = 0; i < m->n; i++) {
		Elf64_Phdr *p = &h.part[1 + i];

		p->p_type = PT_LOAD;
		p->p_flags = PF_R | PF_W | PF_X;
		p->p_offset = at;
		p->p_vaddr = p->p_paddr = m->part[i].phys;
		p->p_filesz = p->p_memsz = m->part[i].len;
		p->p_align = GW_PAGE_SIZE;
		at += m->part[i].len;
	}
	memset(header, 0, GW_ELF_HEADER_SIZE);
	memcpy(header, &h, sizeof(h));
}
