"""The planned facts in the cluster's folder, the age of reports, and the output of `bake audit`."""

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
from generator.etcd.observe import absent
from generator.health.check import Check, Result
from generator.operations import audit as auditing
from generator.operations.audit import Audit, planned_facts
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.seed.iso import written_files
from generator.store.folder import Store
from tests.unit.test_report import SAID
from tests.unit.test_verify import status as etcd_status

PASSED = Check(name="2.3", result=Result.OK, detail="set")
MISSED = Check(name="2.2", result=Result.FAILED, detail="etcd1: no", remedy="do it", nodes=("etcd1",))


@pytest.fixture
def baked(now: datetime, tmp_path: Path) -> Cluster:
    store = Store(tmp_path / "out", "etcd")
    make(read_spec({"nodes": 2, "etcd": {"tlsMinVersion": "1.3"}})[0], store, now=now, report=print)
    return open_cluster(store)


def digest(pem: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()


def test_the_planned_certificates_are_those_of_the_seeds(baked: Cluster) -> None:
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
def test_the_name_that_identifies_peers_is_planned(
    fields: dict[str, Any], expected: tuple[str, str], now: datetime, tmp_path: Path
) -> None:
    store = Store(tmp_path / "out", "etcd")
    make(read_spec({"nodes": 1, **fields})[0], store, now=now, report=print)
    assert planned_facts(store, open_cluster(store).plan)["etcd1"].peer_check == expected


def test_a_missing_seed_is_one_clear_error(baked: Cluster) -> None:
    (baked.store.folder / "etcd2/user-data").unlink()
    with pytest.raises(InputError, match=r"etcd2/user-data: is missing.*\n.*run bake"):
        planned_facts(baked.store, baked.plan)


def stored_report(now: datetime, **changes: Any) -> Answer[Keys]:
    value = json.dumps(SAID | {"time": int(now.timestamp())} | changes).encode()
    return Answer(Keys(count=1, revision=1, items=(KeyValue(key=b"bake/audit/etcd1", value=value),)))


def test_a_current_report_counts(now: datetime) -> None:
    said, no_report = find_report("etcd1", stored_report(now), now=now)
    assert said
    assert no_report == ""


@pytest.mark.parametrize("age", [MAX_AGE + timedelta(seconds=2), -MAX_AGE - timedelta(seconds=2)])
def test_an_old_or_future_report_does_not_count(now: datetime, age: timedelta) -> None:
    said, no_report = find_report("etcd1", stored_report(now - age), now=now)
    assert said is None
    assert "last report" in no_report


@pytest.mark.parametrize(
    ("reports", "why"),
    [
        (Answer(error="no node answers"), "no node answers"),
        (Answer(Keys(count=0, revision=1, items=())), "has not reported"),
    ],
)
def test_a_missing_report_has_a_reason(now: datetime, reports: Answer[Keys], why: str) -> None:
    said, no_report = find_report("etcd1", reports, now=now)
    assert said is None
    assert why in no_report


def test_a_report_of_another_node_does_not_count(now: datetime) -> None:
    assert find_report("etcd2", stored_report(now), now=now) == (None, "has not reported")
    assert find_report("etcd1", stored_report(now, node="etcd2"), now=now) == (None, "its report cannot be read")


def test_a_learner_is_not_called_silent(baked: Cluster) -> None:
    view = absent(baked.plan.nodes[0], "rpc not supported for learner", {})
    learner = replace(view, status=Answer(etcd_status(1, is_learner=True)))
    assert auditing.why_silent(learner) == "is still a learner"
    assert auditing.why_silent(view) == "does not answer: rpc not supported for learner"
    follower = replace(view, status=Answer(etcd_status(1)), health=Answer(error="sees no leader"))
    assert auditing.why_silent(follower) == "does not serve requests: sees no leader"


@pytest.mark.parametrize(("missed", "code"), [((), 0), ((MISSED,), 3), ((replace(MISSED, result=Result.SKIPPED),), 3)])
def test_the_command_prints_every_control_and_exits_with_3_if_one_is_missed(
    bake: Any, monkeypatch: pytest.MonkeyPatch, missed: tuple[Check, ...], code: int
) -> None:
    assert bake("--nodes", 1).code == 0
    found = Audit(cluster="etcd", controls=(PASSED, *missed))
    monkeypatch.setattr(auditing, "audit", lambda *_, **__: found)
    text = bake("audit")
    assert text.code == code
    assert text.out.splitlines()[1].split() == ["2.3", "auto-tls", "is", "off", "passed", "set"]
    assert ("error: 1 of 2 controls did not pass: 2.2\n  hint: do it" in text.err) is bool(missed)
    data = json.loads(bake("audit", "-o", "json").out)
    assert data["passed"] is not bool(missed)
    assert data["controls"][0] == {
        "id": "2.3", "title": "auto-tls is off", "result": "passed", "evidence": "set", "remedy": "", "nodes": [],
    }  # fmt: skip
    words = {Result.FAILED: "failed", Result.SKIPPED: "not reported"}
    assert [control["result"] for control in data["controls"][1:]] == [words[check.result] for check in missed]
