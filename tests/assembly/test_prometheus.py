"""A real Prometheus scrapes a real etcd of three nodes, with the files of `bake client add --for prometheus`."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from generator.clients.application import Kind
from generator.config.auth import AuthSpec
from tests.assembly.applications import AUTH, add, baked, etcdctl, started
from tests.assembly.conftest import PROGRAMS
from tests.assembly.miniature import PATIENCE, Miniature

pytestmark = pytest.mark.etcd
ClusterOf = Callable[..., Miniature]
NAME = "prometheus"
HERE = '{cluster="etcd"}'


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with prometheus and promtool."""
    found = [folder for folder in (PROGRAMS / "bin", Path("/usr/bin")) if (folder / "promtool").exists()]
    if not found:
        pytest.fail("Prometheus is not installed: run scripts/setup --dev")
    return found[0]


class Server:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **words: str) -> Any:
        return requests.get(f"{self.url}/api/v1/{path}", params=words, timeout=30).json()["data"]

    def query(self, expression: str) -> list[Any]:
        return list(self.ask("query", query=expression)["result"])

    def firing(self) -> set[str]:
        return {one["labels"]["alertname"] for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}


@contextmanager
def prometheus(programs: Path, config: Path, work: Path) -> Iterator[Server]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [
        programs / "prometheus", f"--config.file={config}", f"--storage.tsdb.path={work / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (work / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Server(f"http://127.0.0.1:{port}")
    try:
        wait(lambda: _is_ready(server), "Prometheus is ready")
        yield server
    finally:
        process.terminate()
        process.wait(30 * PATIENCE)


def _is_ready(server: Server) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{server.url}/-/ready", timeout=30).ok
    return False


def wait(condition: Callable[[], object], what: str, seconds: int = 60) -> None:
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.2)


def hurried(home: Path, work: Path) -> Path:
    """Copy the configuration. The copy scrapes often, and its alerts fire without a delay."""
    rules = yaml.safe_load((home / "rules.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    (work / "rules.yml").write_text(yaml.safe_dump(rules))
    config = yaml.safe_load((home / "prometheus.yml").read_text())
    assert config["rule_files"] == [str(home / "rules.yml")]
    config |= {
        "rule_files": [str(work / "rules.yml")],
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
    }
    path = work / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("auth", [AuthSpec(), AUTH], ids=["without auth", "with auth"])
def test_prometheus_scrapes_every_member_and_its_alerts_fire(
    cluster_of: ClusterOf, tmp_path: Path, programs: Path, auth: AuthSpec
) -> None:
    cluster = started(cluster_of(3, auth=auth))
    store = baked(cluster, tmp_path / "out")
    add(cluster, store, NAME, Kind.PROMETHEUS)
    home = store.folder / "clients" / NAME
    for words in (("config", home / "prometheus.yml"), ("rules", home / "rules.yml")):
        subprocess.run([programs / "promtool", "check", *words], check=True, capture_output=True)
    if auth.enabled:
        refused = etcdctl(cluster, store, NAME, "get", "x")
        assert (refused.returncode, "permission denied" in refused.stderr) == (1, True)
    with prometheus(programs, hurried(home, tmp_path), tmp_path) as server:
        wait(lambda: len(server.query(f"up{HERE} == 1")) == 3, "three members are up")
        nodes = {one["metric"]["node"] for one in server.query(f"up{HERE}")}
        assert nodes == {"etcd1", "etcd2", "etcd3"}
        wait(lambda: errors(server) == ["", "", ""], "the last scrape of each member has succeeded")
        rules = server.ask("rules")["groups"][0]["rules"]
        wait(lambda: all(one["health"] == "ok" for one in server.ask("rules")["groups"][0]["rules"]), "rules were run")
        assert len(rules) == 11
        wait(lambda: panels_without_data(server, home) == set(), "each panel of the dashboard has data")
        wait(lambda: "EtcdMemberDown" not in server.firing(), "no member is down")
        cluster.nodes[2].kill()
        wait(lambda: "EtcdMemberDown" in server.firing(), "the alert for a dead member")
        cluster.nodes[1].kill()
        wait(lambda: {"EtcdNoQuorum", "EtcdNoLeader"} <= server.firing(), "the alerts for a lost quorum")


def errors(server: Server) -> list[str]:
    """Return the error of each member's last scrape. On a busy machine, a scrape may fail."""
    return [one["lastError"] for one in server.ask("targets")["activeTargets"]]


def panels_without_data(server: Server, home: Path) -> set[str]:
    dashboard = json.loads((home / "dashboard.json").read_text())
    return {
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
        if not server.query(target["expr"])
    }  # fmt: skip


# --- each rule with made-up metrics -----------------------------------------------------------------------------

NODE = 'cluster="etcd", node="etcd1"'
BUCKETS = ("0.064", "0.128", "0.256", "0.512", "1.024", "+Inf")
# For each alert, metrics with which it fires, and the duration after which it fires.
FIRES: dict[str, tuple[dict[str, str], str]] = {
    "EtcdMemberDown": ({f"up{{{NODE}}}": "0x60"}, "3m"),
    "EtcdNoQuorum": ({f"up{{{NODE}}}": "1x60", 'up{cluster="etcd", node="etcd2"}': "0x60"}, "1m"),
    "EtcdNoLeader": ({f"etcd_server_has_leader{{{NODE}}}": "0x60"}, "1m"),
    "EtcdManyLeaderChanges": ({f"etcd_server_leader_changes_seen_total{{{NODE}}}": "0+1x60"}, "20m"),
    "EtcdStaysLearner": ({f"etcd_server_is_learner{{{NODE}}}": "1x60"}, "30m"),
    "EtcdDatabaseNearQuota": (
        {
            f"etcd_mvcc_db_total_size_in_bytes{{{NODE}}}": "85x60",
            f"etcd_server_quota_backend_bytes{{{NODE}}}": "100x60",
        },
        "10m",
    ),
    "EtcdDatabaseFragmented": (
        {
            f"etcd_mvcc_db_total_size_in_bytes{{{NODE}}}": "200000000x90",
            f"etcd_mvcc_db_total_size_in_use_in_bytes{{{NODE}}}": "90000000x90",
        },
        "60m",
    ),
    "EtcdSlowSync": ({f'etcd_disk_wal_fsync_duration_seconds_bucket{{{NODE}, le="1.024"}}': "0+9x60"}, "16m"),
    "EtcdSlowCommit": ({f'etcd_disk_backend_commit_duration_seconds_bucket{{{NODE}, le="1.024"}}': "0+9x60"}, "16m"),
    "EtcdSlowPeer": (
        {f'etcd_network_peer_round_trip_time_seconds_bucket{{{NODE}, To="b", le="1.024"}}': "0+9x60"}, "16m",
    ),
    "EtcdProposalsFail": ({f"etcd_server_proposals_failed_total{{{NODE}}}": "0+60x60"}, "20m"),
}  # fmt: skip


def test_each_alert_fires_and_no_alert_fires_without_a_reason(
    cluster_of: ClusterOf, tmp_path: Path, programs: Path
) -> None:
    cluster = cluster_of(3)
    store = baked(cluster, tmp_path / "out")
    add(cluster, store, NAME, Kind.PROMETHEUS)
    rules = store.folder / "clients" / NAME / "rules.yml"
    loaded = {rule["alert"]: rule for rule in yaml.safe_load(rules.read_text())["groups"][0]["rules"]}
    assert set(loaded) == set(FIRES)
    tests = []
    for name, (metrics, after) in FIRES.items():
        series = [{"series": key, "values": _values(values)} for key, values in metrics.items()]
        # A histogram's quantile needs the bucket of infinity, and lower buckets that stay empty.
        for key, values in metrics.items():
            if "_bucket" in key:
                series += [
                    {"series": key.replace("1.024", le), "values": _values(values if le == "+Inf" else "0x60")}
                    for le in BUCKETS if le != "1.024"
                ]  # fmt: skip
        tests.append({"interval": "1m", "input_series": series, "alert_rule_test": [_fires(loaded[name], after, True)]})
    healthy = [
        *({"series": f'up{{cluster="etcd", node="etcd{number}"}}', "values": "1x60"} for number in (1, 2, 3)),
        {"series": f"etcd_server_has_leader{{{NODE}}}", "values": "1x60"},
        {"series": f"etcd_server_is_learner{{{NODE}}}", "values": "0x60"},
        {"series": f"etcd_mvcc_db_total_size_in_bytes{{{NODE}}}", "values": "50x60"},
        {"series": f"etcd_mvcc_db_total_size_in_use_in_bytes{{{NODE}}}", "values": "20x60"},
        {"series": f"etcd_server_quota_backend_bytes{{{NODE}}}", "values": "100x60"},
        {"series": 'up{cluster="other", node="etcd1"}', "values": "0x60"},
    ]
    quiet = [_fires(rule, "50m", False) for rule in loaded.values()]
    tests.append({"interval": "1m", "input_series": healthy, "alert_rule_test": quiet})
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([programs / "promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _values(short: str) -> str:
    """Return a series in promtool's notation. `0x60` is short for 60 times 0."""
    start, _, count = short.partition("x")
    return short if "+" in start else f"{start}+0x{count}"


def _fires(rule: dict[str, Any], after: str, expected: bool) -> dict[str, Any]:
    """Return a test that an alert fires. promtool compares all labels, so they are those of FIRES."""
    labels = {"severity": rule["labels"]["severity"], "cluster": "etcd"}
    if "by (cluster)" not in rule["expr"]:
        labels["node"] = "etcd1"
    if "To" in rule["expr"]:
        labels["To"] = "b"
    annotations = {
        key: text.replace("{{ $labels.node }}", "etcd1").replace("{{ $labels.To }}", "b")
        for key, text in rule["annotations"].items()
    }
    found = {"exp_labels": labels, "exp_annotations": annotations}
    return {"eval_time": after, "alertname": rule["alert"], "exp_alerts": [found] if expected else []}
