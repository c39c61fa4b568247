"""`Artifact`: a file's path and content, as the other modules return it and `store` writes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file to write: its path, bytes, permission bits, and whether it is secret.

    `path` is relative to the cluster's folder for host files and absolute for files inside the guest.
    A secret is always 0600 on the host; `repr` omits the bytes so that no log or traceback shows them.
    """

    path: PurePosixPath
    data: bytes = field(repr=False)
    mode: int = 0o644
    secret: bool = False

    @property
    def sha256(self) -> str:
        """Hex digest of the content."""
        return hashlib.sha256(self.data).hexdigest()
