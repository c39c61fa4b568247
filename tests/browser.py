"""Open pages in Debian's Chromium without a window, and look for what a user would see as broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS = (375, 768, 1280)  # pixels: a phone, a tablet, a desktop
_FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# The boxes of texts that overlap by more than a pixel. Hidden texts do not count.
_OVERLAPS = """
() => {
  const boxes = [...document.querySelectorAll('svg text')].map(text => ({
    text: text.textContent, box: text.getBoundingClientRect(),
  })).filter(one => one.box.width > 0);
  const found = [];
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
    const width = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
    const height = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
    if (width > 1 && height > 1) found.push(`${a.text} / ${b.text}`);
  }));
  return found;
}
"""
_OUTSIDE = """
() => [...document.querySelectorAll('svg')].flatMap(svg => {
  const whole = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width > 0 && (box.left < whole.left - 1 || box.right > whole.right + 1 || box.bottom > whole.bottom + 1);
  }).map(text => text.textContent);
})
"""


_WIDE_TABLES = """
() => [...document.querySelectorAll('table')].filter(table => {
  const style = getComputedStyle(table.parentElement);
  const room = table.parentElement.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  return table.scrollWidth > room + 1;
}).length
"""


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """Yield a browser with a new, empty profile. `program`: the path of Chromium."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, chromium_sandbox=False, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int, scheme: str = "light") -> Iterator[tuple[Page, list[str]]]:
    """Yield a page, and a list of what went wrong on it so far: console messages, errors, and requests to the network.

    `width`: pixels. `scheme`: light or dark.
    """
    wrong: list[str] = []
    with browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
    ) as context:
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda one: wrong.append(f"request: {one.url}") if not _is_local(one.url, url) else None)
        page.on("requestfailed", lambda one: wrong.append(f"failed request: {one.url} ({one.failure})"))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        yield page, wrong


def _is_local(requested: str, page: str) -> bool:
    """Return whether a request is for the page's own server or folder."""
    if requested.startswith(("data:", "blob:")):
        return True
    return requested.startswith("file:" if page.startswith("file:") else "/".join(page.split("/")[:3]) + "/")


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    found: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found


def wide_tables(page: Page) -> int:
    """Return how many tables are wider than their section."""
    found: int = page.evaluate(_WIDE_TABLES)
    return found


def overlaps(page: Page) -> list[str]:
    """Return pairs of texts in SVG charts that overlap, and texts that leave their chart."""
    return [*page.evaluate(_OVERLAPS), *page.evaluate(_OUTSIDE)]


def url_of(path: Path) -> str:
    return path.absolute().as_uri()
