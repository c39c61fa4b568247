"""The section `access` of a cluster file: which accounts of a node, beside etcd's, may read what."""

from __future__ import annotations

from dataclasses import dataclass

from generator.config import values
from generator.config.fields import list_of, one, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSpec:
    readers: tuple[str, ...] = setting(
        list_of(one(values.reader)),
        "users of the nodes that may use the node's client certificate and key, such as backup",
        default=(),
    )
