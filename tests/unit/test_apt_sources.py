"""The base image's package sources: this machine's apt sources, in both formats."""

from __future__ import annotations

from pathlib import Path

from generator.image.apt_sources import (
    AptSource,
    load_sources,
    mirrors,
    own_release,
    parse_deb822,
    parse_one_line,
)

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
# another one
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb
URIs: https://mirror.test/security
Suites: bookworm-security
Components: main

Types: deb
URIs: https://off.test/debian
Suites: bookworm
Components: main
Enabled: no
"""


def test_a_deb822_stanza_gives_one_source_per_suite() -> None:
    assert [(source.uri, source.suite) for source in parse_deb822(DEB822)] == [
        ("http://mirror.test/debian", "bookworm"),
        ("http://mirror.test/debian", "bookworm-updates"),
        ("http://mirror.test/debian", "bookworm-backports"),
        ("https://mirror.test/security", "bookworm-security"),
    ]


def test_one_line_sources_may_have_options() -> None:
    text = (
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main\n"
        "#deb http://x.test y main\n"
        "deb-src http://s.test z main\n"
    )
    assert list(parse_one_line(text)) == [AptSource(uri="http://mirror.test/debian", suite="bookworm")]


def test_mirrors_replace_the_release_and_omit_backports() -> None:
    assert mirrors(list(parse_deb822(DEB822)), "bookworm", "trixie") == [
        "deb http://mirror.test/debian trixie main",
        "deb http://mirror.test/debian trixie-updates main",
        "deb https://mirror.test/security trixie-security main",
    ]


def test_without_the_release_itself_the_default_mirror_is_used() -> None:
    assert mirrors([AptSource(uri="http://mirror.test/x", suite="stable")], "bookworm", "trixie") == []
    assert mirrors([AptSource(uri="file:/srv/debian", suite="bookworm")], "bookworm", "trixie") == []


def test_sources_in_both_formats_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.test/debian trixie main\n")
    (tmp_path / "sources.list.d" / "two.sources").write_text(DEB822)
    assert [source.uri for source in load_sources(tmp_path)][:2] == [
        "http://one.test/debian",
        "http://mirror.test/debian",
    ]


def test_a_machine_without_sources_is_not_an_error(tmp_path: Path) -> None:
    assert load_sources(tmp_path) == []


def test_the_release_is_read_with_and_without_quotes() -> None:
    assert own_release('ID=debian\nVERSION_CODENAME="trixie"\n') == "trixie"
    assert own_release("VERSION_CODENAME=bookworm\n") == "bookworm"
    assert own_release("ID=arch\n") == ""
