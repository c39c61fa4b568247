"""`Level`: the least that a change costs a running node."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """The least that a running node must do to apply a change, from nothing to impossible.

    `none`: nothing. `live`: the node exchanges files, and etcd keeps running. `restart`: etcd restarts. `reboot`: the
    node reboots. `replace`: the node gets a new root disk. `refused`: no running node can apply the change.
    """

    NONE = "none"
    LIVE = "live"
    RESTART = "restart"
    REBOOT = "reboot"
    REPLACE = "replace"
    REFUSED = "refused"

    @property
    def rank(self) -> int:
        """The level's position: a higher rank costs the node more."""
        return list(Level).index(self)
