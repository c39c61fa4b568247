"""Which place this node has in the cluster, and what follows from it: facts in, an action out, nothing touched.

`ACTIONS` is the whole state machine; docs/explanation/join.md shows it as a table, which the tests hold against it.
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
    """A line of etcd's member list. A member that has not started yet has no name."""

    id: str  # hexadecimal, as etcdctl wants it
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class Disk(Enum):
    """What the data directory holds."""

    EMPTY = "empty"
    UNFINISHED = "unfinished"  # a log, but no member in it: a first start that was cut off
    MEMBER = "member"


class Situation(Enum):
    """What the cluster says about this node, or why it says nothing."""

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


class Action(Enum):
    """What the node does."""

    GO_ON = "go on"
    START_CLUSTER = "start a cluster"
    ADD = "add"
    ADOPT = "adopt"
    REMOVE = "remove"
    GUESS = "guess"
    WAIT = "wait"
    STAY_OUT = "stay out"


# For a disk without a member; one with a member goes on, whatever the cluster says: etcd itself knows best.
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
}
REPLACING = "replacing"  # what a node notes in the cluster before it removes its own lost entry


def decide(disk: Disk, situation: Situation) -> Action:
    return Action.GO_ON if disk is Disk.MEMBER else ACTIONS[situation]


def parse_members(text: str) -> list[Member]:
    """The members in etcdctl's JSON. Raises ValueError for what is no member list: an empty one is none either.

    It must never read as "you are not in it".
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
    """The entry with this node's peer URL. The URL is what makes a member; names may repeat."""
    return next((member for member in members if me.peer_url in member.peer_urls), None)


def place(me: Planned, members: list[Member]) -> Situation:
    """What the list alone says. `ABSENT` and `LOST_VOTER` need a second look: see `absent` and `lost_voter`."""
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


def absent(members: list[Member], note: str | None, *, as_learner: bool) -> Situation:
    """A node that is not listed. `note` is what the cluster remembers of it: the id under which it last voted."""
    if note not in (None, REPLACING):
        return Situation.REMOVED
    # etcd 3.5 allows one learner at a time.
    if as_learner and any(member.is_learner for member in members):
        return Situation.ANOTHER_LEARNER
    return Situation.ABSENT


def lost_voter(members: list[Member], healthy: int, *, answers: bool) -> Situation:
    """A voter on record whose disk is empty. It may go only if the others are a quorum without it, and it is dead.

    `healthy` counts the other voters that answered just now; `answers` is whether the old member still does.
    """
    voters = sum(not member.is_learner for member in members)
    is_safe = healthy >= voters // 2 + 1 and not answers
    return Situation.LOST_VOTER if is_safe else Situation.MISSED_VOTER


def initial_cluster(members: list[Member], planned: list[Planned]) -> str:
    """`members` as etcd's initial-cluster, which must hold exactly all of them.

    etcd compares only the URLs, but names must differ; one that has not started gets the name that is planned for it.
    """
    names = {node.peer_url: node.name for node in planned}
    return ",".join(
        f"{member.name or names.get(url, member.id)}={url}" for member in members for url in member.peer_urls
    )
