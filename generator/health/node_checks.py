"""Checks on one node: on its report, and on the probes of its ports. No side effects.

A check yields findings; `cis_controls` groups them by CIS control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from generator.config.etcd_values import loopback_urls
from generator.etcd.answers import ClientKind, FilePermissions, NodeReport, Port, Probe, Reply, is_firewalled
from generator.plan import NodePlan


class Outcome(StrEnum):
    """`UNKNOWN`: a node did not report, or could not be reached. Treated as a failure."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "not reported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the cluster's folder has for a node: certificate digests, the lowest TLS version, and the etcd option (name,
    value) that identifies peers."""

    server: str
    peer: str
    authorities: frozenset[str]
    peer_authorities: frozenset[str]
    tls_min_version: str
    peer_check: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Everything that is known about a node. `no_report`: why there is no report."""

    node: NodePlan
    planned: Planned
    report: NodeReport | None
    no_report: str
    probes: Mapping[tuple[Port, ClientKind], Probe]
    versions: Mapping[Port, Mapping[str, bool | None]] = field(default_factory=dict)  # accepted TLS versions


NodeFinding = tuple[Outcome, str]
NodeCheck = Callable[[NodeFacts], Iterator[NodeFinding]]


# --- checks on a node's report ------------------------------------------------------


Reported = Callable[[NodeReport, Planned], Iterator[tuple[bool, str]]]


def reported(look: Reported) -> NodeCheck:
    """Return a check on a node's report. etcd with --config-file ignores flags and variables: the result is unknown."""

    def check(facts: NodeFacts) -> Iterator[NodeFinding]:
        if facts.report is None:
            yield Outcome.UNKNOWN, facts.no_report
        elif file := facts.report.options.get("config-file"):
            yield Outcome.UNKNOWN, f"etcd runs with --config-file {file}, which is not checked"
        else:
            for good, text in look(facts.report, facts.planned):
                yield Outcome.PASSED if good else Outcome.FAILED, text

    return check


def is_true(option: str) -> NodeCheck:
    """Return a check that an etcd option is true."""
    return reported(lambda report, _: iter([(_flag(report, option), _stated(report, option))]))


def is_not_true(option: str) -> NodeCheck:
    """Return a check that an etcd option is false or not set."""
    return reported(lambda report, _: iter([(not _flag(report, option), _stated(report, option))]))


def _stated(report: NodeReport, option: str) -> str:
    return f"{option}={report.options[option]}" if option in report.options else f"{option} is not set"


def _flag(report: NodeReport, option: str) -> bool:
    """Parse a boolean as Go does."""
    return report.options.get(option) in ("1", "t", "T", "true", "TRUE", "True")


def are_set(*options: str) -> NodeCheck:
    """Return a check that etcd options have values."""

    def look(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
        missing = [option for option in options if not report.options.get(option)]
        yield not missing, f"{', '.join(missing or options)} {'not set' if missing else 'set'}"

    return reported(look)


Pick = Callable[[NodeReport], Iterable[str]]


def paths(*fixed: str) -> Pick:
    """Select these files."""
    return lambda _: fixed


def used(options: Iterable[str], *more: str) -> Pick:
    """Select the files that these etcd options name, and `more`."""
    return lambda report: dict.fromkeys([*(report.options.get(option, "") for option in options), *more])


def mode_within(limit: int, pick: Pick) -> NodeCheck:
    """Return a check that files have no permission bits beyond `limit`. An ACL's mask appears as the group's bits."""
    return reported(
        lambda report, _: _files(report, pick, lambda one: f"{one.mode:03o}", lambda one: not one.mode & ~limit)
    )


def owned_by(pick: Pick, *, etcd: bool | None) -> NodeCheck:
    """Return a check that files belong to etcd's user (True), root (False), or either (None); the group likewise."""

    def look(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
        names = {report.user} if etcd else {"root"} if etcd is False else {"root", report.user}
        return _files(report, pick, lambda one: f"{one.owner}:{one.group}", lambda one: {one.owner, one.group} <= names)

    return reported(look)


def _files(
    report: NodeReport, pick: Pick, word: Callable[[FilePermissions], str], is_good: Callable[[FilePermissions], bool]
) -> Iterator[tuple[bool, str]]:
    """Yield one finding: the paths of files that are bad or missing, or a summary if all are good."""
    wanted = list(pick(report))
    found = {path: report.files[path] for path in wanted if path in report.files}
    bad: dict[str, list[str]] = {}
    for path, one in found.items():
        if not is_good(one):
            bad.setdefault(word(one), []).append(path)
    bad |= {"not found": missing} if (missing := [path or "(not set)" for path in wanted if path not in found]) else {}
    if bad:
        yield False, ", ".join(f"{text}: {' '.join(of)}" for text, of in bad.items())
    else:
        yield True, ", ".join(sorted(set(map(word, found.values()))))


def trusts(option: str) -> NodeCheck:
    """Return a check that a trusted CA file has the cluster's CA and no other."""

    def look(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
        own = planned.peer_authorities if option.startswith("peer-") else planned.authorities
        others = set(report.certificates.get(option, ())) - own
        known = set(report.certificates.get(option, ())) & own
        if others:
            yield False, f"{option} trusts {len(others)} other CA"
        else:
            yield bool(known), f"{option} is the cluster's own CA" if known else f"{option} has no CA of the cluster"

    return reported(look)


def runs_unprivileged(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
    """Check that etcd does not run as root."""
    yield report.user != "root", f"etcd runs as {report.user}"


def listens_with_tls(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
    """Check that all listen URLs use TLS. The firewall does not cover metrics ports: they may be on loopback only."""
    urls = [url for name in ("listen-client-urls", "listen-peer-urls") for url in _urls(report, name)]
    plain = [url for url in urls if not url.startswith(("https://", "unixs://"))]
    metrics = [url for url in _urls(report, "listen-metrics-urls") if loopback_urls(url)]
    bad = [*plain, *metrics, *_urls(report, "listen-client-http-urls")]
    yield bool(urls) and not bad, ", ".join(bad) or f"{'every' if urls else 'no'} listen URL is https"


def _urls(report: NodeReport, option: str) -> list[str]:
    return [url for url in report.options.get(option, "").split(",") if url]


def serves_no_profiles(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
    """Check that pprof is off. With either option, etcd serves /debug/pprof at the client port to every user."""
    debug = report.options.get("log-level") == "debug"
    text = _stated(report, "log-level" if debug else "enable-pprof")
    yield not debug and not _flag(report, "enable-pprof"), text


def peer_file_is_planned(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
    """Check the first certificate of the file, which is the one that etcd presents."""
    first = report.certificates.get("peer-cert-file", ("",))[:1]
    good = first == (planned.peer,)
    yield good, f"peer-cert-file has {'the planned' if good else 'another'} certificate"


def identifies_peers(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
    """Check that etcd identifies peers by a CA that issues no client certificates, or by a name that no client has."""
    option, name = planned.peer_check
    clients, peers = (set(report.certificates.get(f"{kind}trusted-ca-file", ())) for kind in ("", "peer-"))
    by_ca, by_name = bool(peers) and not peers & clients, report.options.get(option) == name
    ways = ", ".join(text for is_there, text in ((by_ca, "a separate CA"), (by_name, option)) if is_there)
    yield by_ca or by_name, f"peers are identified by {ways}" if ways else "peers and clients have the same CA, no name"


def version_limits(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
    """Check the limits of TLS versions, which apply to both ports. The default minimum is TLS 1.2."""
    least, most = (report.options.get(f"tls-{end}-version") for end in ("min", "max"))
    yield (least or "TLS1.2") >= f"TLS{planned.tls_min_version}", _stated(report, "tls-min-version")
    yield most in (None, "TLS1.3"), _stated(report, "tls-max-version")


# --- checks on probes -------------------------------------------------------------------


_CLIENTS = {
    ClientKind.OPERATOR: "a client certificate",
    ClientKind.NO_CERTIFICATE: "clients without a certificate",
    ClientKind.FOREIGN_CA: "another CA's certificate",
    ClientKind.NO_TLS: "clients without TLS",
}


def refuses(kind: ClientKind, *ports: Port) -> NodeCheck:
    """Return a check that ports refuse such clients while the client port serves the operator."""

    def check(facts: NodeFacts) -> Iterator[NodeFinding]:
        served = facts.probes[Port.CLIENT, ClientKind.OPERATOR].reply is Reply.SERVED
        for port in ports:
            answer = facts.probes.get((port, kind))
            if answer is None or answer.reply is Reply.UNREACHABLE:
                yield _closed(facts, port)
            elif answer.reply is Reply.SERVED:
                yield Outcome.FAILED, f"the {port} accepts {_CLIENTS[kind]}"
            elif served:
                yield Outcome.PASSED, f"the {port} refuses {_CLIENTS[kind]}"
            else:
                yield Outcome.UNKNOWN, f"the {port} refuses every client, even the operator"

    return check


def _closed(facts: NodeFacts, port: Port) -> NodeFinding:
    """Return the finding for an unreachable port. A peer port that the firewall closes to the operator passes."""
    if port is Port.PEER and is_firewalled(facts.probes):
        return Outcome.PASSED, f"the {port} is closed to this machine"
    return Outcome.UNKNOWN, f"no answer at the {port}"


def serves_planned(facts: NodeFacts) -> Iterator[NodeFinding]:
    """Check that the ports present the baked certificates; etcd's auto-tls would generate others."""
    for port, wanted in ((Port.CLIENT, facts.planned.server), (Port.PEER, facts.planned.peer)):
        answer = facts.probes.get((port, ClientKind.OPERATOR))
        if answer and answer.distrusted:
            yield Outcome.FAILED, f"the {port}: {answer.distrusted}"
        elif port is Port.PEER and answer and answer.reply is Reply.REFUSED and answer.certificate is None:
            continue  # with TLS 1.2 the refusal comes before the certificate can be read: the report is checked instead
        elif answer is None or answer.certificate is None:
            yield _closed(facts, port)
        elif answer.certificate.sha256 != wanted:
            yield Outcome.FAILED, f"the {port} presents a certificate of the cluster's CA, but not the one in the seed"
        else:
            yield Outcome.PASSED, f"the {port} presents the planned certificate"


def refuses_old_versions(facts: NodeFacts) -> Iterator[NodeFinding]:
    """Check that the ports refuse TLS versions below the planned minimum."""
    old = [version for version in ("1.0", "1.1", "1.2") if version < facts.planned.tls_min_version]
    for port in Port:
        spoken = facts.versions.get(port, {})
        accepted = [f"TLS {version}" for version in old if spoken.get(version)]
        if accepted:
            yield Outcome.FAILED, f"the {port} accepts {', '.join(accepted)}"
        elif any(spoken.get(version) is None for version in old):
            yield _closed(facts, port)
        else:
            yield Outcome.PASSED, f"the {port} refuses TLS {', '.join(old)}"


def accepts_tls_1_3(facts: NodeFacts) -> Iterator[NodeFinding]:
    """Check that the ports accept TLS 1.3."""
    for port in Port:
        spoken = facts.versions.get(port, {}).get("1.3")
        if spoken is None:
            yield _closed(facts, port)
        else:
            yield (Outcome.PASSED, f"the {port} accepts TLS 1.3") if spoken else (
                Outcome.FAILED, f"the {port} does not accept TLS 1.3"
            )  # fmt: skip
