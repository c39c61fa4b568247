"""Each control passes for a hardened node, and fails for the fault that the control has to find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from generator.etcd.answers import Certificate, ClientKind, FilePermissions, NodeReport, Port, Probe, Reply
from generator.health.check import Check, Result
from generator.health.cis_controls import CONTROLS, audit_nodes
from generator.health.node_checks import NodeFacts, Planned
from generator.plan import ClusterPlan

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PKI = "/etc/etcd/pki"
OPTIONS = {
    "cert-file": f"{PKI}/etcd-server.pem", "key-file": f"{PKI}/etcd-server.key", "client-cert-auth": "true",
    "trusted-ca-file": f"{PKI}/etcd-ca.pem", "peer-cert-file": f"{PKI}/etcd-peer.pem",
    "peer-key-file": f"{PKI}/etcd-peer.key", "peer-client-cert-auth": "true",
    "peer-trusted-ca-file": f"{PKI}/etcd-ca.pem", "data-dir": "/var/lib/etcd/etcd",
    "tls-min-version": "TLS1.3", "listen-client-urls": "https://10.0.0.1:2379", "listen-peer-urls": "https://10.0.0.1:2380",
    "peer-cert-allowed-hostname": "etcd.peers.etcd.internal",
}  # fmt: skip
SERVED = Probe(reply=Reply.SERVED, detail="HTTP/1.1 200 OK")
REFUSED = Probe(reply=Reply.REFUSED, detail="alert")
CLOSED = Probe(reply=Reply.UNREACHABLE, detail="no answer in time")
PEER = Certificate(names=(), not_before=NOW, not_after=NOW, sha256="9e")
SPOKEN = {"1.0": False, "1.1": False, "1.2": False, "1.3": True}


def files() -> dict[str, FilePermissions]:
    keys = ["etcd-server.key", "etcd-peer.key", "etcd-client.key"]
    pems = ["etcd-ca.pem", "etcd-server.pem", "etcd-peer.pem", "etcd-client.pem"]
    found = {f"{PKI}/{name}": FilePermissions(mode=0o400, owner="etcd", group="etcd") for name in [*keys, *pems]}
    settings = FilePermissions(mode=0o600, owner="root", group="root")
    found |= {f"/etc/etcd/{name}": settings for name in ("etcd.conf", "bake.env")}
    found[PKI] = FilePermissions(mode=0o750, owner="root", group="etcd")
    return found | {"/var/lib/etcd/etcd": FilePermissions(mode=0o700, owner="etcd", group="etcd")}


@pytest.fixture
def good(plan: Callable[..., ClusterPlan]) -> list[NodeFacts]:
    planned = Planned(
        server="5e", peer="9e", authorities=frozenset({"ca"}), peer_authorities=frozenset({"peers"}),
        tls_min_version="1.3", peer_check=("peer-cert-allowed-hostname", "etcd.peers.etcd.internal"),
    )  # fmt: skip
    certificates = {"cert-file": ("5e",), "peer-cert-file": ("9e",)}
    certificates |= {"trusted-ca-file": ("ca",), "peer-trusted-ca-file": ("peers",)}
    report = NodeReport(time=NOW, user="etcd", options=OPTIONS, files=files(), certificates=certificates)
    probes = {(port, kind): REFUSED for port in Port for kind in ClientKind}
    for port, digest in ((Port.CLIENT, "5e"), (Port.PEER, "9e")):
        certificate = Certificate(names=(), not_before=NOW, not_after=NOW, sha256=digest)
        probes[port, ClientKind.OPERATOR] = replace(SERVED if port is Port.CLIENT else REFUSED, certificate=certificate)
    return [
        NodeFacts(
            node=node, planned=planned, report=report, no_report="", probes=probes, versions=dict.fromkeys(Port, SPOKEN)
        )
        for node in plan(nodes=2).nodes
    ]


def missed(nodes: list[NodeFacts]) -> dict[str, Check]:
    found = {check.name: check for check in audit_nodes(nodes) if check.result is not Result.OK}
    assert all(check.remedy and check.detail and check.nodes for check in found.values())
    return found


def second(nodes: list[NodeFacts], **changes: Any) -> list[NodeFacts]:
    """Return the nodes with a changed second node. `report` may be a dictionary of changes in the node's report."""
    if isinstance(report := changes.get("report"), dict):
        assert nodes[1].report
        changes["report"] = replace(nodes[1].report, **report)
    return [nodes[0], replace(nodes[1], **changes)]


def with_options(nodes: list[NodeFacts], **options: str | None) -> list[NodeFacts]:
    stated = {name.replace("_", "-"): value for name, value in options.items()}
    return second(nodes, report={"options": {k: v for k, v in (OPTIONS | stated).items() if v is not None}})


def with_file(nodes: list[NodeFacts], path: str, **changes: Any) -> list[NodeFacts]:
    return second(nodes, report={"files": files() | {path: replace(files()[path], **changes)}})


def with_probe(nodes: list[NodeFacts], port: Port, kind: ClientKind, answer: Probe) -> list[NodeFacts]:
    return second(nodes, probes={**nodes[1].probes, (port, kind): answer})


def test_a_hardened_cluster_passes_every_control(good: list[NodeFacts]) -> None:
    assert missed(good) == {}
    assert audit_nodes(good)[0].detail == "600", "a text of all nodes needs no node names"
    assert len([one for one in CONTROLS if not one.id.startswith("TLS.")]) == 14
    assert len({one.id for one in CONTROLS}) == len(CONTROLS) == 19


@pytest.mark.parametrize(
    ("missing", "path", "changes"),
    [
        ("1.1.7", "/etc/etcd/etcd.conf", {"mode": 0o640}),
        ("1.1.7", "/etc/etcd/bake.env", {"mode": 0o4600}),
        ("1.1.8", "/etc/etcd/bake.env", {"owner": "etcd"}),
        ("1.1.8", "/etc/etcd/bake.env", {"group": "users"}),
        ("1.1.11", "/var/lib/etcd/etcd", {"mode": 0o701}),
        ("1.1.12", "/var/lib/etcd/etcd", {"group": "root"}),
        ("1.1.19", PKI, {"owner": "nobody"}),
        ("1.1.19", f"{PKI}/etcd-client.key", {"group": "users"}),
        *(("1.1.20", f"{PKI}/etcd-{name}.pem", {"mode": 0o644}) for name in ("ca", "server", "peer", "client")),
        *(("1.1.21", f"{PKI}/etcd-{name}.key", {"mode": 0o640}) for name in ("server", "peer", "client")),
    ],
)
def test_a_file_with_wrong_permissions_fails(
    good: list[NodeFacts], missing: str, path: str, changes: dict[str, Any]
) -> None:
    found = missed(with_file(good, path, **changes))
    assert list(found) == [missing]
    assert found[missing].result is Result.FAILED
    assert found[missing].nodes == ("etcd2",)
    assert path in found[missing].detail


def test_a_missing_file_does_not_pass(good: list[NodeFacts]) -> None:
    rest = {path: one for path, one in files().items() if not path.endswith("etcd-client.key")}
    found = missed(second(good, report={"files": rest}))
    assert set(found) == {"1.1.19", "1.1.21"}
    assert "not found" in found["1.1.21"].detail


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"cert_file": None}, "1.1.19 1.1.20 2.1"),
        ({"key_file": None}, "1.1.19 1.1.21 2.1"),
        ({"peer_key_file": None}, "1.1.19 1.1.21 2.4"),
        ({"client_cert_auth": None}, "2.2"),
        ({"client_cert_auth": "false"}, "2.2"),
        ({"auto_tls": "1"}, "2.3"),
        ({"auto_tls": "True"}, "2.3"),
        ({"auto_tls": "false"}, ""),
        ({"peer_client_cert_auth": "0"}, "2.5"),
        ({"peer_auto_tls": "T"}, "2.6"),
        ({"tls_min_version": None}, "TLS.2"),
        ({"tls_min_version": "TLS1.2"}, "TLS.2"),
        ({"tls_max_version": "TLS1.2"}, "TLS.2"),
        ({"tls_max_version": "TLS1.3"}, ""),
        ({"listen_metrics_urls": "http://10.0.0.1:2381"}, "TLS.1"),
        ({"listen_metrics_urls": "https://10.0.0.1:2381"}, "TLS.1"),
        ({"listen_metrics_urls": "http://127.0.0.1:2381"}, ""),
        ({"listen_client_http_urls": "https://10.0.0.1:2389"}, "TLS.1"),
        ({"listen_client_urls": "https://10.0.0.1:2379,http://10.0.0.1:2389"}, "TLS.1"),
        ({"enable_pprof": "true"}, "TLS.1"),
        ({"log_level": "debug"}, "TLS.1"),
        ({"log_level": "info", "enable_pprof": "false"}, ""),
        ({"experimental_peer_skip_client_san_verification": "true"}, "2.5"),
        ({"peer_skip_client_san_verification": "true"}, "2.5"),
    ],
    ids=lambda one: " ".join(sorted(one)) or "nothing",
)
def test_the_options_of_the_running_etcd_count(
    good: list[NodeFacts], options: dict[str, str | None], ids: str
) -> None:
    found = missed(with_options(good, **options))
    assert list(found) == ids.split()
    assert {one.result for one in found.values()} <= {Result.FAILED}


def test_an_etcd_that_runs_as_root_fails(good: list[NodeFacts]) -> None:
    assert "1.1.12" in missed(second(good, report={"user": "root"}))


@pytest.mark.parametrize(("digests", "text"), [(("ca", "other"), "other CA"), ((), "not have the cluster's CA")])
@pytest.mark.parametrize("option", ["trusted-ca-file", "peer-trusted-ca-file"])
def test_another_trusted_ca_fails(good: list[NodeFacts], option: str, digests: tuple[str, ...], text: str) -> None:
    assert good[1].report
    found = missed(second(good, report={"certificates": {**good[1].report.certificates, option: digests}}))
    assert list(found) == ["2.7"]
    assert text in found["2.7"].detail


@pytest.mark.parametrize("port", Port)
@pytest.mark.parametrize(
    ("kind", "missing"),
    [(ClientKind.NO_CERTIFICATE, ""), (ClientKind.FOREIGN_CA, "2.7"), (ClientKind.NO_TLS, "TLS.1")],
)
def test_an_accepted_unauthorized_client_fails_a_control_despite_the_report(
    good: list[NodeFacts], port: Port, kind: ClientKind, missing: str
) -> None:
    found = missed(with_probe(good, port, kind, SERVED))
    assert list(found) == [missing or ("2.2" if port is Port.CLIENT else "2.5")]
    assert "accepts" in next(iter(found.values())).detail


def test_a_node_without_a_report_is_named_once_and_the_others_are_judged(good: list[NodeFacts]) -> None:
    found = missed(second(good, report=None, no_report="has not reported"))
    assert {name: (one.result, one.detail) for name, one in found.items()} == {
        "nodes": (Result.SKIPPED, "etcd2: has not reported")
    }
    assert "bake logs NODE --unit etcd-report" in str(found["nodes"].remedy)
    (named, *_) = audit_nodes(second(good, report=None, no_report="has not reported"), "bake {} --name prod".format)
    assert str(named.remedy).endswith("run bake logs NODE --unit etcd-report --name prod")
    bad = [replace(good[0], report=None, no_report="has not reported"), *with_options(good, auto_tls="true")[1:]]
    assert {name: one.nodes for name, one in missed(bad).items()} == {"nodes": ("etcd1",), "2.3": ("etcd2",)}


def test_a_probe_of_a_node_without_a_report_counts(good: list[NodeFacts]) -> None:
    open_port = with_probe(good, Port.CLIENT, ClientKind.NO_TLS, SERVED)[1]
    found = missed([good[0], replace(open_port, report=None, no_report="has not reported")])
    assert {name: one.nodes for name, one in found.items()} == {"nodes": ("etcd2",), "TLS.1": ("etcd2",)}


def test_without_any_report_no_control_that_needs_it_passes(good: list[NodeFacts]) -> None:
    found = missed([replace(one, report=None, no_report="has not reported") for one in good])
    assert {one.id for one in CONTROLS} - set(found) == {"TLS.3"}
    assert {one.result for one in found.values()} == {Result.SKIPPED}
    assert {one.detail for one in found.values()} == {"has not reported"}
    assert all("bake logs NODE --unit etcd-report" in one.remedy for one in found.values())


def test_an_etcd_with_a_config_file_is_skipped(good: list[NodeFacts]) -> None:
    found = missed(with_options(good, config_file="/etc/x.yml"))
    assert {one.result for one in found.values()} == {Result.SKIPPED}
    assert "--config-file" in found["2.2"].detail


def test_a_firewalled_peer_port_is_checked_by_the_report(good: list[NodeFacts]) -> None:
    probes = {(port, kind): CLOSED if port is Port.PEER else one for (port, kind), one in good[1].probes.items()}
    closed = second(good, probes=probes, versions={Port.CLIENT: SPOKEN, Port.PEER: dict.fromkeys(SPOKEN)})
    assert missed(closed) == {}
    assert list(missed(with_options([closed[0], closed[1]], peer_client_cert_auth="false"))) == ["2.5"]


def test_a_stopped_node_passes_no_probed_control(good: list[NodeFacts]) -> None:
    """Some controls use the last report of a stopped node, but controls that probe its ports do not pass."""
    probes = dict.fromkeys(good[1].probes, CLOSED)
    found = missed(second(good, probes=probes, versions=dict.fromkeys(Port, dict.fromkeys(SPOKEN))))
    assert set(found) == {"2.2", "2.5", "2.7", "TLS.1", "TLS.2", "TLS.3", "TLS.4", "TLS.5"}
    assert {one.result for one in found.values()} == {Result.SKIPPED}
    assert "etcd2: no answer at the peer port" in found["2.5"].detail


def test_a_port_that_refuses_every_client_is_skipped(good: list[NodeFacts]) -> None:
    found = missed(with_probe(good, Port.CLIENT, ClientKind.OPERATOR, REFUSED))
    assert found["2.2"].result is Result.SKIPPED


@pytest.mark.parametrize(
    ("version", "spoken", "missing"), [("1.1", True, "TLS.2"), ("1.2", True, "TLS.2"), ("1.3", False, "TLS.3")]
)
@pytest.mark.parametrize("port", Port)
def test_unplanned_tls_versions_fail(
    good: list[NodeFacts], port: Port, version: str, spoken: bool, missing: str
) -> None:
    found = missed(second(good, versions={**dict.fromkeys(Port, SPOKEN), port: SPOKEN | {version: spoken}}))
    assert list(found) == [missing]
    assert f"the {port}" in found[missing].detail


def test_a_planned_tls_1_2_passes(good: list[NodeFacts]) -> None:
    planned = replace(good[1].planned, tls_min_version="1.2")
    spoken = second(good, planned=planned, versions=dict.fromkeys(Port, SPOKEN | {"1.2": True}))
    assert missed(spoken) == {}
    assert missed(with_options(spoken, tls_min_version=None)) == {}
    assert list(missed(with_options(spoken, tls_min_version="TLS1.0"))) == ["TLS.2"]


@pytest.mark.parametrize("port", Port)
def test_an_unplanned_certificate_fails(good: list[NodeFacts], port: Port) -> None:
    certificate = Certificate(names=(), not_before=NOW, not_after=NOW, sha256="0f")
    other = replace(SERVED if port is Port.CLIENT else REFUSED, certificate=certificate)
    assert list(missed(with_probe(good, port, ClientKind.OPERATOR, other))) == ["TLS.4"]
    own = Probe(reply=Reply.UNREACHABLE, detail="x", distrusted="failed verification: self-signed")
    assert "self-signed" in missed(with_probe(good, port, ClientKind.OPERATOR, own))["TLS.4"].detail


def test_a_peer_port_without_a_readable_certificate_is_checked_by_the_report(good: list[NodeFacts]) -> None:
    """With TLS 1.2, the peer port refuses the client before Python returns the certificate."""
    hidden = with_probe(good, Port.PEER, ClientKind.OPERATOR, REFUSED)
    assert missed(hidden) == {}
    assert hidden[1].report
    other = {**hidden[1].report.certificates, "peer-cert-file": ("0f",)}
    assert list(missed(second(hidden, report={"certificates": other}))) == ["TLS.4"]


def test_etcd_identifies_peers_by_a_ca_or_by_a_name(good: list[NodeFacts]) -> None:
    assert good[1].report
    one_ca = replace(good[1].planned, peer_authorities=frozenset({"ca"}))
    same = {**good[1].report.certificates, "peer-trusted-ca-file": ("ca",)}
    by_name = second(good, planned=one_ca, report={"certificates": same})
    assert missed(by_name) == {}
    assert missed(with_options(good, peer_cert_allowed_hostname=None)) == {}
    options = {name: value for name, value in OPTIONS.items() if name != "peer-cert-allowed-hostname"}
    for stated in ({}, {"peer-cert-allowed-hostname": "etcd2.etcd.internal"}):
        neither = second(good, planned=one_ca, report={"certificates": same, "options": options | stated})
        assert list(missed(neither)) == ["TLS.5"]
    served = missed(with_probe(good, Port.PEER, ClientKind.OPERATOR, replace(SERVED, certificate=PEER)))
    assert list(served) == ["TLS.5"]
    assert "the peer port accepts a client certificate" in served["TLS.5"].detail


def test_an_unplanned_peer_certificate_in_the_report_fails(good: list[NodeFacts]) -> None:
    assert good[1].report
    other = {**good[1].report.certificates, "peer-cert-file": ("0f", "9e")}
    assert list(missed(second(good, report={"certificates": other}))) == ["TLS.4"]
