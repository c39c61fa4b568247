"""Which further etcd options a user may set, by release series.

From the `--help` of etcd 3.5 and 3.6 and the 3.6 upgrade guide's list of renamed flags. An unknown `ETCD_*`
variable is only a warning to etcd, so a typing error would be lost without a word: here it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches

# What bake itself decides; setting it by hand would contradict the plan.
RESERVED = frozenset(
    """
    name data-dir listen-peer-urls listen-client-urls initial-advertise-peer-urls initial-cluster
    initial-cluster-state initial-cluster-token advertise-client-urls cert-file key-file client-cert-auth
    trusted-ca-file auto-tls peer-cert-file peer-key-file peer-client-cert-auth peer-trusted-ca-file peer-auto-tls
    log-outputs config-file force-new-cluster enable-v2 discovery discovery-srv discovery-fallback discovery-proxy
    discovery-srv-name strict-reconfig-check client-cert-file client-key-file peer-client-cert-file
    peer-client-key-file tls-min-version cipher-suites version help unsafe-no-fsync listen-client-http-urls log-output
    """.split()  # noqa: SIM905
)

_FIELDS = {"tls-min-version": "etcd.tlsMinVersion", "cipher-suites": "etcd.cipherSuites"}  # what sets it

_BOTH = {
    int: """
    heartbeat-interval election-timeout snapshot-count max-snapshots max-wals quota-backend-bytes max-txn-ops
    max-request-bytes max-concurrent-streams backend-batch-limit self-signed-cert-validity
    """,
    bool: """
    pre-vote initial-election-tick-advance enable-pprof enable-grpc-gateway socket-reuse-port
    socket-reuse-address enable-log-rotation
    """,
    str: """
    wal-dir auto-compaction-mode auto-compaction-retention listen-metrics-urls metrics cors host-whitelist logger
    log-level log-rotation-config-json tls-max-version auth-token bcrypt-cost
    auth-token-ttl client-cert-allowed-hostname client-crl-file peer-crl-file peer-cert-allowed-cn
    peer-cert-allowed-hostname backend-batch-interval backend-bbolt-freelist-type grpc-keepalive-min-time
    grpc-keepalive-interval grpc-keepalive-timeout v2-deprecation
    """,
}
_RENAMED = {  # experimental-NAME in 3.5 is NAME in 3.6 (upgrade guide 3.6, "Deprecated flags")
    bool: "peer-skip-client-san-verification memory-mlock distributed-tracing",
    int: "compaction-batch-limit snapshot-catchup-entries max-learners bootstrap-defrag-threshold-megabytes "
    "distributed-tracing-sampling-rate",
    str: "compact-hash-check-time corrupt-check-time compaction-sleep-interval watch-progress-notify-interval "
    "warning-apply-duration warning-unary-request-duration downgrade-check-time distributed-tracing-address "
    "distributed-tracing-service-name distributed-tracing-instance-id",
}
_GATES = "initial-corrupt-check compact-hash-check-enabled enable-lease-checkpoint enable-lease-checkpoint-persist"
_GATES_35 = "txn-mode-write-with-shared-buffer enable-v2v3"
Kind = type[int] | type[bool] | type[str]


def known_options(version: str) -> dict[str, Kind]:
    """Option name → the kind of its value (bool, int or str) for a release series."""
    options: dict[str, Kind] = {name: kind for kind, names in _BOTH.items() for name in names.split()}
    prefix = "experimental-" if version == "3.5" else ""
    renamed = {f"{prefix}{name}": kind for kind, names in _RENAMED.items() for name in names.split()}
    options |= renamed
    if version == "3.5":
        options |= {f"experimental-{name}": bool for name in f"{_GATES} {_GATES_35}".split()}
        options.pop("experimental-max-learners", None)  # 3.5 allows one learner, and has no option for it
        options["experimental-enable-v2v3"] = str
    else:
        options |= {"feature-gates": str}
    return options


def check_options(options: Mapping[str, object], version: str) -> Iterator[tuple[str, str, str | None]]:
    """(option, message, remedy) for each option that this etcd does not take."""
    known = known_options(version)
    for name, value in options.items():
        if name in RESERVED:
            yield name, f"{name!r} is set by bake", _FIELDS.get(name, "leave it out")
        elif name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "see etcd --help"
            yield name, f"etcd {version} has no option {name!r}", hint
        elif not _fits(value, known[name]):
            yield name, f"{value!r} is not {_WORDS[known[name]]}", f"write it as etcd {version} --help has it"


_WORDS: dict[Kind, str] = {int: "a whole number", bool: "true or false", str: "plain text without quotes or spaces"}


def _fits(value: object, kind: Kind) -> bool:
    if kind is str:
        text = str(value)
        return not isinstance(value, bool) and re.fullmatch(r"[A-Za-z0-9._:/,*=@{}\[\]+-]{1,512}", text) is not None
    return type(value) is kind


def variable(name: str) -> str:
    """The environment variable of an option: `heartbeat-interval` → `ETCD_HEARTBEAT_INTERVAL`."""
    return "ETCD_" + name.upper().replace("-", "_")
