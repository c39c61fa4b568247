"""Read the logs of a VM from volumes, and connect a terminal to the VM's serial console."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Any

from generator.plan import NodePlan
from generator.vm.connection import Connection, Domain, Pool, asking, connect, libvirt, tolerating
from generator.vm.storage_pool import find_volume, renamed_volume

LEAVE = b"\x1d"  # Ctrl-] leaves the console, as in telnet and virsh
_SCROLLBACK = 4096


class VolumeLog:
    """Reads a log of a VM while the VM writes it: the console log, or the copy of the journal.

    libvirt empties the console log when the VM starts. If a log becomes too large, libvirt renames it to `….log.0` and
    starts a new log. `find_pool`: returns the cluster's storage pool, or None before the first VM. `volume`: the name
    of the volume with the log.
    """

    def __init__(self, find_pool: Callable[[], Pool | None], volume: str) -> None:
        self._find_pool = find_pool
        self.pool: Pool | None = None
        self.volume = volume
        self.offset = 0
        self._is_begun = False

    def read(self) -> bytes:
        """Return the part of the log that is new since the previous call. The first call returns the whole log."""
        data = b""
        self.pool = self.pool or self._find_pool()
        if self.pool is None:
            return data
        with tolerating("VIR_ERR_NO_STORAGE_VOL"):
            volume = self._find(self.pool)
            size = volume.info()[1]
            if size < self.offset or not self._is_begun:
                data = self._read_renamed(self.pool)
                self.offset = 0
            self._is_begun = True
            data += self._read_from(volume, size)
        return data

    def _find(self, pool: Pool) -> Any:
        if find_volume(pool, self.volume) is None:
            pool.refresh()
        return pool.storageVolLookupByName(self.volume)

    def _read_renamed(self, pool: Pool) -> bytes:
        """Return the unread part of `….log.0`, or empty bytes if `….log.0` does not exist."""
        pool.refresh()
        volume = find_volume(pool, renamed_volume(self.volume))
        return b"" if volume is None else self._read_from(volume, volume.info()[1])

    def _read_from(self, volume: Any, size: int) -> bytes:
        if size <= self.offset:
            return b""
        stream = volume.connect().newStream()
        volume.download(stream, self.offset, size - self.offset)
        pieces: list[bytes] = []
        stream.recvAll(lambda _stream, data, into: into.append(data), pieces)
        stream.finish()
        data = b"".join(pieces)
        self.offset += len(data)
        return data


def attach_console(uri: str, node: NodePlan, log: VolumeLog, *, keyboard: int = 0, screen: int = 1) -> None:
    """Connect a terminal to a node's console until the user types Ctrl-] or the VM stops. First show the log's end.

    This function opens a new connection, because libvirt's event loop must be registered before a connection opens.
    Without the event loop, libvirt does not deliver the console's output.
    """
    libvirt.virEventRegisterDefaultImpl()
    connection = connect(uri)
    hint = "check whether another program uses this console"
    with asking(f"open the console of {node.name}", hint=hint):
        domain = connection.lookupByName(node.domain)
        _write_all(screen, log.read()[-_SCROLLBACK:])
        with _raw(keyboard):
            _Bridge(connection, domain, keyboard, screen).run()


@contextlib.contextmanager
def _raw(keyboard: int) -> Iterator[None]:
    """Put the terminal into raw mode, in which every key goes to the guest, including Ctrl-C."""
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard, termios.TCSANOW)  # setraw's default, TCSAFLUSH, would discard keys that are already typed
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


class _Bridge:
    """Copies bytes between a terminal and a console stream."""

    def __init__(self, connection: Connection, domain: Domain, keyboard: int, screen: int) -> None:
        self.keyboard, self.screen = keyboard, screen
        self.typed = b""
        self.open = True
        self.stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        domain.openConsole(None, self.stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE)

    def run(self) -> None:
        readable = libvirt.VIR_STREAM_EVENT_READABLE
        ended = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
        self.stream.eventAddCallback(readable | ended, self._on_stream, None)
        watch = libvirt.virEventAddHandle(
            self.keyboard, libvirt.VIR_EVENT_HANDLE_READABLE, self._on_key, None
        )
        try:
            while self.open:
                libvirt.virEventRunDefaultImpl()
        finally:
            libvirt.virEventRemoveHandle(watch)
            with contextlib.suppress(libvirt.libvirtError):
                self.stream.eventRemoveCallback()
            with contextlib.suppress(libvirt.libvirtError):
                self.stream.abort()

    def _on_stream(self, _stream: Any, events: int, _opaque: None) -> None:
        if events & libvirt.VIR_STREAM_EVENT_READABLE:
            data = self._receive()
            self.open = self.open and data != b""
            if isinstance(data, bytes):
                _write_all(self.screen, data)
        if events & libvirt.VIR_STREAM_EVENT_WRITABLE:
            self._send()
        if events & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP):
            self.open = False

    def _receive(self) -> bytes | int:
        """Return the received bytes, empty bytes at the end of the stream, or a number if there is no data yet."""
        try:
            received: bytes | int = self.stream.recv(65536)
        except libvirt.libvirtError:
            return b""
        return received

    def _on_key(self, _watch: int, _descriptor: int, _events: int, _opaque: None) -> None:
        typed = os.read(self.keyboard, 1024)
        before, leave, _ = typed.partition(LEAVE)
        self.typed += before
        self._send()
        if leave or not typed:
            self.open = False

    def _send(self) -> None:
        """Send typed bytes until the stream is full. When the stream is writable, `_on_stream` sends more bytes."""
        while self.typed:
            sent = self.stream.send(self.typed)
            if sent <= 0:
                break
            self.typed = self.typed[sent:]
        wanted = (
            libvirt.VIR_STREAM_EVENT_READABLE
            | libvirt.VIR_STREAM_EVENT_ERROR
            | libvirt.VIR_STREAM_EVENT_HANGUP
        )
        self.stream.eventUpdateCallback(wanted | libvirt.VIR_STREAM_EVENT_WRITABLE if self.typed else wanted)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
