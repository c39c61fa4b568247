"""Shift the clock of running processes. The machine's clock and other processes keep their time.

A program reads CLOCK_REALTIME with functions of the vDSO, a page of code that the kernel maps into each process
(vdso(7)). `shift` overwrites these functions in one process with code that calls the kernel and adds an offset, so also
a static Go program such as etcd gets a clock that jumps. CLOCK_MONOTONIC stays, as it does if a real clock jumps.
Only for x86_64.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# clock_gettime(clock in edi, result in rsi): call the kernel; after a success for clock 0, add to the seconds.
_CLOCK_GETTIME = bytes.fromhex("b8e4000000 0f05 85c0 750b 85ff 7507 488106") + b"%s\xc3"
# gettimeofday(result in rdi): call the kernel; add to the seconds.
_GETTIMEOFDAY = bytes.fromhex("b860000000 0f05 4885ff 7407 488107") + b"%s\xc3"
# time(result in rdi, or 0): call the kernel; add to the seconds in rax; store them.
_TIME = bytes.fromhex("b8c9000000 0f05 4805") + b"%s" + bytes.fromhex("4885ff 7403 488907 c3")
FUNCTIONS = {
    "__vdso_clock_gettime": _CLOCK_GETTIME, "__vdso_gettimeofday": _GETTIMEOFDAY, "__vdso_time": _TIME,
}  # fmt: skip


class Clocks:
    """Shifts the clocks of processes, and remembers what each process has."""

    def __init__(self) -> None:
        self._shifted: dict[int, tuple[int, int]] = {}  # process id → address of the vDSO, seconds

    def shift(self, pid: int, seconds: int) -> None:
        """Shift a process's clock from the machine's clock by `seconds`. Do nothing if the process has ended."""
        with suppress(OSError, struct.error):  # struct.error: an ended process has no memory to read
            address, size = _vdso(pid)
            if self._shifted.get(pid, (address, 0)) == (address, seconds):  # a new program has a new address
                return
            with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:  # noqa: PTH123  a path has no `buffering=0`
                symbols = dict(_symbols(os.pread(memory.fileno(), size, address)))
                for function, code in FUNCTIONS.items():
                    memory.seek(address + symbols[function])
                    memory.write(code % struct.pack("<i", seconds))
            self._shifted[pid] = (address, seconds)


def _vdso(pid: int) -> tuple[int, int]:
    """Return the address and the size of a process's vDSO. OSError: it has none, because it has ended."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("[vdso]"):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            return begin, end - begin
    raise ProcessLookupError(pid)


def _symbols(image: bytes) -> Iterator[tuple[str, int]]:
    """Return the dynamic symbols of a 64-bit ELF file, as (name, value) (elf(5))."""
    table, (size, number) = struct.unpack_from("<Q", image, 0x28)[0], struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + index * size) for index in range(number)]
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind == 11:  # SHT_DYNSYM
            names = sections[link][4]
            for symbol in range(offset, offset + length, 24):
                name, value = struct.unpack_from("<IxxxxQ", image, symbol)
                end = image.index(b"\0", names + name)
                yield image[names + name : end].decode(), value
