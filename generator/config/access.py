"""The section `access` of a cluster file: accounts on the nodes that may read the client key."""

from __future__ import annotations

from dataclasses import dataclass

from generator.config import values
from generator.config.fields import list_of, scalar, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSpec:
    readers: tuple[str, ...] = setting(
        list_of(scalar(values.reader)),
        "accounts on the nodes that may read the node's client certificate and key, such as backup",
        default=(),
    )
