"""Write the commands that messages suggest."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from generator.store.folder import Store

DEFAULT_NAME, DEFAULT_OUT = "etcd", "out"


def command(store: Store, words: str, *, connect: str | None = None) -> str:
    """Return a bake command with `words`, and with the cluster's --name and --out if they differ from the defaults.

    If `words` is empty, the command is `bake` itself. `connect`: the user's --connect, for a command that must reach
    the same libvirt. The command begins with what the user typed to start bake: `scripts/bake` sets BAKE_COMMAND.
    """
    name = [] if store.cluster == DEFAULT_NAME else ["--name", store.cluster]
    out = [] if store.out == Path(DEFAULT_OUT).absolute() else ["--out", shlex.quote(str(store.out))]
    uri = [] if connect is None else ["--connect", shlex.quote(connect)]
    return " ".join([os.environ.get("BAKE_COMMAND", "bake"), *filter(None, [words]), *name, *out, *uri])
