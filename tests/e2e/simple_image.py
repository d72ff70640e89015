# SPDX-License-Identifier: BSD-3-Clause
"""A second reader of migration files, as simple as can be: everything in
memory, a page at a time, no error is expected. What lib/image reads is
compared with it. Also the firmware that the captured guests run."""
import struct

PAGE = 4096
ZERO, MEM_SIZE, DATA, EOS, CONTINUE, XBZRLE, FLUSH = \
    2, 4, 8, 16, 32, 64, 0x200


class Image:
    """ram: bytearray by block name, in the order of the table."""

    def __init__(self, data, offset=0):
        self.data, self.at = data, offset
        self.ram, self.last, self.capabilities = {}, None, []
        self.kinds = {}
        assert self.take(8) == b"QEVM\0\0\0\3"
        assert self.u(1) == 7
        self.machine = self.take(self.u(4)).decode()
        while self.data[self.at] == 5:
            self.subsection()
        while self.data[self.at] not in (0, 4):
            self.item()
        self.tail = self.at

    def take(self, n):
        self.at += n
        assert self.at <= len(self.data)
        return self.data[self.at - n:self.at]

    def u(self, n):
        return int.from_bytes(self.take(n), "big")

    def name(self):
        return self.take(self.u(1)).decode()

    def subsection(self):
        self.take(1)
        name, _ = self.name(), self.u(4)
        if name == "configuration/capabilities":
            self.capabilities = [self.name() for _ in range(self.u(4))]
        elif name == "configuration/uuid":
            self.take(16)
        else:
            assert name == "configuration/target-page-bits"
            self.take(4)

    def item(self):
        kind = self.u(1)
        if kind == 8:
            self.u(2)
            self.take(self.u(2))
            return
        assert kind in (1, 2, 3)
        self.u(4)
        if kind == 1:
            assert self.name() == "ram" and (self.u(4), self.u(4)) == (0, 4)
        while self.record():
            pass
        assert self.u(1) == 0x7e
        self.u(4)

    def record(self):
        word = self.u(8)
        addr, flags = word & ~0xfff, word & 0xfff
        if flags == EOS:
            return False
        if flags == MEM_SIZE:
            self.table(addr)
        elif flags != FLUSH:
            if not flags & CONTINUE:
                self.last = self.name()
            self.page(self.ram[self.last], addr, flags & ~CONTINUE)
        return True

    def page(self, ram, addr, kind):
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == DATA:
            ram[addr:addr + PAGE] = self.take(PAGE)
        elif kind == ZERO:
            assert self.u(1) == 0
            ram[addr:addr + PAGE] = bytes(PAGE)
        else:
            assert kind == XBZRLE and self.u(1) == 1
            end = self.u(2) + self.at
            while self.at < end:
                addr += self.uleb()
                n = self.uleb()
                ram[addr:addr + n] = self.take(n)
                addr += n

    def uleb(self):
        low = self.u(1)
        return low if low < 128 else (low & 127) | self.u(1) << 7

    def table(self, total):
        while total:
            name, length = self.name(), self.u(8)
            self.ram[name] = bytearray(length)
            total -= length
            if "x-ignore-shared" in self.capabilities:
                self.u(8)
            if "mapped-ram" in self.capabilities:
                self.mapped(self.ram[name], length)

    def mapped(self, ram, length):
        version, page, bitmap, pages = struct.unpack(">IQQQ", self.take(28))
        assert (version, page) == (1, PAGE)
        if not pages:
            return
        for i in range(length // PAGE):
            if self.data[bitmap + i // 8] >> i % 8 & 1:
                at = pages + i * PAGE
                ram[i * PAGE:(i + 1) * PAGE] = self.data[at:at + PAGE]
        self.at = pages + length


def firmware(path):
    """64 KiB that never leave real mode: bytes at both ends of 24 pages from
    0x30000 on count for ever, the page at 0x50000 is filled with one
    byte, the page at 0x58000 is zero now and then."""
    code = bytes.fromhex(
        "fa fc 31 d2"           # cli; cld; xor dx, dx
        "42"                    # again: inc dx
        "bb 00 30"              # mov bx, 0x3000
        "8e c3"                 # next: mov es, bx
        "26 ff 06 10 00"        # inc word [es:0x10]
        "26 89 16 fe 0f"        # mov [es:0xffe], dx
        "81 c3 00 01"           # add bx, 0x100
        "81 fb 00 48"           # cmp bx, 0x4800
        "72 ea"                 # jb next
        "b8 00 50 8e c0 31 ff"  # mov ax, 0x5000; mov es, ax; xor di, di
        "88 d0 b9 00 10 f3 aa"  # mov al, dl; mov cx, 0x1000; rep stosb
        "b8 00 58 8e c0"        # mov ax, 0x5800; mov es, ax
        "88 d0 24 40"           # mov al, dl; and al, 0x40
        "26 a2 00 02")          # mov [es:0x200], al
    code += b"\xe9" + struct.pack("<h", 4 - len(code) - 3)  # jmp again
    rom = bytearray(65536)
    rom[:len(code)] = code
    rom[0xfff0:0xfff5] = b"\xea\x00\x00\x00\xf0"  # jmp f000:0
    with open(path, "wb") as f:
        f.write(rom)
