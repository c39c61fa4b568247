"""The state machine of the join, and its table in docs/explanation/join.md."""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "generator/seed/guest/usr/libexec/bake"))

from join_decision import (  # noqa: E402
    ACTIONS,
    REPLACING,
    Action,
    Disk,
    Member,
    Planned,
    Situation,
    absent,
    decide,
    initial_cluster,
    lost_voter,
    parse_members,
    place,
)  # fmt: skip

sys.path.pop(0)

URL = "https://10.0.0.{}:2380"
ME = Planned("etcd2", URL.format(2), "https://10.0.0.2:2379")
FIRST = Member("a1", "etcd1", (URL.format(1),), ("https://10.0.0.1:2379",), is_learner=False)


def me(name: str = "etcd2", *, number: int = 2, learner: bool = False) -> Member:
    return Member("b2", name, (URL.format(number),), (), is_learner=learner)


def test_the_documented_table_is_the_state_machine() -> None:
    text = (ROOT / "docs/explanation/join.md").read_text()
    rows = re.findall(r"^\| `([a-z ]+)` \| .* \| \*\*([a-z ]+)\*\*", text, re.MULTILINE)
    assert {Situation(situation): Action(action) for situation, action in rows} == ACTIONS
    assert len(rows) == len(Situation)


@pytest.mark.parametrize("situation", Situation)
def test_a_member_on_the_disk_resumes_in_every_situation(situation: Situation) -> None:
    assert decide(Disk.MEMBER, situation) is Action.GO_ON
    assert decide(Disk.EMPTY, situation) is decide(Disk.UNFINISHED, situation) is not Action.GO_ON


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ([], Situation.ABSENT),
        ([me("")], Situation.UNSTARTED),
        ([me("", learner=True)], Situation.UNSTARTED),
        ([me(learner=True)], Situation.LOST_LEARNER),
        ([me()], Situation.LOST_VOTER),
        ([me("other")], Situation.RENAMED),
        ([me(number=7)], Situation.MOVED),
        ([me(""), me(number=7)], Situation.MOVED),  # one name at two addresses
    ],
)
def test_the_member_list_determines_the_situation(own: list[Member], seen: Situation) -> None:
    assert place(ME, [FIRST, *own]) is seen


@pytest.mark.parametrize(
    ("note", "learner_there", "seen"),
    [
        (None, False, Situation.ABSENT),
        (REPLACING, False, Situation.ABSENT),
        (None, True, Situation.ANOTHER_LEARNER),
        ("b2", False, Situation.REMOVED),
        ("b2", True, Situation.REMOVED),
        ("", False, Situation.REMOVED),
    ],
)
def test_an_unlisted_node_with_a_record_was_removed(note: str | None, learner_there: bool, seen: Situation) -> None:
    members = [FIRST, me("etcd3", number=3, learner=learner_there)]
    assert absent(members, note, as_learner=True) is seen


def test_a_voter_can_be_added_while_a_learner_is_listed() -> None:
    assert absent([FIRST, me("etcd3", number=3, learner=True)], None, as_learner=False) is Situation.ABSENT


@pytest.mark.parametrize(("voters", "enough"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_a_lost_voter_is_removed_only_if_the_other_voters_are_a_quorum(voters: int, enough: int) -> None:
    members = [me(f"etcd{number}", number=number) for number in range(voters)]
    assert lost_voter(members, enough, answers=False) is Situation.LOST_VOTER
    assert lost_voter(members, enough - 1, answers=False) is Situation.MISSED_VOTER
    assert lost_voter(members, voters, answers=True) is Situation.MISSED_VOTER


def test_initial_cluster_uses_the_planned_name_or_the_id_of_an_unnamed_member() -> None:
    members = [FIRST, me("", number=3), me("", number=9), me("")]
    planned = [ME, Planned("etcd3", URL.format(3), "")]
    pairs = (("etcd1", 1), ("etcd3", 3), ("b2", 9), ("etcd2", 2))
    assert initial_cluster(members, planned) == ",".join(f"{name}={URL.format(number)}" for name, number in pairs)


def test_etcdctls_member_list_is_parsed() -> None:
    entry = {"ID": 10276657743932975437, "name": "etcd1", "peerURLs": ["https://h:2380"], "isLearner": True}
    text = json.dumps({"header": {}, "members": [entry]})
    assert parse_members(text) == [Member("8e9e05c52164694d", "etcd1", ("https://h:2380",), (), is_learner=True)]


@pytest.mark.parametrize("text", ["", "{}", '{"members": []}', '{"members": [{"name": "x"}]}', '{"members": 1}', "[1]"])
def test_an_invalid_member_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_members(text)


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each, max_size=3))


@given(VALUES | st.fixed_dictionaries({"members": VALUES | st.lists(st.dictionaries(st.text(), VALUES))}))
def test_any_answer_is_a_member_list_or_a_value_error(value: object) -> None:
    with suppress(ValueError):
        assert parse_members(json.dumps(value))
