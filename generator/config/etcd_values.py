"""The formats of etcd's option values.

A format is a function that checks a value. For a valid value, a format returns None. For an invalid value, a format
returns the reason why etcd would refuse or ignore the value.

Most values are checked by etcd only at its start. For some wrong values of `metrics` and `bcrypt-cost`, etcd uses the
default without a message. The formats come from the source code of etcd, of Go (time.ParseDuration) and of zap.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, NamedTuple

from generator.config.fields import Schema


class Format(NamedTuple):
    """Return None for a valid value, else the reason. `schema`: a JSON Schema that accepts every valid value."""

    function: Callable[[object], str | None]
    schema: Schema

    def __call__(self, value: object) -> str | None:
        return self.function(value)


def _accepts(**schema: Any) -> Callable[[Callable[[object], str | None]], Format]:
    return lambda function: Format(function, schema)


INT64 = 2**63 - 1
_LEAST_QUOTA = 16 << 20
_TEXT = re.compile(r"[A-Za-z0-9._:/,*=@{}\[\]+-]{1,512}")
_DURATION = re.compile(r"((\d+(\.\d*)?|\.\d+)(ns|us|ms|s|m|h))+")
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_ORIGIN = re.compile(r"(?i:https?)://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.*_-]+):[0-9]{1,5}")
_METRICS_URL = re.compile(r"https?://(\[[0-9A-Fa-f:]+\]|[0-9.]+|localhost):([0-9]{1,5})")
# feature gates of etcd 3.6 (server/features/etcd_features.go)
_GATES = """
    AllAlpha AllBeta CompactHashCheck InitialCorruptCheck LeaseCheckpoint LeaseCheckpointPersist SetMemberLocalAddr
    StopGRPCServiceOnDefrag TxnModeWriteWithSharedBuffer
""".split()  # noqa: SIM905


@_accepts(type="boolean")
def flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "is not true or false"


def whole(low: int = 0, high: int = INT64) -> Format:
    """Return the format of a whole number that is at least `low` and at most `high`."""

    @_accepts(type="integer", minimum=low, **({"maximum": high} if high < INT64 else {}))
    def check(value: object) -> str | None:
        if type(value) is not int:
            return "is not a whole number"
        return None if low <= value <= high else f"is not {low} to {high}"

    return check


_TEXT_SCHEMA: Schema = {"type": ["string", "number"], "pattern": f"^({_TEXT.pattern})$"}


@_accepts(**_TEXT_SCHEMA)
def text(value: object) -> str | None:
    """Check for text of at most 512 characters that needs no quotes in an env file."""
    fits = not isinstance(value, bool) and _TEXT.fullmatch(str(value))
    return None if fits else "is not plain text of 1 to 512 characters"


def word(*words: str, any_case: bool = False) -> Format:
    """Return a format that accepts only the values in `words`."""

    @_accepts(type="string", **({} if any_case else {"enum": list(words)}))
    def check(value: object) -> str | None:
        found = str(value).lower() if any_case else str(value)
        return text(value) or (None if found in words else f"is not one of {', '.join(words)}")

    return check


def duration(*, zero: bool = True) -> Format:
    """Return the format of a duration in Go's notation. A negative duration is invalid."""

    @_accepts(type=["string", "integer"], pattern=f"^(0|{_DURATION.pattern})$")
    def check(value: object) -> str | None:
        nanoseconds = _nanoseconds(str(value))
        if text(value) or nanoseconds is None or nanoseconds > INT64:
            return "is not a duration such as 500ms, 10s or 1h30m"
        return None if zero or nanoseconds else "is not longer than 0"

    return check


def _nanoseconds(written: str) -> int | None:
    if written == "0":
        return 0
    if not _DURATION.fullmatch(written):
        return None
    parts = re.findall(r"([\d.]+)(ns|us|ms|s|m|h)", written)
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))


@_accepts(type="integer")
def quota(value: object) -> str | None:
    """Check the maximum database size in bytes. If the maximum is very small, etcd starts but refuses every write."""
    if rule := whole(-INT64)(value):
        return rule
    fits = int(str(value)) <= 0 or int(str(value)) >= _LEAST_QUOTA
    return None if fits else f"is less than {_LEAST_QUOTA}; 0 means 2 GiB, and a negative number means no limit"


@_accepts(type=["integer", "string"], pattern=f"^([0-9]+|{_DURATION.pattern})$")
def retention(value: object) -> str | None:
    """Check the option `auto-compaction-retention`, which is a duration or a whole number."""
    if type(value) is int or str(value).isdecimal():
        return whole()(int(str(value)))
    nanoseconds = _nanoseconds(str(value))
    if duration()(value) or nanoseconds is None:
        return "is neither a whole number nor a duration such as 1h"
    return "is shorter than 1s" if 0 < nanoseconds < _UNITS["s"] else None  # etcd panics if the retention is too short


@_accepts(type="string")
def origins(value: object) -> str | None:
    """Check the origins in the option `cors`. Each origin needs an explicit port, such as `:443`."""
    urls = str(value).split(",")
    fits = value == "*" or all(_ORIGIN.fullmatch(url) for url in urls)
    return text(value) or (None if fits else "is neither '*' nor a list of origins such as https://ui.example:443")


@_accepts(type="string")
def loopback_urls(value: object) -> str | None:
    """Check that every URL has a loopback address."""
    fits = text(value) is None and all(_is_loopback(url) for url in str(value).split(","))
    return None if fits else "is not a list of loopback URLs such as http://127.0.0.1:2381"


def _is_loopback(url: str) -> bool:
    found = _METRICS_URL.fullmatch(url)
    if not found or not 1 <= int(found[2]) <= 65535:
        return False
    try:
        return found[1] == "localhost" or ip_address(found[1].strip("[]")).is_loopback
    except ValueError:
        return False


@_accepts(type="string")
def metrics_urls(value: object) -> str | None:
    """Check `listen-metrics-urls`. Only root may listen at a port below 1024 (ip(7)), and etcd is not root."""
    low = [port for url in str(value).split(",") if (port := url.rpartition(":")[2]).isdecimal() and int(port) < 1024]
    return loopback_urls(value) or (f"has the port {low[0]}; etcd may listen only at 1024 or above" if low else None)


@_accepts(type="string")
def gates(value: object) -> str | None:
    """Check feature gates of etcd 3.6, such as `AllAlpha=true,AllBeta=false`."""
    if text(value):
        return text(value)
    for item in str(value).split(","):
        name, _, switch = item.partition("=")
        if name not in _GATES:
            return f"has the gate {name!r}, which is not one of {', '.join(_GATES)}"
        if switch not in ("true", "false"):
            return f"does not set {name} to true or false"
    return None


@_accepts(type="string", enum=["simple"])
def token_provider(value: object) -> str | None:
    """Check the option `auth-token`. The token type `jwt` is invalid, because the nodes have no keys to sign tokens."""
    return None if value == "simple" else "is not the value 'simple': the nodes have no keys to sign tokens"
