"""The etcd options that a cluster file may set in `etcd.options`, and why each option is safe.

Every flag of etcd 3.5 and 3.6 is in one of three tables. `RESERVED` lists the flags that bake sets. `REFUSED` lists the
flags that bake refuses, with the reasons. `OPTIONS` lists the flags that a cluster file may set.

An option is safe if it moves no data, impersonates no member, weakens no TLS and opens no port.

Misspelled options are refused by bake, because etcd would only log a warning about an unknown `ETCD_*` variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from generator.config import etcd_values as values
from generator.config.etcd_values import Format
from generator.config.fields import Schema, shown_key, value_text
from generator.config.values import ETCD_SERIES

MAX_ELECTION_MS = 50_000
OptionProblem = tuple[str, str, str | None]  # option, message, remedy

# Flags that bake sets and that a cluster file cannot set.
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
_FIELDS = {"tls-min-version": "etcd.tlsMinVersion", "cipher-suites": "etcd.cipherSuites"}  # the field for each flag

_PEERS = (
    "is not needed: pki.peerName decides which certificates the peer port accepts",
    "leave it out; with pki.peerCa.separate, the peer port accepts only certificates of a separate CA",
)
_LISTS = (
    "names a certificate revocation list, but bake does not install the list: etcd would refuse every connection",
    "to revoke certificates, replace the CA: bake certs rotate --ca",
)
_SANS = "accepts a peer's certificate from any address", "leave it out"
_DISCOVERY = "is not needed: bake gives every node the addresses of all nodes", "leave it out"
_PROXY = "turns a member into a proxy", "leave it out"
_ROTATION = "is for log files, but the nodes log to the journal", "leave it out; journald.conf limits the journal"
_V2V3 = "serves the v2 API, which does not check etcd's users", "leave it out"
_MLOCK = (
    "needs locked memory for the whole database, but etcd.service limits locked memory: at the limit, etcd stops",
    "turn swap off on the nodes instead",
)
_CLIENTS = "can lock out the operator and the nodes", "leave it out; the section auth can limit what users may do"
_WAL = (
    "moves the write-ahead log out of the data folder, in which bake looks for a member's data",
    "leave it out; mount a faster disk at etcd.dataDir",
)
REFUSED: Mapping[str, tuple[str, str]] = {
    "wal-dir": _WAL,
    **dict.fromkeys(("peer-cert-allowed-cn", "peer-cert-allowed-hostname"), _PEERS),
    "client-cert-allowed-hostname": _CLIENTS,
    **dict.fromkeys(("client-crl-file", "peer-crl-file"), _LISTS),
    **dict.fromkeys(("peer-skip-client-san-verification", "experimental-peer-skip-client-san-verification"), _SANS),
    **dict.fromkeys(("memory-mlock", "experimental-memory-mlock"), _MLOCK),
    **dict.fromkeys(("enable-log-rotation", "log-rotation-config-json"), _ROTATION),
    "experimental-enable-v2v3": _V2V3,
    **{
        f"proxy{rest}": _PROXY
        for rest in ("", *(f"-{what}" for what in (
            "dial-timeout", "failure-wait", "read-timeout", "refresh-interval", "write-timeout",
        )))
    },
    **{
        f"discovery-{what}": _DISCOVERY
        for what in (
            "cacert", "cert", "dial-timeout", "endpoints", "insecure-skip-tls-verify", "insecure-transport",
            "keepalive-time", "keepalive-timeout", "key", "password", "request-timeout", "token", "user",
        )
    },
}  # fmt: skip


class Option(NamedTuple):
    """An option that a cluster file may set. `why`: why the option is safe. `form`: the format of the value.

    `warning`: the text of a warning. `on`: the values for which bake warns; if empty, bake warns for every value.
    """

    name: str
    form: Format
    why: str
    series: tuple[str, ...] = ETCD_SERIES
    warning: str | None = None
    on: tuple[object, ...] = ()


def _same(form: Format, why: str, names: str, **more: Any) -> Iterator[Option]:
    """Yield one `Option` for each name in `names`. `more`: further attributes of the options, such as `series`."""
    for name in names.split():
        yield Option(name=name, form=form, why=why, **more)


def _renamed(form: Format, why: str, names: str, **more: Any) -> Iterator[Option]:
    """Yield options whose names begin with `experimental-` in etcd 3.5 but not in etcd 3.6."""
    for name in names.split():
        yield Option(name=f"experimental-{name}", form=form, why=why, series=("3.5",), **more)
        yield Option(name=name, form=form, why=why, series=("3.6",), **more)


_TIMING = "affects the timing of raft and of connections; every member gets the same value"
_STORAGE = "affects only files in the data folder"
_LIMITS = "limits the requests of a client"
_CHECKS = "etcd checks its data without changing it"
_LEASES = "affects how etcd stores leases; every member gets the same value"
_LOGS = "affects only the content of etcd's log lines"
_TOKENS = "affects only users with passwords, but the users that bake creates have certificates"
_NO_EFFECT = "has no effect"
_PROFILES = "every client with a certificate can read memory profiles at /debug/pprof, even without an etcd user"
_TRACING = "etcd sends traces of client requests to the collector without TLS"
_TRACED = "has no effect without enable-distributed-tracing"
_NO_V2 = "a new cluster has no v2 data"
_WHOLE, _FLAG, _TIME = values.whole(), values.flag, values.duration()
_LEVELS = ("debug", "info", "warn", "error", "dpanic", "panic", "fatal")
_OLD, _NEW = {"series": ("3.5",)}, {"series": ("3.6",)}
_CHECKPOINT, _PERSIST = "experimental-enable-lease-checkpoint", "experimental-enable-lease-checkpoint-persist"
_REMEDIES = {
    "listen-metrics-urls": "other hosts can read /metrics at the client port with a client certificate",
    "auth-token": "leave it out: bake's users have certificates, not passwords",
}

OPTIONS: tuple[Option, ...] = (
    *_same(values.whole(1), _TIMING, "heartbeat-interval election-timeout"),
    *_same(_FLAG, _TIMING, "pre-vote initial-election-tick-advance socket-reuse-address"),
    *_same(_TIME, _TIMING, """
        grpc-keepalive-min-time grpc-keepalive-interval grpc-keepalive-timeout raft-read-timeout raft-write-timeout
    """),
    *_renamed(_TIME, _TIMING, "watch-progress-notify-interval downgrade-check-time"),
    *_same(_FLAG, "only processes of the same account can share a port", "socket-reuse-port", on=(True,),
           warning="a second process of the account etcd can accept connections at etcd's ports"),
    *_same(_WHOLE, _STORAGE, "snapshot-count max-snapshots max-wals backend-batch-limit"),
    *_same(values.quota, _STORAGE, "quota-backend-bytes"),
    *_same(_TIME, _STORAGE, "backend-batch-interval"),
    *_same(values.word("array", "map"), _STORAGE, "backend-bbolt-freelist-type"),
    *_renamed(_WHOLE, _STORAGE,
              "compaction-batch-limit snapshot-catchup-entries bootstrap-defrag-threshold-megabytes"),
    *_renamed(_TIME, _STORAGE, "compaction-sleep-interval"),
    *_same(values.word("periodic", "revision"), _STORAGE, "auto-compaction-mode"),
    *_same(values.retention, _STORAGE, "auto-compaction-retention"),
    *_same(_FLAG, _STORAGE, "experimental-stop-grpc-service-on-defrag experimental-txn-mode-write-with-shared-buffer",
           **_OLD),
    *_same(values.whole(1), _LIMITS, "max-txn-ops"),
    *_same(values.whole(65536), f"{_LIMITS}; the nodes can still send their reports", "max-request-bytes"),
    *_same(values.whole(0, 2**32 - 1), _LIMITS, "max-concurrent-streams"),
    *_same(values.whole(1), "bake adds nodes one at a time", "max-learners", **_NEW),
    *_same(_FLAG, _CHECKS, "experimental-initial-corrupt-check experimental-compact-hash-check-enabled", **_OLD),
    *_renamed(_TIME, _CHECKS, "corrupt-check-time"),
    *_renamed(values.duration(zero=False), _CHECKS, "compact-hash-check-time"),
    *_same(_FLAG, _LEASES, f"{_CHECKPOINT} {_PERSIST}", **_OLD),
    *_same(values.gates, "each gate does the same as a safe option of etcd 3.5", "feature-gates", **_NEW),
    *_same(values.word("not-yet", "write-only"), _NO_V2, "v2-deprecation", **_OLD),
    *_same(values.word("write-only"), _NO_V2, "v2-deprecation", **_NEW),
    *_same(values.word("zap"), _LOGS, "logger"),
    *_same(values.word(*_LEVELS, any_case=True), _LOGS, "log-level", warning=_PROFILES, on=("debug",)),
    *_same(values.word("json", "console"), _LOGS, "log-format", **_NEW),
    *_renamed(_TIME, _LOGS, "warning-apply-duration"),
    *_same(_TIME, _LOGS, "warning-unary-request-duration", **_NEW),
    *_same(values.word("TLS1.2", "TLS1.3"), "etcd refuses versions below etcd.tlsMinVersion", "tls-max-version",
           on=("TLS1.2",), warning="no connection will use TLS 1.3"),
    *_same(_WHOLE, _NO_EFFECT, "self-signed-cert-validity", warning="has no effect: auto-tls is off"),
    *_same(values.text, _NO_EFFECT, "host-whitelist", warning="has no effect: etcd uses it only on ports without TLS"),
    *_same(values.origins, "a browser sends no client certificate in a request from another origin", "cors", on=("*",),
           warning="web pages of every origin can call etcd's JSON API, as without the option"),
    *_same(_FLAG, "like gRPC, the JSON API needs a client certificate", "enable-grpc-gateway"),
    *_same(values.token_provider, _TOKENS, "auth-token"),
    *_same(values.whole(4, 31), _TOKENS, "bcrypt-cost"),
    *_same(values.whole(1), _TOKENS, "auth-token-ttl"),
    *_same(values.word("basic", "extensive"), "metrics contain no keys and no values", "metrics"),
    *_same(values.metrics_urls, "only the node can reach a loopback address", "listen-metrics-urls"),
    *_same(_FLAG, "only clients with a certificate get profiles", "enable-pprof", warning=_PROFILES, on=(True,)),
    *_renamed(_FLAG, "etcd sends traces and opens no port", "enable-distributed-tracing", warning=_TRACING, on=(True,)),
    *_renamed(values.text, _TRACED,
              "distributed-tracing-address distributed-tracing-service-name distributed-tracing-instance-id"),
    *_renamed(values.whole(0, 10**6), _TRACED, "distributed-tracing-sampling-rate"),
)  # fmt: skip


def known_options(version: str) -> dict[str, Option]:
    """Return the options that a cluster file may set. `version`: the release series of etcd."""
    return {option.name: option for option in OPTIONS if version in option.series}


def option_schemas() -> dict[str, Schema]:
    """Return the JSON Schema of each option that a cluster file may set, in any release series of etcd."""
    schemas: dict[str, Schema] = {}
    for option in OPTIONS:
        only = f"; only etcd {', '.join(option.series)}" if option.series != ETCD_SERIES else ""
        schema, described = option.form.schema, {"description": f"{option.why}{only}"}
        other = schemas.get(option.name)
        schemas[option.name] = {"anyOf": [other, {**described, **schema}]} if other else {**described, **schema}
    return schemas


def check_options(options: Mapping[str, object], version: str) -> Iterator[OptionProblem]:
    """Yield (option, message, hint) for each option that bake or this etcd version refuses."""
    known = known_options(version)
    wrong = [found for name, value in options.items() if (found := _check(name, value, version, known))]
    yield from wrong or _relations(options)


def _check(name: str, value: object, version: str, known: Mapping[str, Option]) -> OptionProblem | None:
    if name in RESERVED:
        return name, f"{name!r} is set by bake", _FIELDS.get(name, "leave it out")
    if name in REFUSED:
        message, hint = REFUSED[name]
        return name, f"{name!r} {message}", hint
    if name not in known:
        from difflib import get_close_matches

        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see etcd --help"
        return name, f"etcd {version} has no option {shown_key(name)!r}", hint
    if rule := known[name].form(value):
        return name, f"{value!r} {rule}", _REMEDIES.get(name, f"use the format of etcd {version} --help")
    return None


def _relations(options: Mapping[str, object]) -> Iterator[OptionProblem]:
    """Check combinations of options. See `Validate` in etcd's embed/config.go."""
    heartbeat, election = options.get("heartbeat-interval", 100), options.get("election-timeout", 1000)
    yield from _timing(int(str(heartbeat)), int(str(election)))
    kept = options.get("auto-compaction-retention", 0)
    if options.get("auto-compaction-mode") == "revision" and not str(kept).isdecimal():
        message = f"{kept!r} is a duration, but auto-compaction-mode 'revision' needs a number"
        yield "auto-compaction-retention", message, "use a number of revisions, such as 10000"
    gates = str(options.get("feature-gates", "")).split(",")
    checkpoints = options.get(_CHECKPOINT) or {"LeaseCheckpoint=true", "AllAlpha=true"} & set(gates)
    for place, on in ((_PERSIST, options.get(_PERSIST)), ("feature-gates", "LeaseCheckpointPersist=true" in gates)):
        if on and not checkpoints:
            yield place, "LeaseCheckpointPersist has no effect without LeaseCheckpoint", "enable both"


def _timing(heartbeat: int, election: int) -> Iterator[OptionProblem]:
    if election < 5 * heartbeat:
        message = f"{election} ms is too short for the heartbeat-interval of {heartbeat} ms"
        yield "election-timeout", message, f"use {10 * heartbeat}, or at least {5 * heartbeat}"
    elif election > MAX_ELECTION_MS:
        message = f"{election} ms is longer than {MAX_ELECTION_MS} ms"
        yield "election-timeout", message, f"use at most {MAX_ELECTION_MS}"


def warn_options(options: Mapping[str, object], version: str) -> Iterator[OptionProblem]:
    """Yield (option, message, hint) for each option whose value needs a warning."""
    known = known_options(version)
    for name, value in options.items():
        option = known.get(name)
        if option and option.warning and (not option.on or value in option.on):
            yield name, f"{value_text(value)}: {option.warning}", "remove the option, unless you need it"


def variable(name: str) -> str:
    """Return the environment variable of an option, such as `ETCD_PRE_VOTE` for `pre-vote`."""
    return "ETCD_" + name.upper().replace("-", "_")
