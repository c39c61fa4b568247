"""Write the commands that messages suggest."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from generator.store.folder import Store

DEFAULT_NAME, DEFAULT_OUT = "etcd", "out"


def command(store: Store, words: str) -> str:
    """Return a bake command with `words`, and with the cluster's --name and --out if they differ from the defaults."""
    name = [] if store.cluster == DEFAULT_NAME else ["--name", store.cluster]
    out = [] if store.out == Path(DEFAULT_OUT).absolute() else ["--out", shlex.quote(str(store.out))]
    return " ".join(["bake", words, *name, *out])
