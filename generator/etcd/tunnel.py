"""Reach the nodes through their host with ssh, if the operator's machine has no route to the nodes' network."""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from generator.errors import BakeError
from generator.etcd.dial import Target, Tunnel

PATIENCE = 30.0  # seconds within which ssh must connect
_READY = "bake: ready"


@contextmanager
def open_tunnel(ssh: Sequence[str], targets: Iterable[Target]) -> Iterator[Tunnel]:
    """Forward local sockets through a host to ports of nodes, until the end of the `with` statement.

    `ssh`: the command that connects to the host, which ends with `--` and the host's name. The sockets are in a folder
    that only this user can enter. Raise BakeError if ssh cannot connect.
    """
    targets = list(targets)
    with tempfile.TemporaryDirectory(prefix="bake-") as folder:
        sockets = {target: Path(folder, str(number)) for number, target in enumerate(targets)}
        process = subprocess.Popen(
            _with_forwards(ssh, sockets.items(), targets[0][0]), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,  # Ctrl-C is for bake only
        )  # fmt: skip
        try:
            yield Tunnel(sockets=sockets, source=_wait(process, ssh))
        finally:
            process.kill()
            process.communicate()


def _with_forwards(command: Sequence[str], sockets: Iterable[tuple[Target, Path]], address: str) -> list[str]:
    """Return the ssh command that forwards the sockets.

    On the host, it prints the host's address towards the nodes, and then waits for the end of its input. So ssh also
    ends if bake is killed.
    """
    words = ["-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindMask=0177"]
    for (node, port), path in sockets:
        words += ["-L", f"{path}:{f'[{node}]' if ':' in node else node}:{port}"]
    remote = f"ip -o route get {shlex.quote(address)} 2>/dev/null; echo; echo {shlex.quote(_READY)}; exec cat"
    split = command.index("--")
    return [*command[:split], *words, *command[split:], remote]


def _wait(process: subprocess.Popen[bytes], ssh: Sequence[str]) -> str:
    """Wait until ssh is connected. Return the host's address towards the nodes, or ""."""
    said = b""
    assert process.stdout is not None  # noqa: S101  for mypy
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while _READY.encode() not in said:
            part = os.read(process.stdout.fileno(), 4096) if selector.select(PATIENCE) else b""
            if not part:
                process.kill()
                error = process.communicate()[1].decode(errors="replace").strip().splitlines()
                text = error[-1] if error else f"no answer within {PATIENCE:.0f} s"
                hint = f"check the connection: {shlex.join(ssh)} true"
                raise BakeError(f"ssh cannot connect to {ssh[-1]}: {text}", hint=hint)
            said += part
    words = said.decode(errors="replace").split()
    return words[words.index("src") + 1] if "src" in words else ""
