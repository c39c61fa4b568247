"""What the cluster's folder says of a node's certificates, and which reports count; the rest needs a cluster."""

from __future__ import annotations

import hashlib
import json
import ssl
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from generator.config.spec import read_spec
from generator.errors import InputError
from generator.etcd.answers import Answer, Keys, KeyValue
from generator.etcd.node_report import MAX_AGE, find_report
from generator.health.cis_controls import Audited
from generator.health.node_checks import Outcome
from generator.operations import audit as auditing
from generator.operations.audit import Audit, planned_facts
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.seed.iso import written_files
from generator.store.folder import Store
from tests.unit.test_report import SAID

PASSED = Audited(id="2.1", title="served", result=Outcome.PASSED, evidence="set", remedy="", nodes=())
MISSED = Audited(id="2.2", title="asked", result=Outcome.FAILED, evidence="etcd1: no", remedy="do it", nodes=("etcd1",))


@pytest.fixture
def baked(now: datetime, tmp_path: Path) -> Cluster:
    store = Store(tmp_path / "out", "etcd")
    make(read_spec({"nodes": 2, "etcd": {"tlsMinVersion": "1.3"}})[0], store, now=now, report=print)
    return open_cluster(store)


def digest(pem: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()


def test_what_is_planned_is_what_each_seed_has(baked: Cluster) -> None:
    ca_pem = (baked.store.folder / "pki/etcd-ca.pem").read_bytes()
    planned = planned_facts(baked.store, baked.plan)
    for node in ("etcd1", "etcd2"):
        files = written_files((baked.store.folder / node / "user-data").read_bytes(), where="")
        assert planned[node].server == digest(files["/etc/etcd/pki/etcd-server.pem"])
        assert planned[node].peer == digest(files["/etc/etcd/pki/etcd-peer.pem"])
        assert planned[node].authorities == {digest(ca_pem)}
        assert planned[node].tls_min_version == "1.3"
    assert planned["etcd1"] != planned["etcd2"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("peer-cert-allowed-hostname", "etcd.peers.etcd.internal")),
        ({"pki": {"certificates": "shared"}}, ("peer-cert-allowed-cn", "etcd-peer")),
        ({"etcd": {"options": {"peer-cert-allowed-cn": "own"}}}, ("peer-cert-allowed-cn", "own")),
    ],
)
def test_by_which_name_peers_are_known_is_planned(
    fields: dict[str, Any], expected: tuple[str, str], now: datetime, tmp_path: Path
) -> None:
    store = Store(tmp_path / "out", "etcd")
    make(read_spec({"nodes": 1, **fields})[0], store, now=now, report=print)
    assert planned_facts(store, open_cluster(store).plan)["etcd1"].peer_check == expected


def test_a_missing_seed_is_one_clear_error(baked: Cluster) -> None:
    (baked.store.folder / "etcd2/user-data").unlink()
    with pytest.raises(InputError, match=r"etcd2/user-data: is missing.*\n.*bake again"):
        planned_facts(baked.store, baked.plan)


def told(now: datetime, **changes: Any) -> Answer[Keys]:
    value = json.dumps(SAID | {"time": int(now.timestamp())} | changes).encode()
    return Answer(Keys(count=1, revision=1, items=(KeyValue(key=b"bake/audit/etcd1", value=value),)))


def test_a_report_of_now_counts(now: datetime) -> None:
    said, no_report = find_report("etcd1", told(now), now=now)
    assert said
    assert no_report == ""


@pytest.mark.parametrize("age", [MAX_AGE + timedelta(seconds=2), -MAX_AGE - timedelta(seconds=2)])
def test_a_report_of_another_time_does_not(now: datetime, age: timedelta) -> None:
    said, no_report = find_report("etcd1", told(now - age), now=now)
    assert said is None
    assert "last report" in no_report


@pytest.mark.parametrize(
    ("reports", "why"),
    [
        (Answer(error="no node answers"), "no node answers"),
        (Answer(Keys(count=0, revision=1, items=())), "has not reported"),
    ],
)
def test_no_report_says_why(now: datetime, reports: Answer[Keys], why: str) -> None:
    said, no_report = find_report("etcd1", reports, now=now)
    assert said is None
    assert why in no_report


def test_another_nodes_report_is_not_taken_for_it(now: datetime) -> None:
    assert find_report("etcd2", told(now), now=now) == (None, "has not reported")
    assert find_report("etcd1", told(now, node="etcd2"), now=now) == (None, "its report cannot be read")


@pytest.mark.parametrize(("missed", "code"), [((), 0), ((MISSED,), 3), ((replace(MISSED, result=Outcome.UNKNOWN),), 3)])
def test_the_command_says_all_and_ends_with_three_where_one_is_missed(
    bake: Any, monkeypatch: pytest.MonkeyPatch, missed: tuple[Audited, ...], code: int
) -> None:
    assert bake("--nodes", 1).code == 0
    found = Audit(cluster="etcd", controls=(PASSED, *missed))
    monkeypatch.setattr(auditing, "audit", lambda *_, **__: found)
    text = bake("audit")
    assert text.code == code
    assert text.out.splitlines()[1].split() == ["2.1", "served", "passed", "set"]
    assert ("error: 1 of 2 controls did not pass: 2.2\n  hint: do it" in text.err) is bool(missed)
    data = json.loads(bake("audit", "-o", "json").out)
    assert data["passed"] is not bool(missed)
    assert set(data["controls"][0]) == {"id", "title", "result", "evidence", "remedy", "nodes"}
