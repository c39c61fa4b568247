"""The maintenance commands on the command line: output, JSON keys, exit codes and questions."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from generator.plan import ClusterPlan
from tests.unit.etcd_database import database, revision_key, stream
from tests.unit.maintained import Members, serving

Bake = Callable[..., Any]
COMMANDS_PAGE = Path(__file__).parents[2] / "docs/reference/commands.md"
MIB = 1 << 20


@pytest.fixture
def members(
    plan: Callable[..., ClusterPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bake: Bake
) -> Iterator[Members]:
    """A cluster of servers that every command opens."""
    out = tmp_path / "out"
    out.mkdir(mode=0o755)
    with serving(plan(nodes=3), out) as (cluster, members):
        for name in ("etcd1", "etcd2", "etcd3"):
            members.replies[name, "Maintenance/Snapshot"] = stream(database({revision_key(12): b"a"}))
        monkeypatch.setattr("generator.cli.maintenance.open_started", lambda _: cluster)
        yield members


def documented(command: str) -> set[str]:
    """Return the words in code font in a command's row of the table of JSON keys."""
    (row,) = re.findall(rf"^\| `{command}` \| (`.*) \|$", COMMANDS_PAGE.read_text(), re.MULTILINE)
    return set(re.findall(r"`(\w+)`", row)) - {"NOSPACE", "CORRUPT"}


def data_of(text: str) -> dict[str, Any]:
    """Return the data of a command in the output of `-o json`."""
    return {key: value for key, value in json.loads(text).items() if key not in ("format_version", "diagnostics")}


def json_keys(value: Any) -> set[str]:
    """Return the keys of an object and of the objects in its lists."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (set(value) if isinstance(value, dict) else set()).union(*map(json_keys, items))


def test_snapshot_prints_the_file_and_its_data(bake: Bake, members: Members) -> None:
    result = bake("snapshot", "a.db")
    assert (result.code, result.out) == (0, f"{Path('a.db').absolute()}\n")
    assert "revision 12, 2080 bytes from etcd2, sha256 " in result.err
    assert [stat.S_IMODE(Path(name).stat().st_mode) for name in ("a.db", "a.db.json")] == [0o600, 0o600]
    quiet = bake("snapshot", "b.db", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_snapshot_keeps_the_given_number(bake: Bake, members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("backup").mkdir()
    bake("snapshot", "backup/a.db")
    monkeypatch.setenv("BAKE_KEEP", "1")
    result = bake("snapshot", "backup/b.db", "-o", "json")
    found = data_of(result.out)
    assert found["removed"] == [str(Path("backup/a.db").absolute())]
    assert found["file"] == str(Path("backup/b.db").absolute())
    assert {"format_version", *found["snapshot"]} == json.loads(Path("backup/b.db.json").read_text()).keys()
    assert found.keys() == {"file", "snapshot", "removed"} == documented("bake snapshot")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["snapshot", "out"], 0, ""),
        (["snapshot", "none/a.db"], 2, "there is no folder"),
        (["snapshot", "taken.db"], 2, "exists already"),
        (["snapshot", "taken.db/a.db"], 2, "there is no folder"),
        (["snapshot", "x" * 300], 2, "cannot be opened: File name too long"),
        (["plan", "--wait", "-5"], 2, "-5 is not in the range x>=1"),
        (["certs", "deliver", "--wait", "0"], 2, "0 is not in the range x>=1"),
        (["snapshot", "--keep", "0"], 2, "--keep: 0 is not a number of snapshots"),
        (["snapshot", "--keep", "x"], 2, "'x' is not a valid integer"),
        (["move-leader", "etcd9"], 2, "NODE: there is no node 'etcd9'"),
        (["move-leader", "etcd2", "etcd3"], 2, "unexpected extra argument"),
        (["alarm"], 0, ""),
        (["alarm", "disarm"], 0, ""),
        (["alarm", "--yes", "disarm"], 2, "No such option"),
        (["alarm", "-o", "json", "disarm"], 2, "put --output after the command: bake alarm disarm --output"),
        (["defrag"], 0, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(bake: Bake, members: Members, words: list[str], code: int, says: str) -> None:
    Path("taken.db").touch()
    result = bake(*words)
    assert (result.code, says in result.err) == (code, True), result.err


def test_snapshot_of_an_unknown_node_makes_no_folder(bake: Bake, members: Members) -> None:
    result = bake("snapshot", "--node", "nope")
    assert (result.code, "--node: there is no node 'nope'" in result.err) == (2, True), result.err
    assert not list(Path("out").glob("*.snapshots"))


def test_defrag_shows_every_member(bake: Bake, members: Members) -> None:
    members.status["etcd2"] = {"dbSize": 300 * MIB, "dbSizeInUse": 7 * MIB}
    found = data_of(bake("defrag", "--compact", "-o", "json").out)
    assert (found["compacted"], [one["after"] for one in found["members"]]) == (9, [None, 7 * MIB, None])
    assert json_keys(found) == documented("bake defrag")
    result = bake("defrag", "--force")
    assert result.code == 0
    assert result.out.splitlines()[0].split()[:4] == ["NODE", "SIZE", "IN", "USE"]
    assert len(result.out.splitlines()) == 4


def test_alarm_exits_with_3_and_shows_the_remedy(bake: Bake, members: Members) -> None:
    members.alarms = [(2, 1)]
    result = bake("alarm")
    assert (result.code, "NOSPACE" in result.out, "bake defrag --compact" in result.err) == (3, True, True)
    found = data_of(bake("alarm", "-o", "json").out)
    assert json_keys(found) == documented("bake alarm")
    assert json.loads(bake("alarm", "disarm", "-o", "json").out)["disarmed"] == found["alarms"]
    assert (bake("alarm").out, bake("alarm", "disarm").out) == ("no alarms\n", "no alarms\n")


def test_a_corrupt_alarm_is_cleared_only_with_yes(bake: Bake, members: Members) -> None:
    members.alarms = [(2, 2)]
    result = bake("alarm", "disarm")
    assert (result.code, members.alarms) == (2, [(2, 2)])
    assert "the data of etcd2 differs" in result.err
    assert "add --yes to confirm" in result.err
    result = bake("alarm", "disarm", "--yes")
    assert (result.code, result.out, members.alarms) == (0, "etcd2: cleared CORRUPT\n", [])


def test_move_leader_names_both_leaders(bake: Bake, members: Members) -> None:
    found = data_of(bake("move-leader", "etcd3", "-o", "json").out)
    assert (found["before"], found["after"]) == ("etcd1", "etcd3")
    assert json_keys(found) == documented("bake move-leader")
    assert bake("move-leader", "etcd3").out == "etcd3 is the leader already\n"
    assert re.fullmatch(r"etcd1 leads after \d\.\d\d s\n", bake("move-leader", "etcd1").out)
