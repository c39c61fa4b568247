"""The website of the documentation: it builds without a warning, loads nothing from other servers, and has search."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from playwright.sync_api import Browser

from tests.browser import WIDTHS, chromium, opened, overflow, wide_tables

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MKDOCS = ROOT / "build/docs/bin/mkdocs"
LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], str]) -> Path:
    """Build the website with the MkDocs that `scripts/setup --dev` installs."""
    tool(str(MKDOCS))
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([ROOT / "scripts/site", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tool: Callable[[str], str]) -> Iterator[Browser]:
    with chromium(tool("chromium")) as found:
        yield found


class Page(HTMLParser):
    """Collects what a page loads, its links, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (tag, name) in LOADS:
                self.loads.append(value or "")
            elif (tag, name) == ("a", "href"):
                self.links.append(value or "")
            elif name == "id":
                self.anchors.add(value or "")


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_of_the_docs_is_a_page_of_the_site(site: Path) -> None:
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(ROOT).with_suffix("")
        made = name.parent if name.name == "README" else name
        assert (site / made / "index.html").is_file(), name
    assert "etcd clusters" in (site / "index.html").read_text()
    assert (site / "profiles/index.html").is_file()


def test_no_page_loads_anything_from_another_server(site: Path) -> None:
    found = pages(site)
    assert len(found) > 60
    assert [(path, url) for path, page in found.items() for url in page.loads if urlsplit(url).netloc] == []
    for style in site.rglob("*.css"):
        text = style.read_text()
        assert "@import" not in text
        assert "url(http" not in text.replace("'", "").replace('"', ""), style


def test_every_link_and_anchor_within_the_site_exists(site: Path) -> None:
    found, broken = pages(site), []
    for path, page in found.items():
        for link in page.links:
            url, anchor = urldefrag(link)
            if urlsplit(url).scheme or urlsplit(url).netloc:
                continue
            target = (path.parent / unquote(url)).resolve() if url else path
            target = target / "index.html" if target.is_dir() else target
            ends = found[target].anchors | {""} if target in found else {""}
            if not target.is_file() or unquote(anchor) not in ends:
                broken.append((str(path.relative_to(site)), link))
    assert broken == []


def test_markdown_is_read_as_on_code_hosts(site: Path) -> None:
    """The content of a list's item is part of the item, although it is indented by less than four spaces."""
    text = (site / "docs/how-to/first-cluster/index.html").read_text()
    assert text.count("<ol>") == 1
    for path in site.rglob("*.html"):
        assert "```" not in path.read_text().partition("<article")[2].partition("</article>")[0], path


def stated_items(markdown: str) -> list[int]:
    """Return the numbers of a page's numbered lists. A number that neither is 1 nor follows the last one is prose."""
    found: list[int] = []
    text = re.sub(r"^( *)```.*?^\1```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for number in map(int, re.findall(r"^(\d+)\. ", text, re.MULTILINE)):
        if number == 1 or (found and number == found[-1] + 1):
            found.append(number)
    return found


def test_a_numbered_list_stays_one_list(site: Path) -> None:
    """Code without indentation would end a list, and an item directly after the text of another would be text."""
    wrong, total = [], 0
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(ROOT).with_suffix("")
        page = (site / (name.parent if name.name == "README" else name) / "index.html").read_text()
        article = page.partition("<article")[2].partition("</article>")[0]
        lists = re.findall(r"<ol>.*?</ol>", re.sub(r"<ul>.*?</ul>", "", article, flags=re.DOTALL), re.DOTALL)
        made = [number for found in lists for number in range(1, found.count("<li>") + 1)]
        total += len(made)
        if made != (stated := stated_items(path.read_text())):
            wrong.append((str(name), made, stated))
    assert wrong == []
    assert total > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_into_their_window(browser: Browser, address: str, width: int, scheme: str) -> None:
    for place in ("", "docs/", "docs/reference/commands/", "docs/how-to/first-cluster/", "profiles/"):
        with opened(browser, f"{address}/{place}", width, scheme) as (page, wrong):
            assert page.locator("h1").count() == 1
            assert (place, overflow(page), wrong) == (place, 0, [])


@pytest.mark.parametrize("width", WIDTHS)
def test_code_in_a_table_does_not_break(browser: Browser, address: str, width: int) -> None:
    broken = "codes => codes.filter(code => code.getClientRects().length > 1).map(code => code.textContent)"
    for place in ("docs/reference/commands/", "profiles/"):
        with opened(browser, f"{address}/{place}", width) as (page, _):
            codes = page.locator("article td code")
            assert codes.count() > 20
            assert codes.evaluate_all(broken) == []


def test_the_search_finds_a_page(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/", 1280) as (page, wrong):
        page.get_by_placeholder("Search").click()
        page.keyboard.type("failure domain")
        page.locator(".md-search-result__item a", has_text="failure domain").first.wait_for()
        assert page.locator(".md-search-result__item").count() > 1
        assert wrong == []


def test_the_tabs_are_the_sections_of_the_docs(browser: Browser, address: str) -> None:
    with opened(browser, f"{address}/docs/how-to/first-cluster/", 1280) as (page, _):
        tabs = [text.strip() for text in page.locator(".md-tabs__link").all_inner_texts()]
        assert tabs == ["Home", "How to", "Reference", "Explanation", "Decisions", "All pages"]
        assert wide_tables(page) == 0
