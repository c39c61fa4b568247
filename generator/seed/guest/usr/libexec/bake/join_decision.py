"""Decide the next action of this node from the content of its disk and the member list. Pure.

`ACTIONS` has every decision. docs/explanation/join.md has the same table, and a test compares both tables.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import NamedTuple


class Planned(NamedTuple):
    """A node of the plan."""

    name: str
    peer_url: str
    client_url: str


class Member(NamedTuple):
    """An entry of etcd's member list. The name is empty until the member has started."""

    id: str  # hexadecimal, as etcdctl requires
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class Disk(Enum):
    """The content of the data directory."""

    EMPTY = "empty"
    UNFINISHED = "unfinished"  # a write-ahead log without members, from an interrupted first start
    MEMBER = "member"


class Situation(Enum):
    """What the cluster knows about this node, or why the cluster does not answer."""

    ALL_EMPTY = "all empty"
    NOBODY = "nobody"
    NO_ANSWER = "no answer"
    NO_QUORUM = "no quorum"
    ABSENT = "absent"
    ANOTHER_LEARNER = "another learner"
    REMOVED = "removed"
    UNSTARTED = "unstarted"
    LOST_LEARNER = "lost learner"
    LOST_VOTER = "lost voter"
    MISSED_VOTER = "missed voter"
    RENAMED = "renamed"
    MOVED = "moved"
    OTHER_CLUSTER = "other cluster"


class Action(Enum):
    """The node's next step."""

    GO_ON = "go on"
    START_CLUSTER = "start a cluster"
    ADD = "add"
    ADOPT = "adopt"
    REMOVE = "remove"
    GUESS = "guess"
    WAIT = "wait"
    STAY_OUT = "stay out"


# The action in each situation if the node's disk has no etcd member. Otherwise, the node always resumes that member.
ACTIONS = {
    Situation.ALL_EMPTY: Action.START_CLUSTER,
    Situation.NOBODY: Action.WAIT,
    Situation.NO_ANSWER: Action.WAIT,
    Situation.NO_QUORUM: Action.GUESS,
    Situation.ABSENT: Action.ADD,
    Situation.ANOTHER_LEARNER: Action.WAIT,
    Situation.REMOVED: Action.STAY_OUT,
    Situation.UNSTARTED: Action.ADOPT,
    Situation.LOST_LEARNER: Action.REMOVE,
    Situation.LOST_VOTER: Action.REMOVE,
    Situation.MISSED_VOTER: Action.WAIT,
    Situation.RENAMED: Action.WAIT,
    Situation.MOVED: Action.WAIT,
    Situation.OTHER_CLUSTER: Action.STAY_OUT,
}
REPLACING = "replacing"  # recorded for a node whose data is lost, before its old member is removed


def decide(disk: Disk, situation: Situation) -> Action:
    return Action.GO_ON if disk is Disk.MEMBER else ACTIONS[situation]


def parse_members(text: str) -> list[Member]:
    """Parse the JSON output of etcdctl, and return the members.

    Raises ValueError for an invalid answer and for an empty list. Both must not look like a list without this node.
    """
    answer = json.loads(text)
    try:
        members = [
            Member(
                id=f"{entry['ID']:x}",
                name=entry.get("name", ""),
                peer_urls=tuple(entry["peerURLs"]),
                client_urls=tuple(entry.get("clientURLs", ())),
                is_learner=entry.get("isLearner", False),
            )
            for entry in answer["members"]
        ]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("not a member list") from error
    if not members:
        raise ValueError("an empty member list")
    return members


def find(me: Planned, members: list[Member]) -> Member | None:
    """Return the member with this node's peer URL, or None. Names are not compared, because they are not unique."""
    return next((member for member in members if me.peer_url in member.peer_urls), None)


def place(me: Planned, members: list[Member]) -> Situation:
    """Return the situation according to the member list.

    For `ABSENT` and `LOST_VOTER`, call `absent` and `lost_voter`.
    """
    if any(member.name == me.name and me.peer_url not in member.peer_urls for member in members):
        return Situation.MOVED
    own = find(me, members)
    if own is None:
        return Situation.ABSENT
    if not own.name:
        return Situation.UNSTARTED
    if own.name != me.name:
        return Situation.RENAMED
    return Situation.LOST_LEARNER if own.is_learner else Situation.LOST_VOTER


def absent(members: list[Member], record: str | None, *, as_learner: bool) -> Situation:
    """Return the situation of a node that is not a member.

    `record`: the node's member id as recorded in etcd, or None.
    """
    if record not in (None, REPLACING):
        return Situation.REMOVED
    # etcd 3.5 allows one learner at a time.
    if as_learner and any(member.is_learner for member in members):
        return Situation.ANOTHER_LEARNER
    return Situation.ABSENT


def lost_voter(members: list[Member], healthy: int, *, answers: bool) -> Situation:
    """Return the situation of a node that is listed as a voter but has lost its data.

    The voter may be removed only if the other voters have a quorum and no old etcd process runs as this voter.
    `healthy`: the number of other voters that answer. `answers`: whether the old etcd process answers.
    """
    voters = sum(not member.is_learner for member in members)
    is_safe = healthy >= voters // 2 + 1 and not answers
    return Situation.LOST_VOTER if is_safe else Situation.MISSED_VOTER


def initial_cluster(members: list[Member], planned: list[Planned]) -> str:
    """Return etcd's initial-cluster with exactly the members in `members`.

    A member that has not started has no name yet. It gets the name of the node with its URL.
    """
    names = {node.peer_url: node.name for node in planned}
    return ",".join(
        f"{member.name or names.get(url, member.id)}={url}" for member in members for url in member.peer_urls
    )
