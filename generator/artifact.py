"""`Artifact`: a file to be written. The package `seed` makes artifacts, and the package `store` writes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file to be written: its path, bytes, permission bits, and whether it is secret.

    `path` is relative to the cluster's folder for a file on the operator's machine, and absolute for a file in the
    guest. On the operator's machine, a secret file always has mode 0600. `repr` omits the bytes, so that no log or
    traceback shows them.
    """

    path: PurePosixPath
    data: bytes = field(repr=False)
    mode: int = 0o644
    secret: bool = False

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()
