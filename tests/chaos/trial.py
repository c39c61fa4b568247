"""What a row is, and what one trial of it gets to work with."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.assembly.miniature import Tools
from tests.chaos.world import World

LIMIT = 180.0  # seconds that a cluster may take to become whole once nothing disturbs it any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A trial that held. `seconds`: how long the cluster took to become whole after the last fault, if it had to."""

    label: str
    seconds: float | None = None
    reached: bool = True  # an exhaustive row: whether there was such a call at all


@dataclass(kw_only=True)
class Trial:
    """One repetition of a row. All of its chance comes from `rng`, which knows seed, row and number alone."""

    row: str
    number: int
    seed: int
    folder: Path
    tools: Tools | None = None
    over: threading.Event = field(default_factory=threading.Event)
    guest: Path | None = None  # other hooks than the shipped ones
    limit: float = LIMIT
    aim: float = 0.06  # how long after the first log a kill comes at the latest
    label: str = ""  # what it is about, for a failure's report
    _worlds: list[World] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/{self.row}/{self.number}")  # noqa: S311  repeatable on purpose

    def world(self, nodes: int) -> World:
        """A new cluster, still switched off."""
        assert self.tools is not None
        place = self.folder / f"cluster{len(self._worlds) + 1}"
        self._worlds.append(World(place, nodes, self.tools, self.over, guest=self.guest, limit=self.limit))
        return self._worlds[-1]

    def close(self) -> None:
        for world in self._worlds:
            world.close()

    @property
    def repeat(self) -> str:
        return f"scripts/chaos --row {self.row} --seed {self.seed} --trial {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A kind of fault. `lanes`: an exhaustive row does call 1, 2, ... of each lane until a hook makes no such call."""

    what: str
    goal: str
    trials: int  # of a full run; of an exhaustive row: at most
    gate: int  # of a short run; 0: it has no place in one
    run: Callable[[Trial], Outcome]
    lanes: int = 0
    level: str = "loopback"
    alone: bool = False  # its times count, or it takes the machine: one trial at a time


def lane_of(number: int, lanes: int) -> tuple[int, int]:
    """Which lane an exhaustive row's trial is in, and which call of it (from 1)."""
    return number % lanes, number // lanes + 1
