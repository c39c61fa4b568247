"""The checks of `bake audit` for one node, from the node's audit report and from probes of its ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from generator.config.etcd_values import loopback_urls
from generator.etcd.answers import ClientKind, FilePermissions, NodeReport, Port, Probe, Reply, is_firewalled
from generator.health.check import Finding, Result
from generator.plan import NodePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The planned certificates and TLS settings of a node. Each certificate is identified by its SHA-256 digest.

    `peer_check`: the name and value of the etcd option by which etcd recognizes peer certificates.
    """

    server: str
    peer: str
    authorities: frozenset[str]
    peer_authorities: frozenset[str]
    tls_min_version: str
    peer_check: tuple[str, str] = ("", "")


class NotReportedError(Exception):
    """A node has no audit report, or the report does not show etcd's options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The audit report and the probes of a node. `no_report`: the reason why the node has no report."""

    node: NodePlan
    planned: Planned
    report: NodeReport | None
    no_report: str
    probes: Mapping[tuple[Port, ClientKind], Probe]
    # For each port and TLS version: whether the port accepts the version, or None if the port does not answer.
    versions: Mapping[Port, Mapping[str, bool | None]] = field(default_factory=dict)

    def usable_report(self) -> NodeReport:
        """Return the node's report. Raise NotReportedError if the node has no report that shows etcd's options.

        If etcd runs with --config-file, etcd ignores the flags and environment variables that the report lists.
        """
        if self.report is None:
            raise NotReportedError(self.no_report)
        if file := self.report.options.get("config-file"):
            raise NotReportedError(f"etcd runs with --config-file {file}, which is not checked")
        return self.report

    def finding(self, result: Result, text: str) -> Finding:
        return Finding(self.node.name, result, text)

    def ok_if(self, condition: bool, text: str) -> Finding:
        return self.finding(Result.OK if condition else Result.FAILED, text)


# --- checks of a node's report, which raise NotReportedError ----------------------------


def option_is_true(facts: NodeFacts, option: str) -> Iterator[Finding]:
    """Check that an etcd option is true."""
    report = facts.usable_report()
    yield facts.ok_if(_is_true(report, option), _option_text(report, option))


def option_is_not_true(facts: NodeFacts, option: str) -> Iterator[Finding]:
    """Check that an etcd option is false or not set."""
    report = facts.usable_report()
    yield facts.ok_if(not _is_true(report, option), _option_text(report, option))


def _option_text(report: NodeReport, option: str) -> str:
    return f"{option}={report.options[option]}" if option in report.options else f"{option} is not set"


def _is_true(report: NodeReport, option: str) -> bool:
    """Return whether an etcd option is true. etcd accepts the boolean words of Go's strconv.ParseBool."""
    return report.options.get(option) in ("1", "t", "T", "true", "TRUE", "True")


def options_are_set(facts: NodeFacts, options: Iterable[str]) -> Iterator[Finding]:
    """Check that the etcd options in `options` are set."""
    report = facts.usable_report()
    missing = [option for option in options if not report.options.get(option)]
    yield facts.ok_if(not missing, f"{', '.join(missing or options)} {'not set' if missing else 'set'}")


def mode_within(
    facts: NodeFacts, limit: int, *, options: Iterable[str] = (), paths: Iterable[str] = ()
) -> Iterator[Finding]:
    """Check that files have no permission bits outside `limit`.

    `paths`: paths of files. `options`: etcd options whose values are paths of files. An ACL needs no separate check,
    because an ACL can give no permission that the file's group bits lack.
    """
    yield _check_files(facts, options, paths, lambda file: f"{file.mode:03o}", lambda file: not file.mode & ~limit)


def owned_by(
    facts: NodeFacts, *, root: bool = False, etcd: bool = False, options: Iterable[str] = (), paths: Iterable[str] = ()
) -> Iterator[Finding]:
    """Check that files belong to an allowed user.

    `root`: root is allowed. `etcd`: the user that runs etcd is allowed. `options` and `paths`: see `mode_within`.
    """
    users = {name for name, allowed in (("root", root), (facts.usable_report().user, etcd)) if allowed}
    yield _check_files(
        facts, options, paths, lambda file: f"{file.owner}:{file.group}", lambda file: {file.owner, file.group} <= users
    )


def _check_files(
    facts: NodeFacts, options: Iterable[str], paths: Iterable[str],
    show: Callable[[FilePermissions], str], is_good: Callable[[FilePermissions], bool],
) -> Finding:  # fmt: skip
    """Return one finding for all files. The finding lists the files that are missing or fail the check."""
    report = facts.usable_report()
    wanted = dict.fromkeys([*(report.options.get(option, "") for option in options), *paths])
    found = {path: report.files[path] for path in wanted if path in report.files}
    bad: dict[str, list[str]] = {}
    for path, file in found.items():
        if not is_good(file):
            bad.setdefault(show(file), []).append(path)
    if missing := [path or "(not set)" for path in wanted if path not in found]:
        bad["not found"] = missing
    if bad:
        return facts.finding(Result.FAILED, ", ".join(f"{text}: {' '.join(of)}" for text, of in bad.items()))
    return facts.finding(Result.OK, ", ".join(sorted(set(map(show, found.values())))))


def trusts_only_own_ca(facts: NodeFacts, option: str) -> Iterator[Finding]:
    """Check that a trusted CA file contains the cluster's CA and no other CA."""
    own = facts.planned.peer_authorities if option.startswith("peer-") else facts.planned.authorities
    trusted = set(facts.usable_report().certificates.get(option, ()))
    if trusted - own:
        yield facts.finding(Result.FAILED, f"{option} has a certificate of another CA")
    elif trusted:
        yield facts.finding(Result.OK, f"{option} has only the cluster's CA")
    else:
        yield facts.finding(Result.FAILED, f"{option} does not have the cluster's CA")


def runs_unprivileged(facts: NodeFacts) -> Iterator[Finding]:
    """Check that etcd does not run as root."""
    user = facts.usable_report().user
    yield facts.ok_if(user != "root", f"etcd runs as {user}")


def listens_with_tls(facts: NodeFacts) -> Iterator[Finding]:
    """Check that listen URLs use TLS. Metrics URLs must have loopback addresses, because no firewall protects them."""
    report = facts.usable_report()
    urls = [url for name in ("listen-client-urls", "listen-peer-urls") for url in _urls(report, name)]
    plain = [url for url in urls if not url.startswith(("https://", "unixs://"))]
    metrics = [url for url in _urls(report, "listen-metrics-urls") if loopback_urls(url)]
    bad = [*plain, *metrics, *_urls(report, "listen-client-http-urls")]
    yield facts.ok_if(bool(urls) and not bad, ", ".join(bad) or f"{'every' if urls else 'no'} listen URL is https")


def _urls(report: NodeReport, option: str) -> list[str]:
    return [url for url in report.options.get(option, "").split(",") if url]


def serves_no_profiles(facts: NodeFacts) -> Iterator[Finding]:
    """Check that pprof is off.

    With log-level=debug or enable-pprof, every client with a certificate can read memory profiles.
    """
    report = facts.usable_report()
    debug = report.options.get("log-level") == "debug"
    text = _option_text(report, "log-level" if debug else "enable-pprof")
    yield facts.ok_if(not debug and not _is_true(report, "enable-pprof"), text)


def peer_file_is_planned(facts: NodeFacts) -> Iterator[Finding]:
    """Check that peer-cert-file begins with the certificate from the node's seed.

    etcd presents the first certificate in the file.
    """
    first = facts.usable_report().certificates.get("peer-cert-file", ("",))[:1]
    good = first == (facts.planned.peer,)
    yield facts.ok_if(good, f"peer-cert-file {'has' if good else 'does not have'} the certificate from the seed")


def identifies_peers(facts: NodeFacts) -> Iterator[Finding]:
    """Check that etcd can tell peers from clients: by the name in peer certificates, or by a CA that only peers use."""
    report, (option, name) = facts.usable_report(), facts.planned.peer_check
    clients, peers = (set(report.certificates.get(f"{kind}trusted-ca-file", ())) for kind in ("", "peer-"))
    by_ca, by_name = bool(peers) and not peers & clients, report.options.get(option) == name
    ways = ", ".join(text for is_there, text in ((by_ca, "a separate CA"), (by_name, option)) if is_there)
    text = "peers and clients share a CA, and etcd does not check peers' names"
    if ways:
        text = f"peers are identified by {ways}"
    yield facts.ok_if(by_ca or by_name, text)


def version_limits(facts: NodeFacts) -> Iterator[Finding]:
    """Check etcd's minimum and maximum TLS version. Without the option tls-min-version, the minimum is TLS 1.2."""
    report = facts.usable_report()
    least, most = (report.options.get(f"tls-{end}-version") for end in ("min", "max"))
    least_is_good = (least or "TLS1.2") >= f"TLS{facts.planned.tls_min_version}"
    yield facts.ok_if(least_is_good, _option_text(report, "tls-min-version"))
    yield facts.ok_if(most in (None, "TLS1.3"), _option_text(report, "tls-max-version"))


# --- checks of probes -------------------------------------------------------------------


_CLIENTS = {
    ClientKind.OPERATOR: "a client certificate",
    ClientKind.NO_CERTIFICATE: "clients without a certificate",
    ClientKind.FOREIGN_CA: "another CA's certificate",
    ClientKind.NO_TLS: "clients without TLS",
}


def refuses(facts: NodeFacts, kind: ClientKind, *, ports: Iterable[Port] = Port) -> Iterator[Finding]:
    """Check that a node's ports refuse a kind of client.

    If the client port refuses even the operator, the result is `SKIPPED`.
    """
    served = facts.probes[Port.CLIENT, ClientKind.OPERATOR].reply is Reply.SERVED
    for port in ports:
        answer = facts.probes.get((port, kind))
        if answer is None or answer.reply is Reply.UNREACHABLE:
            yield _closed(facts, port)
        elif answer.reply is Reply.SERVED:
            yield facts.finding(Result.FAILED, f"the {port} accepts {_CLIENTS[kind]}")
        elif served:
            yield facts.finding(Result.OK, f"the {port} refuses {_CLIENTS[kind]}")
        else:
            yield facts.finding(Result.SKIPPED, f"the {port} refuses every client, even the operator's certificate")


def _closed(facts: NodeFacts, port: Port) -> Finding:
    """Return the finding for an unreachable port. A peer port is ok if a firewall closes it to this machine."""
    if port is Port.PEER and is_firewalled(facts.probes):
        return facts.finding(Result.OK, f"the {port} is closed to this machine")
    return facts.finding(Result.SKIPPED, f"no answer at the {port}")


def presents_planned(facts: NodeFacts) -> Iterator[Finding]:
    """Check that the ports present the certificates from the node's seed."""
    for port, wanted in ((Port.CLIENT, facts.planned.server), (Port.PEER, facts.planned.peer)):
        answer = facts.probes.get((port, ClientKind.OPERATOR))
        if answer and answer.distrusted:
            yield facts.finding(Result.FAILED, f"the {port}: {answer.distrusted}")
        elif port is Port.PEER and answer and answer.reply is Reply.REFUSED and answer.certificate is None:
            continue  # ssl has no certificate after a failed handshake; peer_file_is_planned checks the file
        elif answer is None or answer.certificate is None:
            yield _closed(facts, port)
        elif answer.certificate.sha256 != wanted:
            text = f"the {port} presents a certificate of the cluster's CA, but not the one in the seed"
            yield facts.finding(Result.FAILED, text)
        else:
            yield facts.finding(Result.OK, f"the {port} presents the certificate from the seed")


def refuses_old_versions(facts: NodeFacts) -> Iterator[Finding]:
    """Check that the ports refuse TLS versions below the cluster's minimum."""
    old = [version for version in ("1.0", "1.1", "1.2") if version < facts.planned.tls_min_version]
    for port in Port:
        spoken = facts.versions.get(port, {})
        accepted = [f"TLS {version}" for version in old if spoken.get(version)]
        if accepted:
            yield facts.finding(Result.FAILED, f"the {port} accepts {', '.join(accepted)}")
        elif any(spoken.get(version) is None for version in old):
            yield _closed(facts, port)
        else:
            yield facts.finding(Result.OK, f"the {port} refuses TLS {', '.join(old)}")


def accepts_tls_1_3(facts: NodeFacts) -> Iterator[Finding]:
    """Check that the ports accept TLS 1.3."""
    for port in Port:
        spoken = facts.versions.get(port, {}).get("1.3")
        if spoken is None:
            yield _closed(facts, port)
        else:
            yield facts.ok_if(spoken, f"the {port} {'accepts' if spoken else 'does not accept'} TLS 1.3")
