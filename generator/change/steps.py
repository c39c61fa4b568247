"""A step of a change: what happens to one node, and its effect on the cluster's clients."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from generator.level import Level


class Action(StrEnum):
    """What happens to a node.

    `start`: its stopped VM starts. `remove`: its member, VM and disk are removed. `update`: it applies its new seed.
    `replace`: it loses its member, VM and disk, and joins again with new ones. `add`: it gets a VM and joins.
    """

    START = "start"
    REMOVE = "remove"
    UPDATE = "update"
    REPLACE = "replace"
    ADD = "add"


SIGNS = {Action.START: "~", Action.REMOVE: "-", Action.UPDATE: "~", Action.REPLACE: "-/+", Action.ADD: "+"}


class Effect(StrEnum):
    """The declared effect of a step on clients."""

    NONE = "none"
    RECONNECT = "clients of this node reconnect"
    ELECTION = "the leader changes once; clients of this node reconnect"
    PAUSE = "no writes until this node is back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a change.

    `loses`: what the step deletes, or "". `level`: what an update costs the node. `member_id`: the member to remove.
    """

    action: Action
    node: str
    reason: str
    effect: Effect = Effect.NONE
    loses: str = ""
    level: Level | None = None
    member_id: int | None = None

    @property
    def key(self) -> tuple[Action, str]:
        """Identifies the step when the same change is planned again."""
        return (self.action, self.node)

    @property
    def interrupts(self) -> bool:
        """Whether etcd on the node stops, so that another voter should lead before."""
        if self.action is Action.UPDATE:
            return self.level is not None and self.level.rank >= Level.RESTART.rank
        return self.action in (Action.REMOVE, Action.REPLACE)

    @property
    def row(self) -> dict[str, str]:
        """The step's row in the table of `bake plan`."""
        level = f" ({self.level})" if self.level else ""
        what = f"{self.action}{level}"
        return {"": SIGNS[self.action], "node": self.node, "step": what, "why": self.reason, "clients": self.effect}

    @property
    def data(self) -> dict[str, Any]:
        """The step's object in the output of `-o json`."""
        return {
            "action": str(self.action), "node": self.node, "level": self.level and str(self.level),
            "reason": self.reason, "effect": str(self.effect), "loses": self.loses or None,
        }  # fmt: skip
