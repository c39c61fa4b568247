"""The pages for people: every link resolves, every page is listed, and lines fit on a screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "profiles" / "README.md", *sorted(DOCS.rglob("*.md"))]
WIDTH = 100  # characters in a line of prose

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_UNBROKEN = re.compile(r"\|| {4}|(- )?\[[^\]]*\]\(\S+\)$")  # table rows, code, and lines with only a link
_OUTSIDE = re.compile(r"[a-z][a-z+.-]*:")


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of links within the repository."""
    return [target for target in _LINK.findall(_CODE.sub("", prose(text))) if not _OUTSIDE.match(target)]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 1
        while slug in found:
            slug, number = f"{slug.removesuffix(f'-{number - 1}')}-{number}", number + 1
        found.add(slug)
    return frozenset(found)


def broken(page: Path, text: str) -> Iterator[str]:
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (page.parent / unquote(path)).resolve() if path else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_resolves(page: Path) -> None:
    assert list(broken(page, page.read_text())) == []


def test_a_broken_link_is_found() -> None:
    text = "[a](README.md) [b](README.md#none) [c](none.md) [d](#none) `[e](none)` [f](https://example.org/none)"
    assert list(broken(ROOT / "README.md", text)) == ["README.md#none", "none.md", "#none"]


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text())}
    assert [str(page) for page in sorted(DOCS.rglob("*.md")) if page != index and page.resolve() not in listed] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_fit_on_a_screen(page: Path) -> None:
    lines = enumerate(prose(page.read_text()).splitlines(), start=1)
    assert [(number, line) for number, line in lines if len(line) > WIDTH and not _UNBROKEN.match(line)] == []


def broken_rows(text: str) -> list[str]:
    """Return the lines that would end or break a table: a row that continues on the next line."""
    lines = prose(text).splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.endswith("|")]
    return rows + [after for row, after in pairwise(lines) if row.startswith("|") and after and after[0] not in "|<"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_row_of_a_table_is_one_line(page: Path) -> None:
    assert broken_rows(page.read_text()) == []


def test_a_broken_row_is_found() -> None:
    assert broken_rows("| a | b |\n| --- | --- |\n| c |\n d |\n") == [" d |"]
