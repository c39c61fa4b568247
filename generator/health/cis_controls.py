"""The controls of `bake audit`, in the order in which `bake audit` prints them.

The controls 1.1.x and 2.x are the controls for etcd in the CIS Kubernetes Benchmark 1.9 (sections 1.1 and 2). The
controls TLS.x are not part of the benchmark. A control passes only if all its checks pass on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from generator.etcd.answers import ClientKind, Port
from generator.health.check import Check, Command, Finding, Result, bake_command, combine, with_commands
from generator.health.node_checks import (
    NodeFacts,
    NotReportedError,
    accepts_tls_1_3,
    identifies_peers,
    listens_with_tls,
    mode_within,
    option_is_not_true,
    option_is_true,
    options_are_set,
    owned_by,
    peer_file_is_planned,
    presents_planned,
    refuses,
    refuses_old_versions,
    runs_unprivileged,
    serves_no_profiles,
    trusts_only_own_ca,
    version_limits,
)
from generator.seed.guest_paths import CONF, ENV, PKI_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A control. `checks`: the checks that every node must pass."""

    id: str
    title: str
    checks: Sequence[Callable[[NodeFacts], Iterator[Finding]]]
    remedy: str


def audit_nodes(nodes: Sequence[NodeFacts], command: Command = bake_command) -> tuple[Check, ...]:
    """Return one check for each control. The name of a check is the id of its control.

    If only some nodes have reported, the check NODES names the others, and unknown facts about them do not change the
    results of the controls. `command`: see `with_commands`.
    """
    all_nodes = [facts.node.name for facts in nodes]
    silent = [facts.finding(Result.SKIPPED, facts.no_report) for facts in nodes if facts.report is None]
    others = {finding.node for finding in silent} if len(silent) < len(nodes) else set()

    def check(control: Control) -> Check:
        found = [finding for facts in nodes for finding in _findings(control, facts)]
        known = [one for one in found if one.result is not Result.SKIPPED or one.node not in others]
        return combine(
            control.id, known, remedy=control.remedy, skipped_remedy=_NO_REPORT, all_nodes=all_nodes
        )  # fmt: skip

    missing = combine(NODES.id, silent, remedy=_NO_REPORT, all_nodes=all_nodes)
    return with_commands((*([missing] if others else []), *map(check, CONTROLS)), command)


def _findings(control: Control, facts: NodeFacts) -> Iterator[Finding]:
    for check in control.checks:
        try:
            yield from check(facts)
        except NotReportedError as error:
            yield facts.finding(Result.SKIPPED, str(error))


_NO_REPORT = "a node reports when etcd starts and every ten minutes; run {bake logs NODE --unit etcd-report}"


# --- the controls -------------------------------------------------------------------

_SETTINGS = (str(CONF), str(ENV))
_CERTIFICATES = ("cert-file", "peer-cert-file", "trusted-ca-file", "peer-trusted-ca-file")
_KEYS = ("key-file", "peer-key-file")
# The names of one option in etcd 3.6 and in etcd 3.5.
_SKIPS_NAMES = ("peer-skip-client-san-verification", "experimental-peer-skip-client-san-verification")
_CLIENT_PEM, _CLIENT_KEY = f"{PKI_DIR}/etcd-client.pem", f"{PKI_DIR}/etcd-client.key"
_AGAIN = "the node's etcd.conf or unit was changed: run {bake apply} or, if it has nothing to do, {bake replace NODE}"
_OWNER = "set pki.permissions to `owner`, and run {bake apply}; with another hypervisor, bake and insert the new seeds"

NODES = Control(id="nodes", title="every node has reported", checks=[], remedy=_NO_REPORT)
CONTROLS = (
    Control(id="1.1.7", title="configuration files are 600 or stricter",
            checks=[partial(mode_within, limit=0o600, paths=_SETTINGS)], remedy=f"chmod 600 {' '.join(_SETTINGS)}"),
    Control(id="1.1.8", title="configuration files belong to root",
            checks=[partial(owned_by, root=True, paths=_SETTINGS)], remedy=f"chown root:root {' '.join(_SETTINGS)}"),
    Control(id="1.1.11", title="the data folder is 700 or stricter",
            checks=[partial(mode_within, limit=0o700, options=["data-dir"])], remedy="chmod 700 the data folder"),
    Control(id="1.1.12", title="the data folder belongs to etcd",
            checks=[partial(owned_by, etcd=True, options=["data-dir"]), runs_unprivileged],
            remedy="run etcd as a user without privileges, and chown the data folder to that user"),
    Control(id="1.1.19", title="certificates and keys belong to root or etcd",
            checks=[partial(owned_by, root=True, etcd=True, options=[*_CERTIFICATES, *_KEYS],
                            paths=[str(PKI_DIR), _CLIENT_PEM, _CLIENT_KEY])],
            remedy=_OWNER),
    Control(id="1.1.20", title="certificates are 600 or stricter",
            checks=[partial(mode_within, limit=0o600, options=_CERTIFICATES, paths=[_CLIENT_PEM])], remedy=_OWNER),
    Control(id="1.1.21", title="keys are 600 or stricter",
            checks=[partial(mode_within, limit=0o600, options=_KEYS, paths=[_CLIENT_KEY])], remedy=_OWNER),
    Control(id="2.1", title="the client port has a certificate and a key",
            checks=[partial(options_are_set, options=["cert-file", "key-file"])], remedy=_AGAIN),
    Control(id="2.2", title="clients must present a certificate",
            checks=[partial(option_is_true, option="client-cert-auth"),
                    partial(refuses, kind=ClientKind.NO_CERTIFICATE, ports=[Port.CLIENT])],
            remedy=_AGAIN),
    Control(id="2.3", title="auto-tls is off",
            checks=[partial(option_is_not_true, option="auto-tls")], remedy=_AGAIN),
    Control(id="2.4", title="the peer port has a certificate and a key",
            checks=[partial(options_are_set, options=["peer-cert-file", "peer-key-file"])], remedy=_AGAIN),
    Control(id="2.5", title="peers must present a certificate",
            checks=[partial(option_is_true, option="peer-client-cert-auth"),
                    partial(refuses, kind=ClientKind.NO_CERTIFICATE, ports=[Port.PEER]),
                    *(partial(option_is_not_true, option=option) for option in _SKIPS_NAMES)],
            remedy=_AGAIN),
    Control(id="2.6", title="peer-auto-tls is off",
            checks=[partial(option_is_not_true, option="peer-auto-tls")], remedy=_AGAIN),
    Control(id="2.7", title="etcd trusts only the cluster's CA",
            checks=[partial(trusts_only_own_ca, option="trusted-ca-file"),
                    partial(trusts_only_own_ca, option="peer-trusted-ca-file"),
                    partial(refuses, kind=ClientKind.FOREIGN_CA)],
            remedy=_AGAIN),
    Control(id="TLS.1", title="every port requires TLS, and pprof is off",
            checks=[listens_with_tls, serves_no_profiles, partial(refuses, kind=ClientKind.NO_TLS)],
            remedy="in etcd.options: use loopback addresses for metrics, and remove enable-pprof and log-level debug"),
    Control(id="TLS.2", title="etcd refuses TLS versions below the cluster's minimum",
            checks=[version_limits, refuses_old_versions], remedy=_AGAIN),
    Control(id="TLS.3", title="TLS 1.3 is accepted",
            checks=[accepts_tls_1_3], remedy="remove tls-max-version from etcd.options"),
    Control(id="TLS.4", title="the nodes present the certificates from their seeds",
            checks=[presents_planned, peer_file_is_planned],
            remedy="the node's certificates differ from those in its seed: run {bake certs deliver}"),
    Control(id="TLS.5", title="the peer port accepts only peers",
            checks=[identifies_peers, partial(refuses, kind=ClientKind.OPERATOR, ports=[Port.PEER])],
            remedy="see docs/how-to/older-cluster.md"),
)  # fmt: skip
