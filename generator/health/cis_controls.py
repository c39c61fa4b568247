"""What `bake audit` asks of every node: the controls and their order. Pure.

2.x and 1.1.x are the CIS Kubernetes Benchmark's controls of etcd (1.9, sections 2 and 1.1); TLS.x are bake's own. A
control is passed only where everything that it needs was seen on every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from generator.etcd.answers import Guest, Port
from generator.health.node_checks import (
    Judge,
    NodeFacts,
    Outcome,
    are_set,
    is_not_true,
    is_true,
    knows_peers,
    listens_with_tls,
    mode_within,
    owned_by,
    paths,
    peer_file_is_planned,
    refuses,
    reported,
    runs_as_itself,
    serves_no_profiles,
    serves_planned,
    speaks_newest_version,
    speaks_no_old_version,
    trusts,
    used,
    version_limits,
)
from generator.seed.guest_paths import CONF, ENV, PKI_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    id: str
    what: str
    judges: Sequence[Judge]
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A control's outcome on all nodes; `nodes` are those that keep it from being passed."""

    id: str
    what: str
    result: Outcome
    evidence: str
    remedy: str
    nodes: tuple[str, ...]


def audit_nodes(nodes: Sequence[NodeFacts]) -> tuple[Audited, ...]:
    """Every control, in the benchmark's order."""
    return tuple(_audit(control, nodes) for control in CONTROLS)


def _audit(control: Control, nodes: Sequence[NodeFacts]) -> Audited:
    said = [(facts.node.name, *one) for facts in nodes for judge in control.judges for one in judge(facts)]
    results = {result for _, result, _ in said}
    worst = next(result for result in (Outcome.FAILED, Outcome.UNKNOWN, Outcome.PASSED) if result in results)
    shown = [(name, text) for name, result, text in said if result is worst]
    return Audited(
        id=control.id,
        what=control.what,
        result=worst,
        evidence=_join(shown, every={facts.node.name for facts in nodes}),
        remedy="" if worst is Outcome.PASSED else _SILENT if worst is Outcome.UNKNOWN else control.remedy,
        nodes=() if worst is Outcome.PASSED else tuple(dict.fromkeys(name for name, _ in shown)),
    )


_SILENT = "is the node up, and its etcd-report.service? A node reports when etcd starts and every ten minutes"


def _join(said: Iterable[tuple[str, str]], *, every: set[str]) -> str:
    """`what all say; etcd2, etcd3: what these say`."""
    by_text: dict[str, list[str]] = {}
    for name, text in dict.fromkeys(said):
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
_AGAIN = "somebody changed the node's etcd.conf or unit: bake again, and give the node its new seed"
_OWNER = "set pki.permissions to owner, bake again, and give the nodes their new seeds"

CONTROLS = (
    Control(id="1.1.7", what="configuration files are 600 or stricter", judges=[mode_within(0o600, paths(*_SETTINGS))],
            remedy=f"chmod 600 {' '.join(_SETTINGS)}"),
    Control(id="1.1.8", what="configuration files are root's", judges=[owned_by(paths(*_SETTINGS), etcd=False)],
            remedy=f"chown root:root {' '.join(_SETTINGS)}"),
    Control(id="1.1.11", what="the data folder is 700 or stricter", judges=[mode_within(0o700, _DATA)],
            remedy="chmod 700 the data folder"),
    Control(id="1.1.12", what="the data folder is etcd's",
            judges=[owned_by(_DATA, etcd=True), reported(runs_as_itself)],
            remedy="run etcd as a user of its own, and chown the data folder to it"),
    Control(id="1.1.19", what="certificates and keys are root's or etcd's", judges=[owned_by(_PKI, etcd=None)],
            remedy=_OWNER),
    Control(id="1.1.20", what="certificates are 600 or stricter",
            judges=[mode_within(0o600, used(_CERTIFICATES, _CLIENT_PEM))], remedy=_OWNER),
    Control(id="1.1.21", what="keys are 600 or stricter", judges=[mode_within(0o600, used(_KEYS, _CLIENT_KEY))],
            remedy=_OWNER),
    Control(id="2.1", what="clients are served with a certificate and a key",
            judges=[are_set("cert-file", "key-file")], remedy=_AGAIN),
    Control(id="2.2", what="clients need a certificate",
            judges=[is_true("client-cert-auth"), refuses(Guest.NOBODY, Port.CLIENT)], remedy=_AGAIN),
    Control(id="2.3", what="no certificates of etcd's own making for clients", judges=[is_not_true("auto-tls")],
            remedy=_AGAIN),
    Control(id="2.4", what="peers are served with a certificate and a key",
            judges=[are_set("peer-cert-file", "peer-key-file")], remedy=_AGAIN),
    Control(id="2.5", what="peers need a certificate",
            judges=[is_true("peer-client-cert-auth"), refuses(Guest.NOBODY, Port.PEER),
                    *map(is_not_true, _SKIPS_NAMES)],
            remedy=_AGAIN),
    Control(id="2.6", what="no certificates of etcd's own making for peers", judges=[is_not_true("peer-auto-tls")],
            remedy=_AGAIN),
    Control(id="2.7", what="the cluster has a CA of its own",
            judges=[trusts("trusted-ca-file"), trusts("peer-trusted-ca-file"), refuses(Guest.FOREIGN, *Port)],
            remedy=_AGAIN),
    Control(id="TLS.1", what="no connection without TLS, no other port, no profiles",
            judges=[reported(listens_with_tls), reported(serves_no_profiles), refuses(Guest.PLAIN, *Port)],
            remedy="in etcd.options: metrics on loopback only, no enable-pprof, no log-level debug"),
    Control(id="TLS.2", what="TLS from the planned version on, and no older one",
            judges=[reported(version_limits), speaks_no_old_version], remedy=_AGAIN),
    Control(id="TLS.3", what="TLS 1.3 is spoken", judges=[speaks_newest_version],
            remedy="take tls-max-version out of etcd.options"),
    Control(id="TLS.4", what="the certificates shown are the planned ones",
            judges=[serves_planned, reported(peer_file_is_planned)],
            remedy="the node runs with other certificates than its seed has: give it its seed"),
    Control(id="TLS.5", what="the peer port serves only peers",
            judges=[reported(knows_peers), refuses(Guest.OPERATOR, Port.PEER)],
            remedy="see docs/how-to/older-cluster.md"),
)  # fmt: skip
