"""restore.py on a node, with fakes of etcd's programs: what it calls, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

GUEST = Path(__file__).parents[2] / "generator/seed/guest/usr/libexec/bake"
HELP = "--data-dir string\\n --bump-revision uint\\n --mark-compacted"
# Each fake records its arguments. etcdutl makes the data, and etcd runs until it is told to end.
ETCDUTL = """#!/bin/sh
echo "etcdutl $*" >>"$DESK/calls"
case $* in
    *--help) printf '%b' "$HELP" ;;
    *) [ -z "$FAULT" ] || { echo "Error: $FAULT" >&2; exit 1; }
       for word in "$@"; do case $word in --data-dir=*) mkdir -p "${word#*=}/member/wal" ;; esac; done ;;
esac
"""
ETCD = """#!/bin/sh
case $1 in --version) echo 'etcd Version: 3.5.16'; exit ;; esac
echo "etcd data=$ETCD_DATA_DIR client=${ETCD_LISTEN_CLIENT_URLS%:*} notify=$NOTIFY_SOCKET" >>"$DESK/calls"
[ -z "$CRASH" ] || exit 1
exec sleep 60
"""
ETCDCTL = """#!/bin/sh
shift 3
echo "etcdctl $*" >>"$DESK/calls"
[ -z "$CRASH" ] || exit 1
case $* in "alarm list") printf '%s' "$ALARM" ;; esac
"""
RUN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from cluster import Cluster
from node import Console, read_settings
from restore import Restore, RestoreError
settings = read_settings(dict(os.environ))
try:
    Restore(settings, Cluster(settings), Console("etcd1")).run("token-1")
except RestoreError as error:
    sys.exit(f"RestoreError: {error}")
"""


@dataclass
class Desk:
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "lib/etcd"

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, **env: str) -> subprocess.CompletedProcess[str]:
        values = {
            "PATH": os.environ["PATH"], "DESK": str(self.root), "HELP": HELP, "FAULT": "", "CRASH": "", "ALARM": "",
            "BAKE_NAME": "etcd1", "BAKE_PEER_URL": "https://127.0.0.1:2380", "BAKE_CLIENT_URL": "https://127.0.0.1:2379",
            "BAKE_MEMBERS": "etcd1=https://127.0.0.1:2380", "BAKE_CLIENT_URLS": "https://127.0.0.1:2379",
            "BAKE_DATA_DIR": str(self.data), "BAKE_RUN_DIR": str(self.root), "BAKE_JOIN": "learner",
            "BAKE_ETCDCTL": str(self.root / "bin/etcdctl"), "BAKE_TOKEN": "token", "BAKE_PERMIT": "id",
            "BAKE_PERMIT_FILE": "/none", "BAKE_PERMIT_SHA256": "0", "BAKE_BOOTSTRAP": "yes",
            "BAKE_SNAPSHOT": str(self.root / "snapshot.db"), "NOTIFY_SOCKET": "/run/systemd/notify",
        }  # fmt: skip
        command = [sys.executable, "-BEsS", "-c", RUN, str(GUEST)]
        return subprocess.run(
            command, env=values | env, capture_output=True, text=True, check=False, timeout=60
        )

    def record(self, version: str = "3.5") -> None:
        (self.root / "snapshot.json").write_text(json.dumps({"etcd_version": version}))

    def calls(self) -> list[str]:
        return (self.root / "calls").read_text().replace(str(self.root), "").splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    for name, text in (("etcdutl", ETCDUTL), ("etcd", ETCD), ("etcdctl", ETCDCTL)):
        desk.program(name, text)
    desk.record()
    (tmp_path / "snapshot.db").touch()
    return desk


RESTORE = (
    "etcdutl snapshot restore /snapshot.db --data-dir=/lib/etcd/.restoring --name=etcd1 "
    "--initial-cluster=etcd1=https://127.0.0.1:2380 --initial-advertise-peer-urls=https://127.0.0.1:2380 "
    "--initial-cluster-token=token-1"
)
BUMP = " --bump-revision=1000000000 --mark-compacted"


def test_the_data_is_complete_before_it_becomes_the_nodes_data(desk: Desk) -> None:
    done = desk.run()
    assert done.returncode == 0, done.stderr
    assert 'phase=joining detail="restoring the snapshot"' in done.stdout
    assert [path.name for path in desk.data.iterdir()] == ["member"]
    calls = [call for call in desk.calls() if not call.startswith("etcdctl get")]
    assert calls == [
        "etcdutl snapshot restore --help",
        RESTORE + BUMP,
        "etcd data=/lib/etcd/.restoring client=https://127.0.0.1 notify=",
        "etcdctl del --prefix --command-timeout=60s bake/members/",
        "etcdctl del --prefix --command-timeout=60s bake/audit/",
        "etcdctl alarm list",
    ]


def test_an_unfinished_restore_is_begun_again(desk: Desk) -> None:
    (desk.data / ".restoring/member/snap").mkdir(parents=True)
    assert desk.run().returncode == 0
    assert sorted(path.name for path in (desk.data / "member").iterdir()) == ["wal"]


def test_an_alarm_is_cleared(desk: Desk) -> None:
    assert desk.run(ALARM="memberID:1 alarm:NOSPACE").returncode == 0
    assert desk.calls()[-2:] == ["etcdctl defrag --command-timeout=600s", "etcdctl alarm disarm"]


def test_an_etcd_that_cannot_bump_the_revision_says_so(desk: Desk) -> None:
    done = desk.run(HELP="--data-dir string")
    assert "this etcd cannot increase the revision, so restart all clients that watch keys" in done.stdout
    assert RESTORE in desk.calls()


def test_etcdctl_restores_where_there_is_no_etcdutl(desk: Desk) -> None:
    """etcd 3.4"""
    (desk.root / "bin/etcdutl").unlink()
    text = ETCDUTL.replace("etcdutl", "etcdctl")
    rest = ETCDCTL.partition("\n")[2]
    desk.program("etcdctl", f'#!/bin/sh\nif [ "$1" = snapshot ]; then\n{text}\nexit\nfi\n{rest}')
    done = desk.run()
    assert done.returncode == 0, done.stderr
    assert (RESTORE + BUMP).replace("etcdutl", "etcdctl") in desk.calls()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"FAULT": "expected sha256 [1], got [2]"}, "etcdutl: expected sha256 [1], got [2]"),
        ({"CRASH": "yes"}, "etcd does not start with the restored data"),
        ({"HELP": "nothing"}, "etcdutl is not installed in"),
    ],
)
def test_a_failure_leaves_no_member(desk: Desk, change: dict[str, str], cause: str) -> None:
    done = desk.run(**change)
    assert done.returncode == 1
    assert cause in done.stderr
    assert not (desk.data / "member").exists()


@pytest.mark.parametrize(
    ("version", "refused"), [("3.6", True), ("4.0", True), ("3.5", False), ("3.4", False), ("0.0", False)]
)
def test_a_newer_snapshot_is_refused(desk: Desk, version: str, refused: bool) -> None:
    desk.record(version)
    done = desk.run()
    assert (done.returncode == 1) is refused
    assert (f"it is of etcd {version}, but this node has etcd 3.5.16" in done.stderr) is refused
