"""Read this machine's apt sources and convert them to mmdebstrap's mirror lines for another Debian release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Suffixes in the names of Debian's suites, such as `-updates` in `trixie-updates`.
_PARTS = ("", "-updates", "-security")


@dataclass(frozen=True, kw_only=True)
class AptSource:
    """A source of binary packages: a URI and a suite."""

    uri: str
    suite: str


def parse_one_line(text: str) -> Iterator[AptSource]:
    """Parse the one-line format of sources.list(5): `deb [options] uri suite components...`."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s+\S", line)
        if match:
            yield AptSource(uri=match[1], suite=match[2])


def parse_deb822(text: str) -> Iterator[AptSource]:
    """Parse the deb822 format of sources.list(5): stanzas of `Key: value` with continuation lines."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        joined = re.sub(r"\n[ \t]+", " ", stanza)
        pairs = (line.partition(":") for line in joined.splitlines())
        fields = {key.strip().lower(): value.split() for key, _, value in pairs}
        if "deb" not in fields.get("types", []) or fields.get("enabled") in (["no"], ["false"]):
            continue
        for uri in fields.get("uris", []):
            yield from (AptSource(uri=uri, suite=suite) for suite in fields.get("suites", []))


def load_sources(etc_apt: Path) -> list[AptSource]:
    """Return every source that apt reads on this machine, in apt's order."""
    parts = etc_apt / "sources.list.d"
    found: list[AptSource] = []
    for path in [etc_apt / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            found += parse_one_line(path.read_text(errors="replace"))
    for path in sorted(parts.glob("*.sources")):
        found += parse_deb822(path.read_text(errors="replace"))
    return found


def mirrors(sources: list[AptSource], own_release: str, release: str) -> list[str]:
    """Return mmdebstrap's mirror lines for `release`, made from this machine's sources.

    If the list is empty, mmdebstrap uses its default mirror.
    """
    wanted = {own_release + part: release + part for part in _PARTS}
    lines = [
        f"deb {source.uri} {wanted[source.suite]} main"
        for source in sources
        if source.suite in wanted and source.uri.startswith(("http://", "https://"))
    ]
    # mmdebstrap cannot use the updates and security suites without the suite of the release.
    return list(dict.fromkeys(lines)) if any(f" {release} main" in line for line in lines) else []


def own_release(os_release: str) -> str:
    """Return VERSION_CODENAME of os-release(5), or an empty string."""
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', os_release, re.MULTILINE)
    return match[1] if match else ""
