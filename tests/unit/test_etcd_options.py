"""The etcd options and values that a cluster file may set. `assembly/test_etcd_options` runs a real etcd."""

from __future__ import annotations

import re

import pytest

from generator.config.etcd_options import (
    OPTIONS,
    REFUSED,
    RESERVED,
    check_options,
    known_options,
    variable,
    warn_options,
)
from tests.assembly.etcd_values import ACCEPTED, IGNORED, REJECTED

# Values that bake refuses: (series, option, value, text of the message, text of the hint)
RULES = [
    ("3.5", "heartbeat-intervall", 200, "has no option 'heartbeat-intervall'", "heartbeat-interval"),
    ("3.5", "compact-hash-check-time", "1m", "has no option", "experimental-compact-hash-check-time"),
    ("3.5", "experimental-max-learners", 2, "has no option", None),
    ("3.6", "experimental-compact-hash-check-time", "1m", "has no option", "compact-hash-check-time"),
    ("3.6", "enable-v2", False, "is set by bake", "leave it out"),
    ("3.5", "tls-min-version", "TLS1.3", "is set by bake", "etcd.tlsMinVersion"),
    ("3.6", "cipher-suites", "x", "is set by bake", "etcd.cipherSuites"),
    ("3.5", "force-new-cluster", True, "is set by bake", None),
    # options that move data or impersonate a member
    ("3.5", "wal-dir", "/var/lib/etcd/wal", "in which bake looks for a member's data", "etcd.dataDir"),
    ("3.6", "wal-dir", "/var/lib/etcd/wal", "in which bake looks for a member's data", "etcd.dataDir"),
    ("3.5", "experimental-enable-v2v3", "/v2", "v2 API", "leave it out"),
    ("3.6", "discovery-token", "x", "addresses of all nodes", "leave it out"),
    ("3.5", "proxy", "on", "into a proxy", "leave it out"),
    ("3.5", "max-request-bytes", 100, "is not 65536 to", None),
    ("3.6", "max-learners", 0, "is not 1 to", None),
    ("3.5", "experimental-memory-mlock", True, "locked memory", "swap"),
    # options that weaken TLS or open a port
    ("3.5", "listen-metrics-urls", "http://0.0.0.0:2381", "loopback", "client port with a client certificate"),
    ("3.5", "listen-metrics-urls", "https://192.168.20.31:2381", "loopback", None),
    ("3.6", "listen-metrics-urls", "http://127.0.0.1:2381,http://[::]:2381", "loopback", None),
    ("3.5", "listen-metrics-urls", "http://127.0.0.1", "loopback", None),
    ("3.5", "listen-metrics-urls", "http://127.0.0.1:2381,http://127.0.0.1:22", "has the port 22", None),
    ("3.5", "listen-metrics-urls", "http://127.0.0.1:65536", "loopback", None),
    ("3.5", "listen-metrics-urls", "http://127.0.0.999:2381", "loopback", None),
    ("3.5", "listen-metrics-urls", "http://localhost.example:2381", "loopback", None),
    ("3.5", "experimental-peer-skip-client-san-verification", True, "from any address", "leave it out"),
    ("3.6", "peer-skip-client-san-verification", True, "from any address", "leave it out"),
    ("3.5", "client-crl-file", "/etc/shadow", "names a certificate revocation list", "rotate --ca"),
    ("3.5", "peer-crl-file", "/etc/etcd/crl.pem", "names a certificate revocation list", "rotate --ca"),
    ("3.5", "client-cert-allowed-hostname", "a", "lock out", "auth"),
    ("3.5", "peer-cert-allowed-cn", "a", "which certificates", "separate"),
    ("3.5", "auth-token", "jwt,pub-key=/a,priv-key=/b,sign-method=RS256", "no keys to sign", "certificates"),
    ("3.5", "enable-log-rotation", True, "log to the journal", "journald.conf"),
    # wrong types, and text that needs quotes
    ("3.5", "heartbeat-interval", "200", "is not a whole number", None),
    ("3.5", "heartbeat-interval", True, "is not a whole number", None),
    ("3.5", "pre-vote", "yes", "is not true or false", None),
    *(
        ("3.5", "log-level", value, "is not plain text", None)
        for value in (True, "a b", 'a"', "$HOME", "a\\", "a\nETCD_NAME=x", "a" * 513, "")
    ),
]
WARNED = [
    ("3.5", "enable-pprof", True, "/debug/pprof"),
    ("3.5", "log-level", "debug", "/debug/pprof"),
    ("3.5", "cors", "*", "every origin"),
    ("3.5", "tls-max-version", "TLS1.2", "TLS 1.3"),
    ("3.5", "socket-reuse-port", True, "account etcd"),
    ("3.5", "host-whitelist", "a", "no effect"),
    ("3.5", "self-signed-cert-validity", 1, "no effect"),
    ("3.5", "experimental-enable-distributed-tracing", True, "without TLS"),
    ("3.6", "enable-distributed-tracing", True, "without TLS"),
]
SERIES = ("3.5", "3.6")


def complaints(options: dict[str, object], version: str) -> list[tuple[str, str, str | None]]:
    return list(check_options(options, version))


@pytest.mark.parametrize("version", SERIES)
@pytest.mark.parametrize("options", ACCEPTED, ids=str)
def test_values_that_etcd_accepts_are_accepted(version: str, options: dict[str, object]) -> None:
    known = {name: value for name, value in options.items() if name in known_options(version)}
    assert complaints(known, version) == []


@pytest.mark.parametrize("version", SERIES)
@pytest.mark.parametrize("options", [*REJECTED, *IGNORED], ids=str)
def test_values_that_etcd_rejects_or_ignores_are_refused(version: str, options: dict[str, object]) -> None:
    if options.keys() <= known_options(version).keys():
        assert len(complaints(options, version)) == 1


def test_v2_deprecation_depends_on_the_series() -> None:
    assert complaints({"v2-deprecation": "not-yet"}, "3.5") == []
    assert len(complaints({"v2-deprecation": "not-yet"}, "3.6")) == 1


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_is_refused(rule: tuple[str, str, object, str, str | None]) -> None:
    version, name, value, says, remedy = rule
    ((found, message, hint),) = complaints({name: value}, version)
    assert found == name
    assert says in message
    assert (remedy or "") in (hint or "")
    assert hint


@pytest.mark.parametrize("version", SERIES)
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:2381", "https://[::1]:2381", "http://localhost:1024", "http://127.9.9.9:65535,https://[::1]:2381"]
)
def test_metrics_can_be_read_on_the_node(version: str, url: str) -> None:
    assert complaints({"listen-metrics-urls": url}, version) == []


@pytest.mark.parametrize(("version", "name", "value", "says"), WARNED)
def test_a_warning_is_given(version: str, name: str, value: object, says: str) -> None:
    ((found, message, hint),) = warn_options({name: value}, version)
    assert found == name
    assert says in message
    assert hint


@pytest.mark.parametrize("value", [("enable-pprof", False), ("log-level", "info"), ("cors", "https://a:1"), ("x", 1)])
def test_harmless_values_have_no_warning(value: tuple[str, object]) -> None:
    assert list(warn_options(dict([value]), "3.5")) == []


@pytest.mark.parametrize("version", SERIES)
def test_every_option_is_in_one_table_and_has_a_reason(version: str) -> None:
    assert RESERVED.isdisjoint(known_options(version))
    assert RESERVED.isdisjoint(REFUSED)
    assert REFUSED.keys().isdisjoint(known_options(version))
    of_series = [option.name for option in OPTIONS if version in option.series]
    assert len(of_series) == len(set(of_series))
    assert all(re.fullmatch(r"[\w\W]{15,}|has no effect", option.why) for option in OPTIONS)


def test_the_environment_variable_is_that_of_etcd() -> None:
    assert variable("heartbeat-interval") == "ETCD_HEARTBEAT_INTERVAL"
