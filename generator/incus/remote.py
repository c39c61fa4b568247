"""Find an Incus server: the remote in the configuration of the program `incus`, and the certificates for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.config import yaml12
from generator.errors import BakeError

_SOCKET = "/var/lib/incus/unix.socket"
_ADD = "add it with `incus remote add`, or set incus.remote to one of the remotes of `incus remote list`"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """An Incus server or cluster.

    `addresses`: URLs, or `unix:PATH` for the socket; the first one that answers is used. `certificate`, `key`: the
    files of the client's certificate, or None for the socket. `pinned`: the file with the server's certificate, or None
    if a CA of this machine has issued it.
    """

    name: str
    addresses: tuple[str, ...]
    certificate: Path | None = None
    key: Path | None = None
    pinned: Path | None = None


def find_remote(name: str, others: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Remote:
    """Return the remote with this name. `others`: URLs of other members of its cluster.

    Raise BakeError if the configuration has no such remote, or if bake cannot use its way to log in.
    """
    folder = Path(environment.get("INCUS_CONF") or Path.home() / ".config" / "incus")
    entry = _remotes(folder / "config.yml").get(name, {"addr": "unix://"} if name == "local" else None)
    if not isinstance(entry, dict) or not isinstance(entry.get("addr"), str):
        raise BakeError(f"incus.remote: {folder / 'config.yml'} has no remote {name!r}", hint=_ADD)
    address = entry["addr"].rstrip("/")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//") or environment.get("INCUS_SOCKET") or _SOCKET
        return Remote(name=name, addresses=(f"unix:{path}",))
    if not address.startswith("https://") or entry.get("auth_type", "tls") != "tls":
        text = f"incus.remote: {name} has the address {address} and the login {entry.get('auth_type')!r}"
        raise BakeError(text, hint="use a remote with an https address and a client certificate (auth_type: tls)")
    pinned = folder / "servercerts" / f"{name}.crt"
    return Remote(
        name=name, addresses=tuple(dict.fromkeys((address, *others))), certificate=folder / "client.crt",
        key=folder / "client.key", pinned=pinned if pinned.exists() else None,
    )  # fmt: skip


def _remotes(path: Path) -> Mapping[str, Any]:
    """Return the remotes of the configuration. A missing file has none."""
    if not path.exists():
        return {}
    data = yaml12.load_file(path).value
    remotes = data.get("remotes") if isinstance(data, dict) else None
    return remotes if isinstance(remotes, dict) else {}
