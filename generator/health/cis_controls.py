"""The controls of `bake audit`, in their order. No side effects.

2.x and 1.1.x are etcd's controls in the CIS Kubernetes Benchmark 1.9 (sections 2 and 1.1); TLS.x are bake's own. A
control passes only if all its checks pass on every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from generator.etcd.answers import ClientKind, Port
from generator.health.node_checks import (
    NodeCheck,
    NodeFacts,
    Outcome,
    accepts_tls_1_3,
    are_set,
    identifies_peers,
    is_not_true,
    is_true,
    listens_with_tls,
    mode_within,
    owned_by,
    paths,
    peer_file_is_planned,
    refuses,
    refuses_old_versions,
    reported,
    runs_unprivileged,
    serves_no_profiles,
    serves_planned,
    trusts,
    used,
    version_limits,
)
from generator.seed.guest_paths import CONF, ENV, PKI_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    id: str
    title: str
    checks: Sequence[NodeCheck]
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A control's outcome on all nodes. `nodes`: those that keep it from passing."""

    id: str
    title: str
    result: Outcome
    evidence: str
    remedy: str
    nodes: tuple[str, ...]


def audit_nodes(nodes: Sequence[NodeFacts]) -> tuple[Audited, ...]:
    """Evaluate every control, in the benchmark's order."""
    return tuple(_audit(control, nodes) for control in CONTROLS)


def _audit(control: Control, nodes: Sequence[NodeFacts]) -> Audited:
    findings = [(facts.node.name, *one) for facts in nodes for check in control.checks for one in check(facts)]
    results = {result for _, result, _ in findings}
    worst = next(result for result in (Outcome.FAILED, Outcome.UNKNOWN, Outcome.PASSED) if result in results)
    shown = [(name, text) for name, result, text in findings if result is worst]
    return Audited(
        id=control.id,
        title=control.title,
        result=worst,
        evidence=_join(shown, every={facts.node.name for facts in nodes}),
        remedy="" if worst is Outcome.PASSED else _SILENT if worst is Outcome.UNKNOWN else control.remedy,
        nodes=() if worst is Outcome.PASSED else tuple(dict.fromkeys(name for name, _ in shown)),
    )


_SILENT = "check the node and its etcd-report.service; a node reports when etcd starts and every ten minutes"


def _join(findings: Iterable[tuple[str, str]], *, every: set[str]) -> str:
    """Group findings by text: `text of all nodes; etcd2, etcd3: other text`."""
    by_text: dict[str, list[str]] = {}
    for name, text in dict.fromkeys(findings):
        by_text.setdefault(text, []).append(name)
    return "; ".join(text if set(names) == every else f"{', '.join(names)}: {text}" for text, names in by_text.items())


# --- the controls -------------------------------------------------------------------

_SETTINGS = (str(CONF), str(ENV))
_CERTIFICATES = ("cert-file", "peer-cert-file", "trusted-ca-file", "peer-trusted-ca-file")
_KEYS = ("key-file", "peer-key-file")
_SKIPS_NAMES = ("peer-skip-client-san-verification", "experimental-peer-skip-client-san-verification")  # 3.6, 3.5
_CLIENT_PEM, _CLIENT_KEY = f"{PKI_DIR}/etcd-client.pem", f"{PKI_DIR}/etcd-client.key"
_PKI = used((*_CERTIFICATES, *_KEYS), str(PKI_DIR), _CLIENT_PEM, _CLIENT_KEY)
_DATA = used(("data-dir",))
_AGAIN = "the node's etcd.conf or unit was changed: bake again, and attach the node's new seed"
_OWNER = "set pki.permissions to owner, bake again, and attach the nodes' new seeds"

CONTROLS = (
    Control(id="1.1.7", title="configuration files are 600 or stricter", checks=[mode_within(0o600, paths(*_SETTINGS))],
            remedy=f"chmod 600 {' '.join(_SETTINGS)}"),
    Control(id="1.1.8", title="configuration files belong to root", checks=[owned_by(paths(*_SETTINGS), etcd=False)],
            remedy=f"chown root:root {' '.join(_SETTINGS)}"),
    Control(id="1.1.11", title="the data folder is 700 or stricter", checks=[mode_within(0o700, _DATA)],
            remedy="chmod 700 the data folder"),
    Control(id="1.1.12", title="the data folder belongs to etcd",
            checks=[owned_by(_DATA, etcd=True), reported(runs_unprivileged)],
            remedy="run etcd as its own user, and chown the data folder to that user"),
    Control(id="1.1.19", title="certificates and keys belong to root or etcd", checks=[owned_by(_PKI, etcd=None)],
            remedy=_OWNER),
    Control(id="1.1.20", title="certificates are 600 or stricter",
            checks=[mode_within(0o600, used(_CERTIFICATES, _CLIENT_PEM))], remedy=_OWNER),
    Control(id="1.1.21", title="keys are 600 or stricter", checks=[mode_within(0o600, used(_KEYS, _CLIENT_KEY))],
            remedy=_OWNER),
    Control(id="2.1", title="the client port has a certificate and a key",
            checks=[are_set("cert-file", "key-file")], remedy=_AGAIN),
    Control(id="2.2", title="clients must present a certificate",
            checks=[is_true("client-cert-auth"), refuses(ClientKind.NO_CERTIFICATE, Port.CLIENT)], remedy=_AGAIN),
    Control(id="2.3", title="auto-tls is off", checks=[is_not_true("auto-tls")],
            remedy=_AGAIN),
    Control(id="2.4", title="the peer port has a certificate and a key",
            checks=[are_set("peer-cert-file", "peer-key-file")], remedy=_AGAIN),
    Control(id="2.5", title="peers must present a certificate",
            checks=[is_true("peer-client-cert-auth"), refuses(ClientKind.NO_CERTIFICATE, Port.PEER),
                    *map(is_not_true, _SKIPS_NAMES)],
            remedy=_AGAIN),
    Control(id="2.6", title="peer-auto-tls is off", checks=[is_not_true("peer-auto-tls")],
            remedy=_AGAIN),
    Control(id="2.7", title="only the cluster's own CA is trusted",
            checks=[trusts("trusted-ca-file"), trusts("peer-trusted-ca-file"), refuses(ClientKind.FOREIGN_CA, *Port)],
            remedy=_AGAIN),
    Control(id="TLS.1", title="every port requires TLS, no further ports, no pprof",
            checks=[reported(listens_with_tls), reported(serves_no_profiles), refuses(ClientKind.NO_TLS, *Port)],
            remedy="in etcd.options: metrics on loopback only, no enable-pprof, no log-level debug"),
    Control(id="TLS.2", title="no TLS version below the planned minimum",
            checks=[reported(version_limits), refuses_old_versions], remedy=_AGAIN),
    Control(id="TLS.3", title="TLS 1.3 is accepted", checks=[accepts_tls_1_3],
            remedy="remove tls-max-version from etcd.options"),
    Control(id="TLS.4", title="the nodes present the planned certificates",
            checks=[serves_planned, reported(peer_file_is_planned)],
            remedy="the node's certificates differ from those in its seed: attach its seed"),
    Control(id="TLS.5", title="the peer port accepts only peers",
            checks=[reported(identifies_peers), refuses(ClientKind.OPERATOR, Port.PEER)],
            remedy="see docs/how-to/older-cluster.md"),
)  # fmt: skip
