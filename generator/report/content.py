"""The content of a report: texts and numbers, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from generator.report.timeline import Timeline


class Mood(StrEnum):
    """How good something is. The page shows it as a word and as a colour. `UNKNOWN`: bake could not find out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A figure at the top of the page, such as `3 of 3`, with a title and a sentence."""

    title: str
    figure: str
    text: str
    mood: Mood


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCard:
    """A node in the topology. `role`: leader, voter, learner, unstarted or unknown. `facts`: title → value."""

    name: str
    role: str
    mood: Mood
    facts: Mapping[str, str]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBox:
    """A host, or "" if the cluster file names no hosts. `domain`: the failure domain, or ""."""

    name: str
    domain: str
    nodes: tuple[NodeCard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRow:
    """A certificate. `share`: the part of the validity that is left, from 0 to 1. `served`: yes, no or ""."""

    owner: str
    role: str
    names: str
    issuer: str
    not_after: str
    days_left: int
    share: float
    served: str
    mood: Mood


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """A check of `bake verify`, or a control of `bake audit`. `name`: the check's name or the control's id."""

    name: str
    title: str
    result: str
    mood: Mood
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """The versions of a node. An unknown version is ""."""

    node: str
    etcd: str
    image: str
    built: str
    parts: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRow:
    """An alarm of etcd."""

    node: str
    alarm: str
    meaning: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """A change. `sign`: + for added, ~ for changed, - for removed. `cost`: the level, or ""."""

    sign: str
    what: str
    values: str
    cost: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of a section. `unknown`: why there are no rows, or ""."""

    rows: tuple[ResultRow, ...] = ()
    unknown: str = ""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that the page shows.

    `notices`: what is missing in the report, and why. `tasks`: pairs of a task of the operator and its remedy.
    `last_bake`: a sentence about the last bake that changed the folder. `edited`: changes after that bake.
    """

    cluster: str
    made: datetime
    bake_version: str
    engine: str
    mood: Mood
    verdict: str
    notices: tuple[str, ...]
    tiles: tuple[Tile, ...]
    hosts: tuple[HostBox, ...]
    tasks: tuple[tuple[str, str], ...]
    timeline: Timeline
    certificates: tuple[CertificateRow, ...]
    checks: Part
    controls: Part
    versions: tuple[VersionRow, ...]
    alarms: tuple[AlarmRow, ...]
    no_alarms: str
    last_bake: str
    changes: tuple[ChangeRow, ...]
    edited: tuple[ChangeRow, ...]

    @property
    def domains(self) -> dict[str, tuple[HostBox, ...]]:
        """The hosts by failure domain, in the order of the hosts."""
        names = dict.fromkeys(host.domain for host in self.hosts)
        return {name: tuple(host for host in self.hosts if host.domain == name) for name in names}
