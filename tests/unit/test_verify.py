"""Each check passes for a healthy cluster, and fails for the fault that the check has to find."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from generator import health, pki
from generator.cli.common import show_verification
from generator.errors import UnhealthyError
from generator.etcd.answers import (
    Alarm,
    Answer,
    Certificate,
    ClientKind,
    HashKv,
    Keys,
    KeyValue,
    Member,
    NodeView,
    Observation,
    Port,
    Probe,
    Reply,
    Status,
)
from generator.etcd.observe import _node_trial
from generator.health import Check, Result
from generator.health.check import Finding, combine, group
from generator.operations import verify
from generator.operations.baked_cluster import client_files
from generator.operations.hints import command
from generator.operations.verify import Verification
from generator.plan import ClusterPlan, NodePlan
from generator.store.folder import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DEAD = Probe(reply=Reply.UNREACHABLE, detail="connection refused")


@pytest.fixture(scope="session")
def cluster(plan: Callable[..., ClusterPlan]) -> ClusterPlan:
    return plan(nodes=3, firewall={"kind": "none"})


@pytest.fixture(scope="session")
def firewalled(plan: Callable[..., ClusterPlan]) -> ClusterPlan:
    return plan(nodes=3, firewall={"kind": "nftables"})


def member(node: NodePlan, number: int) -> Member:
    return Member(
        id=number,
        name=node.name,
        peer_urls=(node.peer_url,),
        client_urls=(node.client_url,),
        is_learner=False,
    )


def status(number: int, **changes: Any) -> Status:
    healthy = Status(
        cluster_id=99, member_id=number, leader=1, raft_term=2, raft_index=8, revision=3,
        db_size=2048, version="3.5.16", is_learner=False, errors=(),
    )  # fmt: skip
    return replace(healthy, **changes)


def probes(node: NodePlan, *, days: int = 300, age: int = 65) -> dict[tuple[Port, ClientKind], Probe]:
    certificate = Certificate(
        names=(node.fqdn, str(node.address)), not_before=NOW - timedelta(days=age), not_after=NOW + timedelta(days=days)
    )  # fmt: skip
    found = {(port, kind): Probe(reply=Reply.REFUSED, detail="alert") for port in Port for kind in ClientKind}
    served = Probe(reply=Reply.SERVED, detail="HTTP/1.1 200 OK", certificate=certificate)
    found[Port.CLIENT, ClientKind.OPERATOR] = served
    found[Port.PEER, ClientKind.OPERATOR] = Probe(reply=Reply.REFUSED, detail="alert", certificate=certificate)
    return found


@pytest.fixture
def healthy(cluster: ClusterPlan) -> Observation:
    members = tuple(member(node, number) for number, node in enumerate(cluster.nodes, 1))
    views = [
        NodeView(
            node=node, status=Answer(status(number)), members=Answer(members), alarms=Answer(()),
            health=Answer(0.004), probes=probes(node),
        )
        for number, node in enumerate(cluster.nodes, 1)
    ]  # fmt: skip
    names = [node.name for node in cluster.nodes]
    return Observation(
        nodes=tuple(views), keys=Answer(Keys(count=0, revision=3, items=())), writes=dict.fromkeys(names),
        left_behind=None,
        hashes=dict.fromkeys(names, Answer(HashKv(hash=7, compact_revision=-1))),
    )  # fmt: skip


def with_node(seen: Observation, index: int, **changes: Any) -> Observation:
    views = list(seen.nodes)
    views[index] = replace(views[index], **changes)
    return replace(seen, nodes=tuple(views))


def with_members(seen: Observation, members: tuple[Member, ...]) -> Observation:
    return replace(seen, nodes=tuple(replace(view, members=Answer(members)) for view in seen.nodes))


def members_of(seen: Observation) -> list[Member]:
    return list(seen.nodes[0].members.value or ())


@pytest.fixture
def bad_checks(cluster: ClusterPlan) -> Callable[[Observation], dict[str, Check]]:
    """Return the checks that are not ok, by name."""

    def evaluate(seen: Observation) -> dict[str, Check]:
        found = health.check_cluster(cluster, seen, now=NOW, sealed=True)
        return {check.name: check for check in found if check.result is not Result.OK}

    return evaluate


BadChecks = Callable[[Observation], dict[str, Check]]


def only(found: dict[str, Check], name: str, result: Result = Result.FAILED) -> Check:
    assert {check.name: check.result for check in found.values()} == {name: result}
    assert found[name].remedy
    return found[name]


def test_a_missing_answer_is_named(healthy: Observation) -> None:
    """After a change, bake queries the nodes again while an answer is missing."""
    whole = healthy
    no_answer: Answer[Any] = Answer(error="no answer in time")
    second = {**whole.nodes[1].probes, (Port.CLIENT, ClientKind.NO_TLS): DEAD}
    closed = {**whole.nodes[1].probes, (Port.PEER, ClientKind.OPERATOR): DEAD}
    expired = replace(DEAD, distrusted="certificate has expired")
    for found, expected in (
        (whole, None),
        (with_node(whole, 1, health=no_answer), "etcd2: no answer in time"),
        (replace(whole, writes={**whole.writes, "etcd3": "write: leader changed"}), "etcd3: write: leader changed"),
        (replace(whole, hashes={**whole.hashes, "etcd1": no_answer}), "etcd1: no answer in time"),
        (with_node(whole, 1, probes=second), "etcd2: connection refused"),
        (with_node(whole, 1, probes=closed), None),  # the firewall can close the peer port to this machine
        (with_node(whole, 1, probes=dict.fromkeys(second, expired)), None),
        (replace(whole, nodes=tuple(replace(view, status=no_answer, health=no_answer) for view in whole.nodes)), None),
    ):
        assert found.unanswered == expected


def test_a_healthy_cluster_passes_every_check(healthy: Observation, bad_checks: BadChecks) -> None:
    assert bad_checks(healthy) == {}


def test_the_worst_findings_make_the_check() -> None:
    nodes = {Result.FAILED: "etcd3", Result.SKIPPED: "etcd2", Result.WARNING: "etcd1", Result.OK: "etcd1"}
    findings = [Finding(node, result, f"is {result}") for result, node in nodes.items()]
    for result, node in nodes.items():
        found = combine("x", findings[::-1], remedy="do it", skipped_remedy="look again", all_nodes=["etcd1", "etcd2"])
        remedy = {Result.OK: None, Result.SKIPPED: "look again"}.get(result, "do it")
        bad = () if result is Result.OK else (node,)
        assert found == Check(name="x", result=result, detail=f"{node}: is {result}", remedy=remedy, nodes=bad)
        findings.pop(0)


def test_findings_are_grouped_by_text() -> None:
    findings = [Finding(node, Result.FAILED, text) for node, text in (("a", "x"), ("b", "y"), ("b", "x"), ("", "z"))]
    assert group(findings) == "a, b: x; b: y; z"
    assert group(findings[:3], all_nodes=["b", "a"]) == "x; b: y"


# ── auth ─────────────────────────────────────────────────────────────────────────────────────────

REFUSED: Answer[Keys] = Answer(error="etcdserver: permission denied")
READ = Answer(Keys(count=3, revision=3, items=()))


@pytest.mark.parametrize(
    ("auth", "reads", "result", "detail"),
    [
        (Answer(True), {}, Result.OK, "auth is on; a client without a user cannot read (etcd1, etcd2, etcd3)"),
        (Answer(False), {}, Result.FAILED, "is off"),
        (Answer(False), {"etcd1": READ, "etcd2": READ}, Result.FAILED, "is off; etcd1, etcd2: lets a"),
        (Answer(True), {"etcd2": READ}, Result.FAILED, "etcd2: lets a client without a user read"),
        (Answer(True), {"etcd2": Answer(error="no answer in time")}, Result.SKIPPED, "etcd2: no answer in time"),
        (Answer(error="no node answers"), {}, Result.SKIPPED, "no node answers"),
        (Answer(), None, Result.FAILED, "is off"),
        (Answer(True), None, Result.SKIPPED, "not tried"),
    ],
)
def test_auth_is_checked_if_it_is_planned(
    plan: Callable[..., ClusterPlan], healthy: Observation, auth: Answer[bool], reads: Any, result: Result, detail: str
) -> None:
    tried = {} if reads is None else {node.node.name: REFUSED for node in healthy.nodes} | reads
    seen = replace(healthy, auth=auth, without_user=tried)
    planned = plan(nodes=3, firewall={"kind": "none"}, auth=True)
    found = {check.name: check for check in health.check_cluster(planned, seen, now=NOW, sealed=True)}
    assert found["auth"].result is result
    assert detail in found["auth"].detail
    assert {name for name, check in found.items() if check.result is not Result.OK} <= {"auth"}


def test_auth_is_not_checked_if_it_is_not_planned(cluster: ClusterPlan, healthy: Observation) -> None:
    assert "auth" not in {check.name for check in health.check_cluster(cluster, healthy, now=NOW, sealed=True)}


def test_a_different_member_list_fails(healthy: Observation, bad_checks: BadChecks) -> None:
    fewer = tuple(members_of(healthy)[:2])
    assert only(bad_checks(with_node(healthy, 2, members=Answer(fewer))), "member list").nodes == ("etcd3",)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"is_learner": True}, "etcd2: is still a learner"),
        ({"name": "", "client_urls": ()}, "etcd2: has not started"),
        ({"name": "other"}, "etcd2: has the name 'other', the plan has 'etcd2'"),
        (
            {"client_urls": ("http://192.168.20.32:2379",)},
            "etcd2: has the client URL 'http://192.168.20.32:2379'",
        ),
        (
            {"peer_urls": ("https://192.168.20.99:2380",)},
            "etcd2: is not a member; etcd2 (2, https://192.168.20.99",
        ),
    ],
)
def test_a_member_with_unplanned_data_fails(
    healthy: Observation, bad_checks: BadChecks, changes: dict[str, Any], detail: str
) -> None:
    members = members_of(healthy)
    members[1] = replace(members[1], **changes)
    found = only(bad_checks(with_members(healthy, tuple(members))), "planned members")
    assert found.detail.startswith(detail)
    assert found.nodes == ("etcd2",)


def test_an_unplanned_member_fails(healthy: Observation, bad_checks: BadChecks) -> None:
    stranger = replace(members_of(healthy)[0], id=255, name="evil", peer_urls=("https://192.0.2.1:2380",))
    found = only(bad_checks(with_members(healthy, (*members_of(healthy), stranger))), "planned members")
    assert found.detail == "evil (ff, https://192.0.2.1:2380) is not in the plan"


def test_two_clusters_fail(healthy: Observation, bad_checks: BadChecks) -> None:
    found = only(bad_checks(with_node(healthy, 2, status=Answer(status(3, cluster_id=98)))), "one cluster")
    assert found.detail == "etcd1, etcd2: is in the cluster 63; etcd3: is in the cluster 62"


def test_two_leaders_fail(healthy: Observation, bad_checks: BadChecks) -> None:
    found = only(bad_checks(with_node(healthy, 2, status=Answer(status(3, leader=3)))), "one cluster")
    assert "etcd3: follows the leader 3" in found.detail


def test_an_alarm_names_the_node_that_raised_it(healthy: Observation, bad_checks: BadChecks) -> None:
    alarms = (Alarm(member_id=2, kind="NOSPACE"),)
    assert only(bad_checks(with_node(healthy, 0, alarms=Answer(alarms))), "alarms").detail == "etcd2: NOSPACE"


def test_different_data_fails(healthy: Observation, bad_checks: BadChecks) -> None:
    hashes = dict(healthy.hashes) | {"etcd2": Answer(HashKv(hash=8, compact_revision=-1))}
    found = only(bad_checks(replace(healthy, hashes=hashes)), "equal data")
    assert found.detail == "etcd1, etcd3: has the digest 00000007; etcd2: has the digest 00000008"


def test_digests_of_different_compactions_are_not_compared(healthy: Observation, bad_checks: BadChecks) -> None:
    hashes = dict(healthy.hashes) | {"etcd2": Answer(HashKv(hash=8, compact_revision=2))}
    only(bad_checks(replace(healthy, hashes=hashes)), "equal data", Result.SKIPPED)


def test_a_failed_write_fails(healthy: Observation, bad_checks: BadChecks) -> None:
    writes = dict(healthy.writes) | {"etcd3": "write: etcdserver: rpc not supported for learner"}
    assert only(bad_checks(replace(healthy, writes=writes)), "write and read").nodes == ("etcd3",)


def test_keys_that_the_write_check_could_not_delete_are_a_warning(healthy: Observation, bad_checks: BadChecks) -> None:
    only(bad_checks(replace(healthy, left_behind="no node answers")), "write and read", Result.WARNING)


def test_a_node_that_does_not_return_a_written_key_fails() -> None:
    got = Answer(Keys(count=1, revision=1, items=(KeyValue(key=b"k", value=b"etcd1"),)))
    assert _node_trial({"etcd1", "etcd2"}, Answer(), got) == "does not return the keys written through etcd2"
    assert _node_trial({"etcd1"}, Answer(), got) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ClientKind.NO_CERTIFICATE, "no certificate"),
        (ClientKind.FOREIGN_CA, "foreign certificate"),
        (ClientKind.NO_TLS, "no TLS"),
    ],
)
@pytest.mark.parametrize("port", Port)
def test_a_port_that_accepts_an_unauthorized_client_fails(
    healthy: Observation, bad_checks: BadChecks, kind: ClientKind, name: str, port: Port
) -> None:
    served = Probe(reply=Reply.SERVED, detail="HTTP/1.1 200 OK")
    view = {**healthy.nodes[1].probes, (port, kind): served}
    assert only(bad_checks(with_node(healthy, 1, probes=view)), name).detail.startswith(
        f"etcd2: the {port} accepts this client"
    )


def test_an_unreachable_peer_port_is_skipped(
    healthy: Observation, bad_checks: BadChecks
) -> None:
    closed = {(Port.PEER, kind): DEAD for kind in ClientKind}
    found = bad_checks(with_node(healthy, 1, probes={**healthy.nodes[1].probes, **closed}))
    assert {check.result for check in found.values()} == {Result.SKIPPED}
    names = {"no certificate", "foreign certificate", "no TLS", "client certificate", "server certificates"}
    assert set(found) == names


def test_a_peer_port_closed_by_the_firewall_passes(healthy: Observation, firewalled: ClusterPlan) -> None:
    seen = healthy
    for index, view in enumerate(healthy.nodes):
        seen = with_node(seen, index, probes=view.probes | {(Port.PEER, kind): DEAD for kind in ClientKind})
    found = {check.name: check for check in health.check_cluster(firewalled, seen, now=NOW, sealed=True)}
    assert {check.result for check in found.values()} == {Result.OK}
    assert found["no TLS"].detail == "refused on 3 ports"
    assert found["peer firewall"].detail == "closed to this machine on 3 nodes"


def test_an_open_peer_port_with_a_planned_firewall_is_a_warning(
    healthy: Observation, firewalled: ClusterPlan
) -> None:
    found = health.check_cluster(firewalled, healthy, now=NOW, sealed=True)
    (check,) = (check for check in found if check.result is not Result.OK)
    assert (check.name, check.result) == ("peer firewall", Result.WARNING)
    assert check.nodes == ("etcd1", "etcd2", "etcd3")


def test_a_closed_peer_port_does_not_hide_another_fault(healthy: Observation, firewalled: ClusterPlan) -> None:
    closed = healthy.nodes[1].probes | {(Port.PEER, kind): DEAD for kind in ClientKind}
    distrusted = {(Port.PEER, ClientKind.OPERATOR): replace(DEAD, distrusted="self-signed certificate in chain")}
    unserved = {(Port.CLIENT, ClientKind.OPERATOR): Probe(reply=Reply.REFUSED, detail="alert")}
    for fault, result in ((distrusted, Result.FAILED), (unserved, Result.SKIPPED)):
        seen = with_node(healthy, 1, probes=closed | fault)
        found = {check.name: check for check in health.check_cluster(firewalled, seen, now=NOW, sealed=True)}
        assert (found["server certificates"].result, found["server certificates"].nodes) == (result, ("etcd2",))
        assert "etcd2" in found["peer firewall"].nodes


def test_an_unauthorized_client_at_a_firewalled_port_fails(healthy: Observation, firewalled: ClusterPlan) -> None:
    served = Probe(reply=Reply.SERVED, detail="HTTP/1.1 200 OK")
    probes = {(Port.PEER, ClientKind.OPERATOR): DEAD, (Port.PEER, ClientKind.NO_CERTIFICATE): served}
    seen = with_node(healthy, 1, probes=healthy.nodes[1].probes | probes)
    found = {check.name: check for check in health.check_cluster(firewalled, seen, now=NOW, sealed=True)}
    assert found["no certificate"].result is Result.FAILED


def test_a_peer_port_that_accepts_a_client_certificate_fails(
    healthy: Observation, bad_checks: BadChecks, firewalled: ClusterPlan
) -> None:
    """The result is the same for a cluster with a firewall."""
    served = {(Port.PEER, ClientKind.OPERATOR): Probe(reply=Reply.SERVED, detail="HTTP/1.1 200 OK", certificate=None)}
    seen = with_node(healthy, 1, probes=healthy.nodes[1].probes | served)
    check = bad_checks(seen)["client certificate"]
    assert (check.result, check.nodes) == (Result.FAILED, ("etcd2",))
    found = {check.name: check for check in health.check_cluster(firewalled, seen, now=NOW, sealed=True)}
    assert found["client certificate"].result is Result.FAILED


@pytest.mark.parametrize(
    ("pki", "options", "result"),
    [
        ({"peerName": "none", "peerCa": {"separate": False}}, {}, Result.FAILED),
        ({"peerName": "stated", "peerCa": {"separate": False}}, {}, Result.FAILED),
        ({"peerName": "none", "peerCa": {"separate": False}}, {"peer-cert-allowed-cn": "x"}, Result.OK),
        ({"peerName": "none", "peerCa": {"separate": True}}, {}, Result.OK),
        ({"peerName": "required", "peerCa": {"separate": False}}, {}, Result.OK),
    ],
)
@pytest.mark.parametrize("firewall", ["none", "nftables"])
def test_a_peer_port_that_only_a_firewall_protects_fails(
    healthy: Observation, plan: Callable[..., ClusterPlan], pki: Any, options: Any, result: Result, firewall: str
) -> None:
    """A firewall closes the port to this machine, but etcd still accepts client certificates from the nodes."""
    stated, seen = plan(nodes=3, pki=pki, etcd={"options": options}, firewall={"kind": firewall}), healthy
    for index, view in enumerate(healthy.nodes if firewall != "none" else ()):
        seen = with_node(seen, index, probes=view.probes | {(Port.PEER, kind): DEAD for kind in ClientKind})
    found = {check.name: check for check in health.check_cluster(stated, seen, now=NOW, sealed=True)}
    check = found.pop("client certificate")
    assert check.result is result
    assert result is Result.OK or "docs/how-to/older-cluster.md" in str(check.remedy)
    assert {check.result for check in found.values()} == {Result.OK}


def test_an_etcd_without_the_option_in_its_seed_fails(
    healthy: Observation, plan: Callable[..., ClusterPlan]
) -> None:
    """If a firewall closes the peer port, only the node's report shows that etcd was not restarted."""
    stated = plan(nodes=3, pki={"peerName": "required", "peerCa": {"separate": False}}, firewall={"kind": "nftables"})
    seen = replace(healthy, requires_name={"etcd1": True, "etcd2": False})  # etcd3 has no report
    for index, view in enumerate(healthy.nodes):
        seen = with_node(seen, index, probes=view.probes | {(Port.PEER, kind): DEAD for kind in ClientKind})
    found = {check.name: check for check in health.check_cluster(stated, seen, now=NOW, sealed=True)}
    check = only({name: one for name, one in found.items() if one.result is not Result.OK}, "client certificate")
    assert check.nodes == ("etcd2",)
    assert "run bake apply" in str(check.remedy)


def test_the_commands_in_remedies_name_the_cluster(
    healthy: Observation, plan: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    """Without --name and --out, a command would change the cluster `etcd` in the working folder."""
    made = plan(nodes=3, auth={"enabled": True}, firewall={"kind": "none"}, pki={"peerCa": {"separate": False}})
    silent = tuple(
        replace(view, **{name: Answer(error="no answer") for name in ("members", "status", "health", "alarms")})
        for view in healthy.nodes
    )
    seen = replace(healthy, nodes=silent, writes={}, hashes={}, auth=Answer(value=False))
    store, named = Store(tmp_path / "x", "prod"), f"--name prod --out {tmp_path / 'x'}"
    found = health.check_cluster(made, seen, now=NOW, sealed=False, command=partial(command, store))
    remedies = {check.name: check.remedy or "" for check in found}
    assert remedies["bootstrap permit"] == f"bake seal {named}"
    assert remedies["one cluster"].startswith(f"wait for the election and run bake verify {named} again;")
    assert remedies["auth"].endswith(f"run bake etcdctl {named} auth enable")
    for remedy in remedies.values():
        assert "{" not in remedy
        assert len(re.findall(r"\bbake [a-z]", remedy)) == remedy.count(named), remedy


@pytest.mark.parametrize(("name", "step"), [("none", "to `stated`, then run bake certs"), ("stated", "to `required`")])
def test_the_remedy_for_an_open_peer_port_is_only_the_next_step(
    healthy: Observation, plan: Callable[..., ClusterPlan], name: str, step: str
) -> None:
    """If both steps were taken at once, the other nodes would refuse the first restarted node."""
    stated = plan(nodes=3, pki={"peerName": name, "peerCa": {"separate": False}}, firewall={"kind": "none"})
    found = {check.name: check for check in health.check_cluster(stated, healthy, now=NOW, sealed=True)}
    assert step in str(found["client certificate"].remedy)


def test_only_current_reports_of_the_peers_name_count(
    plan: Callable[..., ClusterPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = plan(nodes=3, pki={"peerName": "required", "peerCa": {"separate": False}})
    option, name = pki.peer_check(stated.spec)

    def report(node: str, minutes: int, options: dict[str, str]) -> KeyValue:
        data = {
            "format": 1, "node": node, "time": (NOW - timedelta(minutes=minutes)).timestamp(), "files": {},
            "process": {"user": "etcd", "options": options}, "certificates": {},
        }  # fmt: skip
        return KeyValue(key=f"bake/audit/{node}".encode(), value=json.dumps(data).encode())

    items = (report("etcd1", 1, {option: name}), report("etcd2", 1, {}), report("etcd3", 40, {}))
    told = Answer(Keys(count=3, revision=3, items=items))
    monkeypatch.setattr(verify, "fetch_reports", lambda *_: told)
    monkeypatch.setattr(verify, "_REPORT_SECONDS", 0)
    files = client_files(Path())
    assert verify.requires_name(stated, files, stated.nodes, now=NOW) == {"etcd1": True, "etcd2": False}
    separate = plan(nodes=3, pki={"peerName": "required", "peerCa": {"separate": True}})
    assert verify.requires_name(separate, files, stated.nodes, now=NOW) == {}


def test_a_skipped_check_precedes_a_warning(healthy: Observation, bad_checks: BadChecks) -> None:
    """A cluster with a warning is healthy, so a warning must not hide a skipped check."""
    hidden = {(Port.CLIENT, ClientKind.OPERATOR): Probe(reply=Reply.REFUSED, detail="alert")}
    seen = with_node(healthy, 0, probes=healthy.nodes[0].probes | hidden)
    seen = with_node(seen, 1, probes=probes(healthy.nodes[1].node, days=3))
    assert bad_checks(seen)["server certificates"].result is Result.SKIPPED


def test_a_port_that_also_refuses_the_operator_is_skipped(
    healthy: Observation, bad_checks: BadChecks
) -> None:
    view = dict(healthy.nodes[1].probes)
    view[Port.CLIENT, ClientKind.OPERATOR] = Probe(reply=Reply.REFUSED, detail="alert", certificate=None)
    assert bad_checks(with_node(healthy, 1, probes=view))["foreign certificate"].result is Result.SKIPPED


@pytest.mark.parametrize(
    ("age", "days", "result"),
    [(335, 30, None), (336, 29, Result.WARNING), (365, 0, Result.WARNING), (1, 6, None), (5, 2, Result.WARNING)],
)
def test_a_certificate_that_expires_soon_is_a_warning(
    healthy: Observation, bad_checks: BadChecks, cluster: ClusterPlan, age: int, days: int, result: Result | None
) -> None:
    found = bad_checks(with_node(healthy, 0, probes=probes(cluster.nodes[0], days=days, age=age)))
    assert {check.result for check in found.values()} == ({result} if result else set())


def test_a_certificate_of_another_ca_fails(healthy: Observation, bad_checks: BadChecks) -> None:
    distrusted = Probe(reply=Reply.UNREACHABLE, detail="x", distrusted="self-signed certificate in chain")
    view = {**healthy.nodes[0].probes, (Port.PEER, ClientKind.OPERATOR): distrusted}
    found_by_name = bad_checks(with_node(healthy, 0, probes=view))
    assert found_by_name.pop("client certificate").result is Result.SKIPPED
    found = only(found_by_name, "server certificates")
    assert found.detail == "etcd1: peer port: self-signed certificate in chain"


def test_only_a_shared_certificate_may_lack_the_nodes_name(
    healthy: Observation, bad_checks: BadChecks, cluster: ClusterPlan, plan: Callable[..., ClusterPlan]
) -> None:
    seen = with_node(healthy, 0, probes=probes(cluster.nodes[1]))
    assert "does not name etcd1.etcd.internal" in only(bad_checks(seen), "server certificates").detail
    shared = plan(nodes=3, pki={"certificates": "shared"}, firewall={"kind": "none"})
    assert all(check.result is Result.OK for check in health.check_cluster(shared, seen, now=NOW, sealed=True))


@pytest.mark.parametrize(
    ("auth", "name", "is_right"), [(True, "etcd1", False), (True, "etcd-server", True), (False, "etcd1", True)]
)
def test_with_auth_no_server_certificate_names_a_nodes_user(
    auth: bool, name: str, is_right: bool, healthy: Observation, plan: Callable[..., ClusterPlan]
) -> None:
    seen = healthy.nodes[0].probes
    port = (Port.CLIENT, ClientKind.OPERATOR)
    certificate = seen[port].certificate
    assert certificate
    probe = replace(seen[port], certificate=replace(certificate, common_name=name))
    named = with_node(healthy, 0, probes={**seen, port: probe})
    wanted = plan(nodes=3, auth={"enabled": auth}, firewall={"kind": "none"})
    found = {check.name: check for check in health.check_cluster(wanted, named, now=NOW, sealed=True)}
    check = found["server certificates"]
    assert (check.result is Result.OK) is is_right
    if not is_right:
        assert "names the etcd user etcd1" in check.detail
        assert "bake apply" in check.remedy


def test_a_seed_with_the_bootstrap_permit_fails(healthy: Observation, cluster: ClusterPlan) -> None:
    found = {check.name: check for check in health.check_cluster(cluster, healthy, now=NOW, sealed=False)}
    right = found.pop("bootstrap permit")
    assert (right.result, right.nodes, right.remedy) == (Result.FAILED, ("etcd1",), "bake seal")
    assert "with an empty disk" in right.detail
    assert all(check.result is Result.OK for check in found.values())


def test_a_dead_node_fails_the_checks_that_need_it_and_skips_the_others(
    healthy: Observation, bad_checks: BadChecks, cluster: ClusterPlan
) -> None:
    gone: Answer[Any] = Answer(error="connection refused")
    nothing = {(Port.CLIENT, kind): DEAD for kind in ClientKind}
    seen = with_node(healthy, 1, status=gone, members=gone, alarms=gone, health=gone, probes=nothing)
    without = {name: value for name, value in healthy.writes.items() if name != "etcd2"}
    hashes = {name: value for name, value in healthy.hashes.items() if name != "etcd2"}
    found = bad_checks(replace(seen, writes=without, hashes=hashes))
    failed = {name for name, check in found.items() if check.result is Result.FAILED}
    assert failed == {"endpoint health", "write and read"}
    assert {check.result for name, check in found.items() if name not in failed} == {Result.SKIPPED}
    assert {check.nodes for check in found.values()} == {("etcd2",)}


def test_key_names_print_no_control_characters(healthy: Observation, cluster: ClusterPlan) -> None:
    keys = Keys(count=1, revision=3, items=(KeyValue(key=b"/a\x1b[2J\n", value=b""),))
    found = health.all_keys(replace(healthy, keys=Answer(keys)))
    assert found.detail == r"1 key: /a\x1b[2J\n"


def test_a_failed_or_skipped_check_makes_the_cluster_unhealthy() -> None:
    def one(result: Result) -> Verification:
        return Verification(cluster="etcd", checks=(Check(name="x", result=result, detail=""),))

    assert [one(result).healthy for result in Result] == [True, True, False, False]


def test_the_error_names_failed_and_skipped_checks(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*results: Result) -> str:
        made = tuple(Check(name=f"the {result}", result=result, detail="", remedy="do it") for result in results)
        with pytest.raises(UnhealthyError) as error:
            show_verification(Verification(cluster="etcd", checks=made), {"output": "text", "quiet": True})
        assert error.value.hint == "do it"
        return error.value.message

    assert told(Result.OK, Result.SKIPPED) == "could not check: the skipped"
    both = "the cluster is not healthy: the failed; could not check: the skipped"
    assert told(Result.SKIPPED, Result.FAILED) == both
    show_verification(Verification(cluster="etcd", checks=()), {"output": "text", "quiet": True})


def test_json_has_every_check(healthy: Observation, cluster: ClusterPlan) -> None:
    found = Verification(cluster="etcd", checks=health.check_cluster(cluster, healthy, now=NOW, sealed=True))
    data = json.loads(json.dumps(verify.verification_data(found)))
    assert (data["cluster"], data["healthy"], len(data["checks"])) == ("etcd", True, 15)
    assert data["checks"][0] == {
        "name": "member list", "result": "ok", "detail": "etcd1, etcd2, etcd3", "remedy": None, "nodes": [],
    }  # fmt: skip


def test_verify_says_that_this_machine_has_no_route_to_the_nodes(bake: Any, tmp_path: Path) -> None:
    """The new network namespace has no network."""
    assert bake("--nodes", 1).code == 0
    done = subprocess.run(
        ["unshare", "--net", "--map-root-user", sys.executable, "-m", "generator.cli", "verify"],
        cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2])}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "warning: this machine has no route to the nodes' subnet 192.168.20.0/24" in done.stderr
    assert "  hint: give this machine an address in the subnet, or a route to it" in done.stderr
