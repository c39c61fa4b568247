"""The report and the boot timeline in a real browser: nothing overlaps, nothing is loaded, and the page prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from generator.report.chart import draw
from generator.report.page import render
from generator.report.timeline import Record, Timeline, make_timeline
from tests.browser import WIDTHS, chromium, opened, overflow, overlaps, url_of, wide_tables
from tests.unit.test_report_page import content

STEPS = (
    (0.0, "booting"), (34.9, "cloud-init"), (45.7, "disk"), (49.8, "configured"), (57.3, "joining"), (58.4, "waiting"),
    (59.2, "joining"), (60.0, "learner"), (71.3, "voting"), (77.0, "settled"),
)  # fmt: skip


def timeline(count: int) -> Timeline:
    """Return boots of some days, with long and short names, a failure, a boot that did not end, and a silent node."""
    names = [f"etcd{number}" if number % 3 else f"{'wm' * 30}-{number}" for number in range(count)]
    records = []
    for number, name in enumerate(names[: max(count - 1, 1)]):
        steps = STEPS if number % 4 != 1 else STEPS[:6] if number % 8 == 1 else (*STEPS[:5], (5000.0, "failed"))
        start = 1.79e9 + number * 0.7 + (number // 4) * 86400
        records += [Record(time=start + after, node=name, phase=phase, detail="detail") for after, phase in steps]
    return make_timeline("a-cluster-with-" + "long-" * 12 + "name", names, records)


@pytest.fixture(scope="module")
def browser(tool: Callable[[str], str]) -> Iterator[Browser]:
    with chromium(tool("chromium")) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("count", range(1, 10))
def test_texts_of_the_chart_never_overlap(browser: Browser, tmp_path: Path, count: int, scheme: str) -> None:
    file = tmp_path / "boot.svg"
    file.write_text(draw(timeline(count)))
    with opened(browser, url_of(file), 800, scheme) as (page, wrong):
        assert page.locator("text").count() > 3
        assert overlaps(page) == []
        ground = page.evaluate("getComputedStyle(document.querySelector('.tl-ground')).fill")
        assert ground == ("rgb(13, 17, 23)" if scheme == "dark" else "rgb(255, 255, 255)")
        assert wrong == []


def test_overlapping_texts_are_found(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "boot.svg"
    file.write_text(draw(timeline(2)).replace('y="40"', 'y="60"').replace('x="16"', 'x="200"'))
    with opened(browser, url_of(file), 800) as (page, _):
        assert overlaps(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, *WIDTHS])
@pytest.mark.parametrize("text", ["a word", "x" * 300], ids=["words", "long"])
def test_the_page_fits_into_its_window(browser: Browser, tmp_path: Path, text: str, width: int, scheme: str) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(replace(content(text), timeline=timeline(9))))
    with opened(browser, url_of(file), width, scheme) as (page, wrong):
        assert page.title().endswith("cluster report")
        page.locator("summary").click()
        assert overflow(page) == 0
        assert wide_tables(page) == 0
        assert overlaps(page) == []
        assert page.locator(".chart svg:visible").count() == 1
        assert wrong == []


def test_the_page_prints_in_light_colours(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(replace(content("a word"), timeline=timeline(9))))
    with opened(browser, url_of(file), 700, "dark") as (page, wrong):
        assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('td')).display") == "table-cell"
        assert not page.locator("nav").is_visible()
        assert (overflow(page), wide_tables(page)) == (0, 0)
        assert wrong == []


def test_the_browser_tests_notice_a_request(browser: Browser, tmp_path: Path) -> None:
    """A page without the policy would load the image. No request leaves the machine, because nothing listens there."""
    file = tmp_path / "page.html"
    file.write_text("<img src='http://127.0.0.1:1/x.png'>")
    with opened(browser, url_of(file), 800) as (_, wrong):
        assert any(text.startswith("request: http://127.0.0.1:1/") for text in wrong)
    file.write_text(render(content("a word")).replace("</main>", "<img src='http://127.0.0.1:1/x.png'></main>"))
    with opened(browser, url_of(file), 800) as (_, wrong):
        assert any("Content Security Policy" in text for text in wrong)
        assert "failed request: http://127.0.0.1:1/x.png (csp)" in wrong
