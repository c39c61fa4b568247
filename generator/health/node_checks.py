"""What can be judged of a node: on what it reports, and on what is seen of it from outside. Pure.

A judge yields a judgement for everything that it looks at; `controls` makes controls of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from generator.config.etcd_values import loopback_urls
from generator.etcd.answers import Guest, Knock, NodeReport, Owned, Port, Reply, is_walled
from generator.plan import NodePlan


class Outcome(StrEnum):
    """`UNKNOWN`: a node did not report, or could not be reached. It is as little as a failure is."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "not reported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What the baked files say: digests of certificates, the lowest TLS version, and the option (name, value) by which
    etcd knows peers."""

    server: str
    peer: str
    authorities: frozenset[str]
    peer_authorities: frozenset[str]
    tls_min_version: str
    peer_check: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Everything that is known of a node. `silence` says why there is no report."""

    node: NodePlan
    planned: Planned
    report: NodeReport | None
    silence: str
    knocks: Mapping[tuple[Port, Guest], Knock]
    versions: Mapping[Port, Mapping[str, bool | None]] = field(default_factory=dict)  # which TLS versions are spoken


Judgement = tuple[Outcome, str]
Judge = Callable[[NodeFacts], Iterator[Judgement]]


# --- what a node reports ------------------------------------------------------------


Reported = Callable[[NodeReport, Planned], Iterator[tuple[bool, str]]]


def reported(look: Reported) -> Judge:
    """A judgement on a node's report. An etcd that runs from a file of its own ignores flags and variables."""

    def judge(facts: NodeFacts) -> Iterator[Judgement]:
        if facts.report is None:
            yield Outcome.UNKNOWN, facts.silence
        elif file := facts.report.options.get("config-file"):
            yield Outcome.UNKNOWN, f"etcd runs with --config-file {file}, which is not looked at"
        else:
            for good, text in look(facts.report, facts.planned):
                yield Outcome.PASSED if good else Outcome.FAILED, text

    return judge


def is_true(option: str) -> Judge:
    return reported(lambda report, _: iter([(_flag(report, option), _stated(report, option))]))


def is_not_true(option: str) -> Judge:
    return reported(lambda report, _: iter([(not _flag(report, option), _stated(report, option))]))


def _stated(report: NodeReport, option: str) -> str:
    return f"{option}={report.options[option]}" if option in report.options else f"{option} is not set"


def _flag(report: NodeReport, option: str) -> bool:
    """As Go reads a boolean."""
    return report.options.get(option) in ("1", "t", "T", "true", "TRUE", "True")


def are_set(*options: str) -> Judge:
    def look(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
        missing = [option for option in options if not report.options.get(option)]
        yield not missing, f"{', '.join(missing or options)} {'not set' if missing else 'set'}"

    return reported(look)


Pick = Callable[[NodeReport], Iterable[str]]


def paths(*fixed: str) -> Pick:
    return lambda _: fixed


def used(options: Iterable[str], *more: str) -> Pick:
    """The files that these options name, and some that bake wrote."""
    return lambda report: dict.fromkeys([*(report.options.get(option, "") for option in options), *more])


def mode_within(limit: int, pick: Pick) -> Judge:
    """Nobody may do more with a file than this mode says. An ACL's mask shows as the group's part of it."""
    return reported(
        lambda report, _: _files(report, pick, lambda one: f"{one.mode:03o}", lambda one: not one.mode & ~limit)
    )


def owned_by(pick: Pick, *, etcd: bool | None) -> Judge:
    """Files of etcd's user, of root, or (None) of either; the group likewise."""

    def look(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
        names = {report.user} if etcd else {"root"} if etcd is False else {"root", report.user}
        return _files(report, pick, lambda one: f"{one.owner}:{one.group}", lambda one: {one.owner, one.group} <= names)

    return reported(look)


def _files(
    report: NodeReport, pick: Pick, word: Callable[[Owned], str], is_good: Callable[[Owned], bool]
) -> Iterator[tuple[bool, str]]:
    """What is said of some files: the bad and the missing ones by name, good ones together."""
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


def trusts(option: str) -> Judge:
    def look(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
        own = planned.peer_authorities if option.startswith("peer-") else planned.authorities
        strangers = set(report.certificates.get(option, ())) - own
        known = set(report.certificates.get(option, ())) & own
        if strangers:
            yield False, f"{option} trusts {len(strangers)} other CA"
        else:
            yield bool(known), f"{option} is the cluster's own CA" if known else f"{option} has no CA of the cluster"

    return reported(look)


def runs_as_itself(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
    yield report.user != "root", f"etcd runs as {report.user}"


def listens_with_tls(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
    """The firewall knows nothing of a port for metrics, so only the node itself may reach one."""
    urls = [url for name in ("listen-client-urls", "listen-peer-urls") for url in _urls(report, name)]
    plain = [url for url in urls if not url.startswith(("https://", "unixs://"))]
    metrics = [url for url in _urls(report, "listen-metrics-urls") if loopback_urls(url)]
    bad = [*plain, *metrics, *_urls(report, "listen-client-http-urls")]
    yield bool(urls) and not bad, ", ".join(bad) or f"{'every' if urls else 'no'} listen URL is https"


def _urls(report: NodeReport, option: str) -> list[str]:
    return [url for url in report.options.get(option, "").split(",") if url]


def serves_no_profiles(report: NodeReport, _: Planned) -> Iterator[tuple[bool, str]]:
    """etcd answers /debug/pprof at the client port, whatever a user may do, with either of these options."""
    debug = report.options.get("log-level") == "debug"
    text = _stated(report, "log-level" if debug else "enable-pprof")
    yield not debug and not _flag(report, "enable-pprof"), text


def peer_file_is_planned(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
    """The first certificate of a file is the one that is shown."""
    shown = report.certificates.get("peer-cert-file", ("",))[:1]
    good = shown == (planned.peer,)
    yield good, f"peer-cert-file holds {'the planned' if good else 'another'} certificate"


def knows_peers(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
    """By a CA that issues no client's certificate, or by a name that no client's certificate has."""
    option, name = planned.peer_check
    clients, peers = (set(report.certificates.get(f"{kind}trusted-ca-file", ())) for kind in ("", "peer-"))
    by_ca, by_name = bool(peers) and not peers & clients, report.options.get(option) == name
    ways = ", ".join(text for is_there, text in ((by_ca, "a separate CA"), (by_name, option)) if is_there)
    yield by_ca or by_name, f"peers are known by {ways}" if ways else "peers and clients have the same CA, and no name"


def version_limits(report: NodeReport, planned: Planned) -> Iterator[tuple[bool, str]]:
    """Both ports have these options; the peer port may be closed to us. Not set, the lower one is TLS 1.2."""
    least, most = (report.options.get(f"tls-{end}-version") for end in ("min", "max"))
    yield (least or "TLS1.2") >= f"TLS{planned.tls_min_version}", _stated(report, "tls-min-version")
    yield most in (None, "TLS1.3"), _stated(report, "tls-max-version")


# --- what is seen from outside --------------------------------------------------------


_WHO = {
    Guest.OPERATOR: "a client's certificate",
    Guest.NOBODY: "whoever has no certificate",
    Guest.FOREIGN: "another CA's certificate",
    Guest.PLAIN: "whoever speaks no TLS",
}


def refuses(guest: Guest, *ports: Port) -> Judge:
    """Somebody who must not be let in was not, where the operator is."""

    def judge(facts: NodeFacts) -> Iterator[Judgement]:
        served = facts.knocks[Port.CLIENT, Guest.OPERATOR].reply is Reply.SERVED
        for port in ports:
            answer = facts.knocks.get((port, guest))
            if answer is None or answer.reply is Reply.UNREACHABLE:
                yield _closed(facts, port)
            elif answer.reply is Reply.SERVED:
                yield Outcome.FAILED, f"the {port} lets in {_WHO[guest]}"
            elif served:
                yield Outcome.PASSED, f"the {port} refuses {_WHO[guest]}"
            else:
                yield Outcome.UNKNOWN, f"the {port} serves nobody, the operator neither"

    return judge


def _closed(facts: NodeFacts, port: Port) -> Judgement:
    """The firewall may keep the operator's machine from the peer port: then it lets nobody in there, which is well."""
    if port is Port.PEER and is_walled(facts.knocks):
        return Outcome.PASSED, f"the {port} is closed to us"
    return Outcome.UNKNOWN, f"no answer at the {port}"


def serves_planned(facts: NodeFacts) -> Iterator[Judgement]:
    """The certificates that are shown are those that were baked; etcd's own auto-tls would make others."""
    for port, wanted in ((Port.CLIENT, facts.planned.server), (Port.PEER, facts.planned.peer)):
        answer = facts.knocks.get((port, Guest.OPERATOR))
        if answer and answer.distrusted:
            yield Outcome.FAILED, f"the {port}: {answer.distrusted}"
        elif port is Port.PEER and answer and answer.reply is Reply.REFUSED and answer.certificate is None:
            continue  # with TLS 1.2 it refuses the operator before its certificate can be read: the report decides
        elif answer is None or answer.certificate is None:
            yield _closed(facts, port)
        elif answer.certificate.sha256 != wanted:
            yield Outcome.FAILED, f"the {port} shows a certificate of our CA that is not the one in the node's seed"
        else:
            yield Outcome.PASSED, f"the {port} shows the planned certificate"


def speaks_no_old_version(facts: NodeFacts) -> Iterator[Judgement]:
    old = [version for version in ("1.0", "1.1", "1.2") if version < facts.planned.tls_min_version]
    for port in Port:
        spoken = facts.versions.get(port, {})
        accepted = [f"TLS {version}" for version in old if spoken.get(version)]
        if accepted:
            yield Outcome.FAILED, f"the {port} speaks {', '.join(accepted)}"
        elif any(spoken.get(version) is None for version in old):
            yield _closed(facts, port)
        else:
            yield Outcome.PASSED, f"the {port} refuses TLS {', '.join(old)}"


def speaks_newest_version(facts: NodeFacts) -> Iterator[Judgement]:
    for port in Port:
        spoken = facts.versions.get(port, {}).get("1.3")
        if spoken is None:
            yield _closed(facts, port)
        else:
            yield (Outcome.PASSED, f"the {port} speaks TLS 1.3") if spoken else (
                Outcome.FAILED, f"the {port} does not speak TLS 1.3"
            )  # fmt: skip
