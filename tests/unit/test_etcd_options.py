"""Which etcd options a user may set. A typing error would be only a warning to etcd."""

from __future__ import annotations

import pytest

from generator.etcd_options import RESERVED, check_options, known_options, variable

ACCEPTED = [
    ("3.5", "heartbeat-interval", 200),
    ("3.5", "auto-compaction-retention", "1h"),
    ("3.5", "auto-compaction-retention", 1),
    ("3.5", "pre-vote", False),
    ("3.5", "experimental-initial-corrupt-check", True),
    ("3.5", "experimental-compact-hash-check-time", "1m"),
    ("3.6", "compact-hash-check-time", "1m"),
    ("3.6", "feature-gates", "InitialCorruptCheck=true"),
    ("3.6", "max-learners", 2),
    ("3.5", "cors", "https://[fd00::1]:8080,https://*.example.test"),
]
REFUSED = [
    ("3.5", "heartbeat-intervall", 200, "has no option 'heartbeat-intervall'", "heartbeat-interval"),
    ("3.5", "compact-hash-check-time", "1m", "has no option", "experimental-compact-hash-check-time"),
    ("3.5", "experimental-max-learners", 2, "has no option", None),
    ("3.6", "experimental-compact-hash-check-time", "1m", "has no option", "compact-hash-check-time"),
    ("3.6", "enable-v2", False, "is set by bake", "leave it out"),
    ("3.5", "tls-min-version", "TLS1.3", "is set by bake", "etcd.tlsMinVersion"),
    ("3.6", "cipher-suites", "x", "is set by bake", "etcd.cipherSuites"),
    ("3.5", "force-new-cluster", True, "is set by bake", None),
    ("3.5", "heartbeat-interval", "200", "is not a whole number", None),
    ("3.5", "heartbeat-interval", True, "is not a whole number", None),
    ("3.5", "pre-vote", "yes", "is not true or false", None),
    ("3.5", "log-level", True, "is not plain text", None),
    ("3.5", "log-level", "a b", "is not plain text", None),
    ("3.5", "log-level", 'a"', "is not plain text", None),
    ("3.5", "log-level", "$HOME", "is not plain text", None),
    ("3.5", "log-level", "a\\", "is not plain text", None),
    ("3.5", "log-level", "a\nETCD_NAME=x", "is not plain text", None),
    ("3.5", "log-level", "a" * 513, "is not plain text", None),
    ("3.5", "log-level", "", "is not plain text", None),
]


@pytest.mark.parametrize(("version", "name", "value"), ACCEPTED)
def test_is_accepted(version: str, name: str, value: object) -> None:
    assert list(check_options({name: value}, version)) == []


@pytest.mark.parametrize(("version", "name", "value", "rule", "remedy"), REFUSED)
def test_is_refused(version: str, name: str, value: object, rule: str, remedy: str | None) -> None:
    ((found, message, hint),) = check_options({name: value}, version)
    assert found == name
    assert rule in message
    assert remedy is None or remedy in (hint or "")


@pytest.mark.parametrize("version", ["3.5", "3.6"])
def test_what_bake_sets_is_never_offered(version: str) -> None:
    assert RESERVED.isdisjoint(known_options(version))


def test_the_variable_is_etcds() -> None:
    assert variable("heartbeat-interval") == "ETCD_HEARTBEAT_INTERVAL"
