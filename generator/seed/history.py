"""The seeds that bake has made for each node, oldest first, and what each costs a node that runs the one before.

The history answers one question after any number of bakes: what does the newest seed cost a node that still runs an
older one?
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from generator.errors import InputError
from generator.level import Level

FORMAT_VERSION = "1.0"
KEPT = 50  # seeds per node; a node that runs an older seed must reboot


class Made(NamedTuple):
    """A seed: its instance-id, and the level of the change from the seed before."""

    seed: str
    level: Level


@dataclass(frozen=True, kw_only=True)
class SeedHistory:
    """The seeds of each node, oldest first."""

    nodes: Mapping[str, tuple[Made, ...]] = field(default_factory=dict)

    def extended(self, node: str, seed: str, level: Level) -> SeedHistory:
        """Return the history with a node's newest seed. `level`: the cost of the change from the seed before."""
        made = self.nodes.get(node, ())
        if made and made[-1].seed == seed:
            return self
        newest = Made(seed=seed, level=level)
        return SeedHistory(nodes={**self.nodes, node: (*made, newest)[-KEPT:]})

    def only(self, nodes: frozenset[str]) -> SeedHistory:
        """Return the history of the given nodes."""
        return SeedHistory(nodes={name: made for name, made in self.nodes.items() if name in nodes})

    def cost(self, node: str, running: str | None) -> Level:
        """Return what the newest seed costs a node that runs the seed `running`.

        `running`: None if it is not known; then the node counts as running the seed before the newest.
        """
        made = self.nodes.get(node, ())
        if not made:
            return Level.NONE
        if running is None:
            return made[-1].level if len(made) > 1 else Level.NONE
        places = [place for place, one in enumerate(made) if one.seed == running]
        if not places:
            return Level.REBOOT
        later = [one.level for one in made[places[-1] + 1 :]]
        return max(later, key=lambda level: level.rank, default=Level.NONE)

    def dump(self) -> bytes:
        nodes = {
            name: [{"seed": one.seed, "level": str(one.level)} for one in made] for name, made in self.nodes.items()
        }
        return json.dumps({"format_version": FORMAT_VERSION, "nodes": nodes}, indent=1).encode() + b"\n"


def parse_history(raw: bytes | None, *, where: str) -> SeedHistory:
    """Return the history in a file, or an empty history without a file. Raises InputError for another content."""
    if raw is None:
        return SeedHistory()
    try:
        data: Any = json.loads(raw)
        nodes = {str(name): tuple(map(_made, made)) for name, made in data["nodes"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError.one(where, "has content that bake did not write", "restore or delete the file") from None
    return SeedHistory(nodes=nodes)


def _made(entry: Mapping[str, str]) -> Made:
    return Made(seed=str(entry["seed"]), level=Level(entry["level"]))
