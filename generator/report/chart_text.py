"""Estimate the width of text in an SVG chart. The estimate is larger than the width in any common sans-serif font."""

from __future__ import annotations

from unicodedata import east_asian_width

_NARROW, _WIDE = frozenset("ijl.,:;'|!-() "), frozenset("mwMW%@…")


def text_width(text: str, size: int, *, bold: bool = False) -> float:
    """Return the estimated width in pixels. `size`: the font size in pixels."""
    return sum(map(_em, text)) * size * (1.06 if bold else 1.0)


def _em(character: str) -> float:
    if character in _NARROW:
        return 0.4
    if character in _WIDE:
        return 1.0
    if east_asian_width(character) in "WF":
        return 1.1
    return 0.64


def fitting(text: str, size: int, width: float, *, bold: bool = False) -> str:
    """Return the text. If it does not fit into `width` pixels, an ellipsis replaces its middle."""
    kept = len(text)
    shown = text
    while kept > 2 and text_width(shown, size, bold=bold) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown
