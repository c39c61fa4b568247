"""The order of user-data, so that a person finds what differs between nodes first: configuration, keys, units, scripts.

cloud-init reads user-data as a whole, so the order of its parts has no effect on a node.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import PurePosixPath

from generator.artifact import Artifact
from generator.seed.guest_paths import CONF, LIBEXEC, PKI_DIR, UDEV_RULES, UNITS

_WIDTH = 100  # characters in a line of the table
# The first folder that contains a file counts.
_GROUPS = {
    PKI_DIR: "certificates and private keys",
    CONF.parent: "configuration and environment",
    UNITS: "systemd units",
    UDEV_RULES: "udev rules",
    LIBEXEC: "scripts",
}
_ORDER = (CONF.parent, PKI_DIR, UNITS, UDEV_RULES, LIBEXEC)


def ordered(guest: Iterable[Artifact]) -> list[Artifact]:
    """Return the guest files in the order of user-data: configuration first, scripts last."""
    return sorted(guest, key=lambda file: order_of(file.path))


@lru_cache(maxsize=128)
def _group(path: PurePosixPath) -> PurePosixPath | None:
    return next((folder for folder in _GROUPS if str(path).startswith(f"{folder}/")), None)


@lru_cache(maxsize=128)
def order_of(path: PurePosixPath) -> int:
    """Return the place of a file's group in user-data."""
    group = _group(path)
    return _ORDER.index(group) if group else len(_ORDER)


@lru_cache(maxsize=8)
def table_of_contents(guest: tuple[PurePosixPath, ...], packages: tuple[str, ...]) -> str:
    """Return comment lines that list the parts of user-data. `guest`: paths of files in the order of user-data."""
    lines = ["Contents, in this order (`bake show` prints single files):"]
    if packages:
        lines.append("packages: what cloud-init installs")
    lines += _files(guest)
    lines.append("bootcmd: a script that runs on every boot, before cloud-init writes files")
    lines.append("runcmd: the commands of the first boot, after cloud-init has written all files")
    first, *rest = ["\n#     ".join(textwrap.wrap(line, _WIDTH - 6, break_on_hyphens=False)) for line in lines]
    return f"# {first}\n" + "".join(f"#   {line}\n" for line in rest)


def _files(guest: Iterable[PurePosixPath]) -> Iterator[str]:
    for folder, paths in groupby(guest, _group):
        if folder is None:
            yield f"write_files: {', '.join(map(str, paths))}"
        else:
            names = ", ".join(str(path.relative_to(folder)) for path in paths)
            yield f"write_files, {_GROUPS[folder]} in {folder}: {names}"
