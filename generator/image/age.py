"""The age of the base image that bake built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

OLD = 60  # days; Debian publishes a point release with security updates about every 60 days


def days_old(built: str, *, now: datetime) -> int | None:
    """Return the age in days of an image. `built`: when bake built the image (RFC 3339), or "" if unknown.

    A command that builds the image took its time `now` before the build, so the age is at least 0.
    """
    return max((now - datetime.fromisoformat(built)).days, 0) if built else None


def old_images(built: Mapping[str, str], *, now: datetime) -> tuple[str, ...]:
    """Return a text for each old image. `built`: for each node, when bake built the image of its root disk."""
    nodes = defaultdict(list)
    for node, when in built.items():
        age = days_old(when, now=now)
        if age is not None and age > OLD:
            nodes[age].append(node)
    return tuple(f"the image of {', '.join(names)} is {age} days old" for age, names in sorted(nodes.items()))
