"""Make the HTML page of a report. The page needs no other file, no script and no network."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from generator.report.chart import DARK, STYLE, draw_part, duration, result_text
from generator.report.content import Content

MARK = '<meta name="generator" content="bake report'  # at the beginning of each file that bake writes
_HERE = Path(__file__).parent
# The width of the chart in pixels, for wide windows, for tablets and paper, and for phones.
_WIDTHS = {"wide": 1014, "middle": 700, "narrow": 340}


def render(content: Content) -> str:
    """Return the page. All values are text, and the template escapes each of them."""
    return _template().render(
        content=content,
        style=Markup(style()),  # noqa: S704  a file of bake
        policy=policy(),
        charts={
            name: Markup(draw_part(content.timeline, width, name=f"chart-{name}"))  # noqa: S704  XML by ElementTree
            for name, width in _WIDTHS.items()
        },
        duration=duration,
        result_text=result_text,
    )


@cache
def style() -> str:
    """Return the style sheet of the page and of the chart. Printed pages are always light."""
    text = (_HERE / "page.css").read_text(encoding="utf-8")
    return f"\n{text}{STYLE}@media screen and (prefers-color-scheme: dark) {{{DARK}}}\n"


def policy() -> str:
    """Return the page's Content-Security-Policy: only the page's own style sheet and icon."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.finalize = _printable  # each value of the page
    return environment.get_template("page.html.j2")


def _printable(value: object) -> object:
    """Return text without control characters, which HTML does not allow, and without marks that reverse text."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in value)
