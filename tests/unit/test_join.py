"""The programs etcd-join, etcd-promote, etcd-restart and etcd-auth, with a fake etcdctl."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from tests.assembly.miniature import Node, Tools, bake_miniature

A, B = 0xA1, 0xB2  # member ids
# Records its arguments, then runs answers/<verb>/<n> at the n-th call of the verb. The last answer is repeated.
ETCDCTL = """#!/bin/sh
echo "$*" >>"$DESK/commands"
words=
for word; do
    case $word in --endpoints=* | --dial-timeout=* | --command-timeout=*) ;; *) words="$words $word" ;; esac
done
echo "${words# }" >>"$DESK/calls"
set -- $words
case $1 in member | endpoint) verb=$2 ;; *) verb=$1 ;; esac
echo . >>"$DESK/count-$verb"
n=$(wc -l <"$DESK/count-$verb")
while [ ! -e "$DESK/answers/$verb/$n" ]; do
    n=$((n - 1))
    [ "$n" -gt 0 ] || case $verb in
        put) echo OK; exit ;;
        remove) echo "Member b2 removed from cluster 1"; exit ;;
        promote) echo "Member b2 promoted in cluster 1"; exit ;;
        *) exit ;;
    esac
done
. "$DESK/answers/$verb/$n"
"""
_numbers = count(1)


@dataclass
class Desk:
    """Node etcd2 of two nodes, with real certificates. No port is open without the fixture `member`."""

    node: Node
    other: Node
    root: Path
    env: dict[str, str]
    answers: dict[str, int] = field(default_factory=dict)

    def answer(self, verb: str, value: object = "", *, error: str = "") -> None:
        """Set etcdctl's next answer to the verb: data as JSON, a text, or an error with exit code 1."""
        text = value if isinstance(value, str) else json.dumps(value)
        body = f"echo 'Error: {error}' >&2; exit 1\n" if error else f"cat <<'END'\n{text}\nEND\n"
        self.answers[verb] = self.answers.get(verb, 0) + 1
        path = self.root / "answers" / verb / str(self.answers[verb])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)

    def run(self, hook: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.node.hook(hook), env=self.env | env, capture_output=True, text=True, timeout=180)

    def watch(self, hook: str, until: Callable[[str], object], seconds: float = 1) -> str:
        """Run a hook until `until` accepts its output, and then for `seconds`. End the hook and return its output."""
        said = self.root / "said"
        with said.open("w") as out, subprocess.Popen(self.node.hook(hook), env=self.env, stdout=out) as process:
            deadline = time.monotonic() + 120
            while not until(said.read_text()) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(seconds)
            assert process.poll() is None, "the hook ended"
            process.kill()
        return said.read_text()

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def endpoint_of(self, words: str) -> str:
        """Return the endpoint of the first etcdctl call with these words."""
        lines = (self.root / "commands").read_text().splitlines()
        line = next(line for line in lines if words in line)
        return line.split()[0].removeprefix("--endpoints=")

    @property
    def join_env(self) -> dict[str, str]:
        path = self.node.root / "run/etcd/join.env"
        return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}

    def write_log(self, content: bytes) -> None:
        wal = self.node.data_dir / "member/wal/0000000000000000-0000000000000000.wal"
        wal.parent.mkdir(parents=True)
        (self.node.data_dir / "member/snap").mkdir()
        with wal.open("wb") as file:
            file.write(b"\x04\x00\x00\x84" + content)
            file.truncate(64 << 20)

    def me(self, name: str = "etcd2", *, url: str = "", learner: bool = False) -> dict[str, object]:
        return row(B, name, url or self.node.plan.peer_url, learner=learner)

    def first(self) -> dict[str, object]:
        return row(A, "etcd1", self.other.plan.peer_url)


def row(number: int, name: str, url: str, *, learner: bool = False) -> dict[str, object]:
    """Return a member as in etcdctl's JSON, which omits empty and false values."""
    entry: dict[str, object] = {"ID": number, "peerURLs": [url]}
    if name:
        entry |= {"name": name, "clientURLs": [url[:-2] + "79"]}
    return entry | ({"isLearner": True} if learner else {})


def listing(*members: dict[str, object]) -> dict[str, object]:
    return {"header": {"cluster_id": 1}, "members": list(members)}


def note(text: str | None) -> dict[str, object]:
    value = [] if text is None else [{"key": "", "value": base64.b64encode(text.encode()).decode()}]
    return {"kvs": value, "count": len(value)}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "etcdctl").write_text(ETCDCTL)
    (programs / "etcdctl").chmod(0o755)
    subnet = f"127.{200 + worker}.{next(_numbers)}.0/24"
    first, second = bake_miniature(tmp_path, subnet, 2, Tools(bin_dir=programs)).nodes
    desk = Desk(second, first, tmp_path, second.environment() | {"DESK": str(tmp_path), "BAKE_POLL_SECONDS": "0.05"})
    desk.answer("get", note(None))
    return desk


@pytest.fixture
def member(desk: Desk) -> Iterator[str]:
    """Open etcd1's client port and return its URL."""
    url = desk.other.plan.client_url
    with socket.create_server((str(desk.other.plan.address), 2379)):
        yield url


# ── joining ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("member")
def test_a_node_that_is_not_listed_adds_itself_as_a_learner(desk: Desk) -> None:
    desk.answer("list", listing(desk.first()))
    desk.answer("add", listing(desk.first(), desk.me("", learner=True)))
    done = desk.run("etcd-join")
    assert done.returncode == 0, done.stderr
    me, first = desk.node.plan.peer_url, desk.other.plan.peer_url
    assert desk.calls == [
        "member list -w json",
        "get bake/members/etcd2 -w json",
        f"member add etcd2 --peer-urls={me} --learner=true -w json",
    ]
    assert desk.join_env == {
        "ETCD_NAME": "etcd2",
        "ETCD_INITIAL_CLUSTER_STATE": "existing",
        "ETCD_INITIAL_CLUSTER": f"etcd1={first},etcd2={me}",
    }


@pytest.mark.usefixtures("member")
def test_a_voter_join_adds_a_voter(desk: Desk) -> None:
    desk.answer("list", listing(desk.first()))
    desk.answer("add", listing(desk.first(), desk.me("")))
    assert desk.run("etcd-join", BAKE_JOIN="voter").returncode == 0
    assert "--learner=false" in desk.calls[-1]


@pytest.mark.usefixtures("member")
def test_a_node_with_an_unstarted_entry_is_not_added_again(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me("", learner=True)))
    assert desk.run("etcd-join").returncode == 0
    assert desk.calls == ["member list -w json"]
    assert desk.node.plan.peer_url in desk.join_env["ETCD_INITIAL_CLUSTER"]


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize(
    "refusal",
    [
        "etcdserver: unhealthy cluster",
        "etcdserver: re-configuration failed due to not enough started members",
        "etcdserver: too many learner members in cluster",
        "etcdserver: member ID already exist",
        "etcdserver: Peer URLs already exists",
        "etcdserver: request timed out",
        "etcdserver: leader changed",
        "context deadline exceeded",
    ],
)
def test_after_every_refusal_of_an_add_the_member_list_is_read_again(desk: Desk, refusal: str) -> None:
    desk.answer("list", listing(desk.first()))
    desk.answer("list", listing(desk.first(), desk.me("", learner=True)))
    desk.answer("add", error=refusal)
    done = desk.run("etcd-join")
    assert done.returncode == 0
    assert f'phase=waiting detail="the cluster refuses to add this node: {refusal}"' in done.stdout
    assert sum("member add" in call for call in desk.calls) == 1


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize(
    ("verb", "noise"),
    [
        *((verb, noise) for verb in ("list", "add") for noise in ("", "ok", '{"members": []}', '{"members":[{"ID":1')),
        *(("get", noise) for noise in ("", "ok", '{"kvs": [{}]}', '{"kvs": 1}', '{"kvs":[{"val')),
    ],
)
def test_an_unreadable_answer_counts_as_no_answer(desk: Desk, verb: str, noise: str) -> None:
    if verb != "list":
        desk.answer("list", listing(desk.first()))
    (desk.root / "answers/get/1").unlink()
    desk.answers.clear()
    desk.answer("get", noise if verb == "get" else note(None))
    desk.answer(verb, noise)
    assert "phase=waiting" in desk.watch("etcd-join", lambda said: "phase=waiting" in said)
    assert desk.join_env == {}
    assert any("member add" in call for call in desk.calls) == (verb == "add")


@pytest.mark.usefixtures("member")
def test_a_learner_without_its_data_is_removed_and_added_again(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me(learner=True)))
    desk.answer("list", listing(desk.first()))
    desk.answer("add", listing(desk.first(), desk.me("", learner=True)))
    assert desk.run("etcd-join").returncode == 0
    done = [call for call in desk.calls if call.split()[0] == "put" or call.split()[1] in ("remove", "add")]
    assert done[:2] == ["put bake/members/etcd2 replacing", f"member remove {B:x}"]
    assert len(done) == 3


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize(
    ("name", "url", "learner", "words"),
    [
        ("etcd2", "", False, f"voter {B:x} is listed but its data is not on this disk"),
        ("other", "", False, "under another name"),
        ("other", "", True, "under another name"),
        ("etcd2", "https://127.0.0.7:2380", False, "is at https://127.0.0.7:2380"),
        ("etcd9", "https://127.0.0.9:2380", True, "is joining; only one node can join at a time"),
    ],
)
def test_a_node_waits_in_situations_that_it_must_not_change(
    desk: Desk, name: str, url: str, learner: bool, words: str
) -> None:
    desk.answer("list", listing(desk.first(), desk.me(name, url=url, learner=learner)))
    desk.answer("health", error="unhealthy")
    assert desk.watch("etcd-join", lambda said: words in said).count(words) == 1, "the message is printed once"
    assert {call.split()[1] for call in desk.calls} <= {"list", "bake/members/etcd2", "health"}
    assert desk.join_env == {}


@pytest.mark.usefixtures("member")
def test_a_removed_node_does_not_join_again(desk: Desk) -> None:
    desk.answer("list", listing(desk.first()))
    (desk.root / "answers/get/1").unlink()
    desk.answers.clear()
    desk.answer("get", note("b2"))
    said = desk.watch("etcd-join", lambda said: "phase=failed" in said)
    assert said.count("phase=failed") == said.count("was removed from the cluster") == 1
    assert not any("add" in call for call in desk.calls)


# ── the bootstrap permit ─────────────────────────────────────────────────────────────


def lone(desk: Desk) -> dict[str, str]:
    """Return the settings of a cluster with only the first node and its bootstrap permit."""
    env = desk.other.environment()
    pair = env["BAKE_MEMBERS"].split()[0]
    return env | {"BAKE_MEMBERS": pair, "BAKE_CLIENT_URLS": env["BAKE_CLIENT_URL"], "DESK": str(desk.root)}


def started(desk: Desk) -> str:
    return (desk.other.root / "run/etcd/join.env").read_text()


def test_each_start_of_a_cluster_uses_a_new_token(desk: Desk) -> None:
    results = []
    for _ in range(2):
        subprocess.run(desk.other.hook("etcd-join"), env=lone(desk), check=True, timeout=180)
        results.append(started(desk))
    assert "ETCD_INITIAL_CLUSTER_STATE=new\n" in results[0]
    assert f"ETCD_INITIAL_CLUSTER=etcd1={desk.other.plan.peer_url}\n" in results[0]
    assert results[0] != results[1]
    assert desk.calls == []


@pytest.mark.parametrize("permit", [None, "", "0" * 64 + "\n", "BAKE_PERMIT", "BAKE_PERMIT_SHA256"])
def test_without_this_clusters_bootstrap_permit_no_cluster_is_started(desk: Desk, permit: str | None) -> None:
    """The values in the bake.env of every node are not the permit."""
    desk.node, desk.env = desk.other, lone(desk)
    desk.other.permit.unlink()
    if permit is not None:
        desk.other.permit.write_text(desk.env.get(permit, permit))
    words = "has no bootstrap permit"
    assert words in desk.watch("etcd-join", lambda said: words in said)


def test_a_node_that_restores_a_snapshot_does_not_join_another_cluster(desk: Desk) -> None:
    """It would get the other cluster's data instead of the snapshot's."""
    first, url = desk.other, desk.node.plan.client_url
    desk.node, desk.env = first, first.environment() | {"BAKE_POLL_SECONDS": "0.05", "DESK": str(desk.root)}
    snapshot = Path(desk.env["BAKE_SNAPSHOT"])
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    snapshot.touch()
    host, _, port = url.removeprefix("https://").partition(":")
    with socket.create_server((host, int(port))):
        words = f"this node restores a snapshot, but etcd runs at {url}; stop it, and restore again"
        assert words in desk.watch("etcd-join", lambda said: words in said)
    assert desk.calls == []


def test_no_cluster_is_started_before_every_other_node_reports_an_empty_disk(desk: Desk) -> None:
    first = desk.other
    command, env = first.hook("etcd-join"), first.environment() | {"BAKE_POLL_SECONDS": "0.05"}
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert any("waiting for etcd2 to confirm that its disk is empty" in line for line in process.stdout)
        time.sleep(0.7)
        assert process.poll() is None
        stack.enter_context(desk.node.waiting_empty())
        assert process.wait(120) == 0
    assert "ETCD_INITIAL_CLUSTER_STATE=new" in started(desk)


def test_a_silent_open_port_is_not_an_empty_node(desk: Desk) -> None:
    first = desk.other
    desk.node, desk.env = first, first.environment() | {"BAKE_POLL_SECONDS": "0.05"}
    with socket.create_server((desk.env["BAKE_MEMBERS"].split("//")[2].split(":")[0], 2380)):
        words = "waiting for etcd2 to confirm that its disk is empty"
        assert words in desk.watch("etcd-join", lambda said: words in said)


def test_a_node_that_may_not_bootstrap_waits_if_no_member_is_alive(desk: Desk) -> None:
    words = "no member is alive yet"
    assert words in desk.watch("etcd-join", lambda said: words in said)
    assert desk.join_env == {}


def test_a_silent_host_times_out_and_the_other_hosts_are_found() -> None:
    """Linux does not answer on a port with a full queue; a connection would fail only after a minute."""
    guest = Path(__file__).parents[2] / "generator/seed/guest/usr/libexec/bake"
    program = "import sys, node; print(node.accepting(sys.argv[1:]))"
    local = ("127.0.0.1", 0)
    with socket.create_server(local, backlog=0) as full, socket.create_server(local) as usable:
        urls = [f"https://127.0.0.1:{each.getsockname()[1]}" for each in (full, usable)]
        with socket.create_connection(full.getsockname()):
            command = [sys.executable, "-c", program, *urls]
            done = subprocess.run(command, cwd=guest, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{urls[1:]}\n", done.stderr


# ── the disk ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("proof", ["log", "snapshot"])
def test_a_member_on_the_disk_resumes_without_a_request(desk: Desk, proof: str) -> None:
    desk.write_log(b'{"id":1,"peerURLs":["https://127.0.0.2:2380"]}' if proof == "log" else b"")
    if proof == "snapshot":
        (desk.node.data_dir / "member/snap/0000000000000002-0000000000000005.snap").touch()
    done = desk.run("etcd-join")
    assert (done.returncode, done.stdout, desk.calls) == (0, "", [])


@pytest.mark.usefixtures("member")
def test_data_without_a_member_is_renamed_and_kept(desk: Desk) -> None:
    desk.write_log(b"metadata")
    kept = desk.node.data_dir.with_name("etcd.unfinished-1")
    kept.mkdir()
    desk.answer("list", listing(desk.first(), desk.me("", learner=True)))
    assert desk.run("etcd-join").returncode == 0
    assert kept.with_name("etcd.unfinished-2").joinpath("member/wal").is_dir()
    assert not desk.node.data_dir.exists()


@pytest.mark.usefixtures("member")
def test_a_voter_keeps_the_data_of_its_first_start(desk: Desk) -> None:
    """The data of a voter may contain a raft vote, so deleting it is not safe."""
    desk.write_log(b"metadata")
    desk.answer("list", listing(desk.first(), desk.me("")))
    assert desk.run("etcd-join").returncode == 0
    assert (desk.node.data_dir / "member/wal").is_dir()


def test_unreadable_data_is_a_failure_and_not_an_empty_disk(desk: Desk) -> None:
    desk.node.data_dir.mkdir()
    (desk.node.data_dir / "member").touch()  # a file in place of the folder, which root cannot read as a folder either
    done = desk.run("etcd-join")
    assert done.returncode == 1
    assert 'phase=failed detail="cannot read' in done.stdout


# ── promotion ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize(
    "refusal",
    [
        "etcdserver: can only promote a learner member which is in sync with leader",
        "etcdserver: can only promote a learner member",
        "etcdserver: unhealthy cluster",
        "etcdserver: member not found",
        "context deadline exceeded",
    ],
)
def test_every_refused_promotion_is_tried_again(desk: Desk, refusal: str) -> None:
    desk.answer("list", listing(desk.first(), desk.me(learner=True)))
    desk.answer("list", listing(desk.first(), desk.me()))
    desk.answer("promote", error=refusal)
    done = desk.run("etcd-promote")
    assert done.returncode == 0, done.stderr
    put, promote = f"put bake/members/etcd2 {B:x}", f"member promote {B:x}"
    deeds = [call for call in desk.calls if "list" not in call and "status" not in call]
    assert deeds[:2] == [put, promote], "the id is recorded before the promotion"
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["phase=learner", "phase=voting"]


@pytest.mark.usefixtures("member")
def test_a_promoted_learner_has_nothing_left_to_do(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me(learner=True)))
    desk.answer("list", listing(desk.first(), desk.me()))
    done = desk.run("etcd-promote")
    assert (done.returncode, desk.calls[-1]) == (0, f"member promote {B:x}"), done.stderr
    assert f'phase=voting detail="member {B:x}"' in done.stdout


@pytest.mark.usefixtures("member")
def test_the_promotion_request_goes_to_the_leader(desk: Desk) -> None:
    """With auth on, a voter that is not the leader forwards the request without a user name."""
    leader, url = third(desk), client_url_of_third(desk)
    desk.answer("list", listing(desk.first(), desk.me(learner=True), leader))
    desk.answer("status", [{"Status": {"leader": leader["ID"]}}])
    assert desk.run("etcd-promote").returncode == 0
    assert desk.endpoint_of("endpoint status") == desk.other.plan.client_url
    assert desk.endpoint_of("member promote") == url


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize("said", ["", "Member b2 promo"])
def test_a_promotion_without_etcds_confirmation_is_tried_again(desk: Desk, said: str) -> None:
    desk.answer("list", listing(desk.first(), desk.me(learner=True)))
    desk.answer("promote", said)
    promoted = f"member promote {B:x}"
    assert "phase=voting" not in desk.watch("etcd-promote", lambda _: promoted in desk.calls)
    assert sum(call.startswith("put") for call in desk.calls) == 1


@pytest.mark.usefixtures("member")
def test_a_record_without_etcds_confirmation_is_written_again(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me()))
    desk.answer("put", "")
    desk.answer("put", "OK")
    done = desk.run("etcd-promote")
    assert done.returncode == 0
    assert sum(call.startswith("put") for call in desk.calls) == 2
    refused, accepted = done.stdout.splitlines()
    assert "phase=waiting" in refused
    assert "could not record this node as a voter: etcdctl did not print 'OK'" in refused
    assert "phase=voting" in accepted


@pytest.mark.usefixtures("member")
def test_a_learner_asks_the_other_members(desk: Desk) -> None:
    desk.answer("list", error="etcdserver: rpc not supported for learner")
    desk.answer("list", listing(desk.first(), desk.me()))
    assert "phase=voting" in desk.run("etcd-promote").stdout


@pytest.mark.usefixtures("member")
def test_a_recorded_voter_writes_nothing(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me()))
    desk.answer("get", note(f"{B:x}"))
    (desk.root / "answers/get/1").unlink()
    (desk.root / "answers/get/2").rename(desk.root / "answers/get/1")
    assert desk.run("etcd-promote").returncode == 0
    assert not any(call.startswith("put") for call in desk.calls)


@pytest.mark.usefixtures("member")
def test_a_removed_node_reports_the_removal_and_ends(desk: Desk) -> None:
    desk.answer("list", listing(desk.first()))
    done = desk.run("etcd-promote")
    assert done.returncode == 0
    assert 'phase=failed detail="this node was removed from the cluster"' in done.stdout


@pytest.mark.usefixtures("member")
def test_a_voter_trusts_its_own_etcd_more_than_a_member_of_another_cluster(desk: Desk) -> None:
    desk.answer("list", listing(desk.first()))
    desk.answer("list", listing(desk.first(), desk.me()))
    assert "phase=voting" in desk.run("etcd-promote").stdout


@pytest.mark.usefixtures("member")
def test_a_record_is_one_line_for_every_output_of_etcdctl(desk: Desk) -> None:
    desk.answer("list", listing(desk.first()))
    desk.answer("list", listing(desk.first(), desk.me("", learner=True)))
    desk.answer("add", error='x "quoted" \\"twice\\"')
    (line,) = (line for line in desk.run("etcd-join").stdout.splitlines() if "refuses" in line)
    assert line.count('"') == 2


# ── a restart, and users ─────────────────────────────────────────────────────────────────────


def third(desk: Desk) -> dict[str, object]:
    return row(0xC3, "etcd3", re.sub(r"[0-9]+:", "99:", desk.other.plan.peer_url))


def client_url_of_third(desk: Desk) -> str:
    return str(third(desk)["clientURLs"])[2:-2]


@pytest.fixture
def third_member(desk: Desk) -> Iterator[None]:
    """Open etcd3's client port."""
    host = client_url_of_third(desk).split("//")[1].split(":")[0]
    with socket.create_server((host, 2379)):
        yield


@pytest.mark.usefixtures("member")
def test_a_restart_waits_until_the_other_members_are_a_quorum(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me(), third(desk)))  # etcd3's port is closed
    desk.answer("health", "healthy")
    said = desk.watch("etcd-restart", lambda said: "phase=waiting" in said)
    assert said.count('phase=waiting detail="waiting for a quorum of the other members before restarting etcd"') == 1


@pytest.mark.usefixtures("member", "third_member")
def test_a_restart_continues_when_the_other_members_are_a_quorum(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me(), third(desk)))
    desk.answer("health", "healthy")
    done = desk.run("etcd-restart")
    assert (done.returncode, done.stdout) == (0, "")
    assert sum(call.startswith("endpoint health") for call in desk.calls) == 2, "only the other members are probed"


@pytest.mark.usefixtures("member", "third_member")
def test_a_member_is_healthy_if_it_answers_at_one_of_its_addresses(desk: Desk) -> None:
    urls = [desk.other.plan.client_url, client_url_of_third(desk)]
    two_addresses = desk.first() | {"clientURLs": urls}
    desk.answer("list", listing(two_addresses, desk.me(), third(desk)))
    desk.answer("health", error="unhealthy")
    desk.answer("health", "healthy")
    done = desk.run("etcd-restart")
    assert (done.returncode, done.stdout) == (0, "")
    assert sum(call.startswith("endpoint health") for call in desk.calls) == 3


@pytest.mark.usefixtures("member", "third_member")
def test_a_restart_waits_for_members_that_answer_without_a_quorum(desk: Desk) -> None:
    desk.answer("list", listing(desk.first(), desk.me(), third(desk)))
    desk.answer("health", error="unhealthy")
    desk.answer("health", error="unhealthy")
    desk.answer("health")
    done = desk.run("etcd-restart")
    assert done.returncode == 0
    assert done.stdout.count("phase=waiting") == 1


@pytest.mark.usefixtures("member")
@pytest.mark.parametrize("case", ["no quorum", "two voters", "a learner beside"])
def test_a_restart_does_not_wait_for_an_impossible_quorum(desk: Desk, case: str) -> None:
    """With two voters a restart always interrupts the cluster, so waiting would never end. Learners do not count."""
    if case == "no quorum":
        desk.answer("list", error="context deadline exceeded")
    else:
        more = [third(desk) | {"isLearner": True}] if case == "a learner beside" else []
        desk.answer("list", listing(desk.first(), desk.me(), *more))
    desk.answer("health", error="unhealthy")
    assert desk.run("etcd-restart").returncode == 0


STATED = {"users": {"root": ["root"], "app": ["app", "more"]}, "roles": {"app": [["--prefix=true", "read", "/app/"]]}}


@pytest.fixture
def auth(desk: Desk) -> Desk:
    """A seed with users, and a cluster without users."""
    (desk.root / "auth.json").write_text(json.dumps(STATED))
    desk.env["BAKE_AUTH"] = str(desk.root / "auth.json")
    for verb in ("role", "user"):
        desk.answer(verb, {"header": {}})
    desk.answer("auth", "Authentication Enabled")
    return desk


def test_auth_is_enabled_when_every_user_exists(auth: Desk) -> None:
    done = auth.run("etcd-auth")
    assert (done.returncode, "auth is on" in done.stdout) == (0, True), done.stderr
    deeds = [call for call in auth.calls if "list" not in call and not call.startswith("get")]
    digest = hashlib.sha256((auth.root / "auth.json").read_bytes()).hexdigest()
    assert deeds == [
        "role add app",
        "role grant-permission --prefix=true -- app read /app/",
        "user add root --no-password",
        "user grant-role root root",
        "user add app --no-password",
        "user grant-role app app",
        "user grant-role app more",
        "auth enable",
        f"put bake/auth {digest}",
    ]


@pytest.mark.parametrize("verb", ["role", "user"])
@pytest.mark.parametrize("number", [2, 3])
def test_auth_is_not_enabled_while_a_user_or_role_is_missing(auth: Desk, verb: str, number: int) -> None:
    for _ in range(number - 2):
        auth.answer(verb)
    auth.answer(verb, error="etcdserver: request timed out")
    words = "users and roles are not set up: etcdserver: request timed out"
    assert words in auth.watch("etcd-auth", lambda said: words in said)
    assert not any(call.startswith(("auth", "put")) for call in auth.calls)


def test_users_that_were_created_for_this_seed_are_not_changed(auth: Desk) -> None:
    """The operator may have revoked a user's role since then. So the hook only enables auth again."""
    auth.answers["get"] = 0
    auth.answer("get", hashlib.sha256((auth.root / "auth.json").read_bytes()).hexdigest())
    assert auth.run("etcd-auth").returncode == 0
    assert [call for call in auth.calls if not call.startswith("get")] == ["auth enable"]


def test_existing_users_are_not_added(auth: Desk) -> None:
    auth.answers |= {"role": 0, "user": 0}
    auth.answer("role", {"roles": ["app"]})
    auth.answer("user", {"users": ["root"]})
    assert auth.run("etcd-auth").returncode == 0
    assert [call for call in auth.calls if " add " in call] == ["user add app --no-password"]


def test_the_scripts_use_the_systems_python_and_ignore_python_variables() -> None:
    guest: Callable[[str], Path] = Path(__file__).parents[2].joinpath("generator/seed/guest/usr/libexec/bake").joinpath
    for name in ("etcd-join", "etcd-promote"):
        assert guest(name).read_text().splitlines()[0] == "#!/usr/bin/python3 -EsS"
