"""Draw a boot timeline as SVG: a bar for each node, with a part for each phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree.ElementTree import Comment, Element, SubElement, indent, tostring

from generator.report.chart_text import fitting, text_width
from generator.report.timeline import FAILED, SETTLED, Boot, Span, Timeline

PHASES = (  # in the order of the legend; a phase of another version of bake gets the class `tl-other`
    "booting", "cloud-init", "disk", "configured", "joining", "waiting", "learner", "voting", "failing",
)  # fmt: skip
MARK = "bake timeline"  # at the beginning of each file that bake writes
_WIDTH = 760  # pixels of the chart in a file
_PAD, _ROW, _BAR, _BAR_TOP, _LINE = 16, 60, 24, 22, 18  # pixels
_TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)  # seconds
_TEXT, _SMALL = 14, 12  # font sizes in pixels

STYLE = """
.tl { font: 14px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.tl-ground { fill: #ffffff; } .tl-name { font-weight: 600; fill: #1f2328; } .tl-note { fill: #59636e; font-size: 12px; }
.tl-head { fill: #1f2328; font-size: 16px; font-weight: 600; } .tl-start { fill: #59636e; font-size: 12px; }
.tl-line { stroke: #d1d9e0; stroke-width: 1; } .tl-track { fill: #f0f2f5; }
.tl-label { fill: #ffffff; font-size: 12px; } .tl-open { opacity: 0.45; }
.tl-booting { fill: #59636e; } .tl-cloud-init { fill: #0b5cad; } .tl-disk { fill: #3d4f9f; }
.tl-configured { fill: #14707a; } .tl-joining { fill: #7446b5; } .tl-waiting { fill: #8a5a00; }
.tl-learner { fill: #3d7317; } .tl-voting { fill: #116329; } .tl-failing { fill: #b04100; }
.tl-settled { fill: #116329; } .tl-failed { fill: #c01c28; } .tl-other { fill: #444c56; }
.tl-end { stroke: #ffffff; stroke-width: 2; }
.tl-mark { stroke: #ffffff; stroke-width: 2; fill: none; stroke-linecap: round; stroke-linejoin: round; }
"""
DARK = """
.tl-ground { fill: #0d1117; } .tl-name, .tl-head { fill: #f0f6fc; } .tl-note, .tl-start { fill: #9da7b1; }
.tl-line { stroke: #343b44; } .tl-track { fill: #1b2129; } .tl-label { fill: #0d1117; }
.tl-booting { fill: #9da7b1; } .tl-cloud-init { fill: #79c0ff; } .tl-disk { fill: #a5b4fc; }
.tl-configured { fill: #5bd1d7; } .tl-joining { fill: #cfa6ff; } .tl-waiting { fill: #e3b341; }
.tl-learner { fill: #a5d97a; } .tl-voting { fill: #56d364; } .tl-failing { fill: #ffa657; }
.tl-settled { fill: #56d364; } .tl-failed { fill: #ff8b85; } .tl-other { fill: #c9d1d9; }
.tl-end, .tl-mark { stroke: #0d1117; }
"""


def draw(timeline: Timeline) -> str:
    """Return the chart as an SVG file with a heading, a background and its own styles."""
    svg = _chart(timeline, _WIDTH, name="boot-timeline", is_file=True)
    svg.insert(0, Comment(f" made by {MARK} "))
    indent(svg)
    return tostring(svg, encoding="unicode") + "\n"


def draw_part(timeline: Timeline, width: int, *, name: str) -> str:
    """Return the chart for an HTML page with the styles STYLE and DARK. `name`: an id that is unique in the page."""
    return tostring(_chart(timeline, width, name=name, is_file=False), encoding="unicode")


@dataclass(frozen=True, slots=True)
class _Scale:
    """Converts seconds into pixels."""

    left: float
    right: float
    seconds: float

    def x(self, seconds: float) -> float:
        return round(self.left + (self.right - self.left) * seconds / self.seconds, 1)

    def ticks(self) -> Iterator[int]:
        """Yield the seconds of the ticks. Their labels do not touch each other."""
        room = max(text_width(_tick(int(self.seconds)), _SMALL), 24) + 16
        fits = (step for step in _TICKS if (self.right - self.left) * step / self.seconds >= room)
        step = next(fits, max(int(self.seconds), 1))
        yield from range(0, int(self.seconds) + 1, step)


def _chart(timeline: Timeline, width: int, *, name: str, is_file: bool) -> Element:
    top = 44 if is_file else 4
    svg = Element("svg", {
        "xmlns": "http://www.w3.org/2000/svg", "class": "tl", "role": "img", "width": str(width),
        "aria-labelledby": f"{name}-title {name}-desc",
    })  # fmt: skip
    SubElement(svg, "title", {"id": f"{name}-title"}).text = _clean(f"Boot timeline of {timeline.cluster}")
    SubElement(svg, "desc", {"id": f"{name}-desc"}).text = _clean(" ".join(_sentences(timeline)))
    if is_file:
        SubElement(svg, "style").text = f"{STYLE}@media (prefers-color-scheme: dark) {{{DARK}}}\n"
        ground = SubElement(svg, "rect", {"class": "tl-ground", "width": str(width)})
        head = fitting(f"Boot timeline of {timeline.cluster}", 16, width - 2 * _PAD)
        _text(svg, "tl-head", _PAD, 28, head)
    scale = _Scale(_PAD, width - _PAD - 12, max(timeline.seconds * 1.02, 1.0))
    lines = SubElement(svg, "g")
    first, bottom = top, float(top)
    for group in timeline.groups:
        _text(svg, "tl-start", _PAD, bottom + 14, f"started {_moment(group[0].begin - group[0].offset)}")
        bottom += _LINE + 8
        for boot in group:
            _row(svg, scale, boot, bottom)
            bottom += _ROW
    for node in timeline.silent:
        _text(svg, "tl-name", _PAD, bottom + 14, fitting(node, _TEXT, width - 2 * _PAD - 80))
        _text(svg, "tl-note", width - _PAD, bottom + 14, "no record", anchor="end")
        bottom += _LINE + 8
    if timeline.boots:
        bottom = _axis(svg, lines, scale, first, bottom)
        bottom = _legend(svg, width, timeline, bottom)
    height = str(round(bottom + 8))
    if is_file:
        ground.set("height", height)
    svg.set("height", height)
    svg.set("viewBox", f"0 0 {width} {height}")
    return svg


def _row(svg: Element, scale: _Scale, boot: Boot, top: float) -> None:
    """Draw a node: a line with its name and its result, and below them its bar."""
    group = SubElement(svg, "g")
    SubElement(group, "title").text = _clean(f"{boot.node}: {result_text(boot)}")
    note, right = result_text(boot), scale.right + 12
    room = right - scale.left - text_width(note, _SMALL) - 12
    _text(group, "tl-name", scale.left, top + 14, fitting(boot.node, _TEXT, room, bold=True))
    _text(group, "tl-note", right, top + 14, note, anchor="end")
    whole = {"x": scale.left, "y": top + _BAR_TOP, "width": right - scale.left, "height": _BAR, "rx": 4}
    SubElement(group, "rect", {"class": "tl-track", **_numbers(whole)})
    drawn = -1.0
    for span in _merged(boot.spans):
        left = scale.x(boot.offset + span.begin - boot.begin)
        if span.end is None and span.phase in (SETTLED, FAILED):
            _mark(group, span, left, top + _BAR_TOP)
            continue
        end = scale.right if span.end is None else scale.x(boot.offset + span.end - boot.begin)
        if end - drawn >= 0.5:  # shorter parts would not be visible
            _part(group, span, max(left, drawn), end, top + _BAR_TOP)
            drawn = end


def _part(group: Element, span: Span, left: float, end: float, top: float) -> None:
    known = span.phase if span.phase in (*PHASES, FAILED) else "other"
    kind = f"tl-{known}{' tl-open' if span.end is None else ''}"
    width = max(end - left - 1, 0.5)  # a gap of one pixel separates the parts
    place = {"x": left, "y": top, "width": width, "height": _BAR, "rx": min(3, width / 2)}
    part = SubElement(group, "rect", {"class": kind, **_numbers(place)})
    SubElement(part, "title").text = _clean(_span_text(span))
    if span.end is not None and text_width(span.phase, _SMALL) + 12 <= width:
        _text(group, "tl-label", left + width / 2, top + 16, span.phase, anchor="middle", hidden=True)


def _mark(group: Element, span: Span, x: float, top: float) -> None:
    """Draw the end of a boot: a check mark, or a cross for a failure."""
    mark = SubElement(group, "g")
    SubElement(mark, "title").text = _clean(_span_text(span))
    _symbol(mark, span.phase, x, top + _BAR / 2, size=10)


def _symbol(parent: Element, phase: str, x: float, y: float, *, size: float) -> None:
    SubElement(parent, "circle", {"class": f"tl-end tl-{phase}", **_numbers({"cx": x, "cy": y, "r": size})})
    path, part = ("M{} {} l3 3.5 l5 -7", (-4, 0.5)) if phase == SETTLED else ("M{} {} l7 7 m0 -7 l-7 7", (-3.5, -3.5))
    scale = size / 10
    place = f"translate({round(x, 1):g} {round(y, 1):g}) scale({scale:g})"
    SubElement(parent, "path", {"class": "tl-mark", "d": path.format(*part), "transform": place})


def _axis(svg: Element, lines: Element, scale: _Scale, top: float, bottom: float) -> float:
    for seconds in scale.ticks():
        x = scale.x(seconds)
        ends = {"x1": x, "x2": x, "y1": top + _LINE + 4, "y2": bottom + 2}
        SubElement(lines, "line", {"class": "tl-line", **_numbers(ends)})
        anchor = "start" if seconds == 0 else "middle"
        _text(svg, "tl-note", x, bottom + 17, _tick(seconds), anchor=anchor)
    return bottom + 26


def _legend(svg: Element, width: int, timeline: Timeline, top: float) -> float:
    found = {span.phase for boot in timeline.boots for span in boot.spans}
    x = float(_PAD)
    for phase in [one for one in (*PHASES, SETTLED, FAILED) if one in found]:
        needed = 18 + text_width(phase, _SMALL) + 14
        if x + needed > width - _PAD and x > _PAD:
            x, top = float(_PAD), top + 20
        if phase in (SETTLED, FAILED):
            _symbol(svg, phase, x + 6, top + 8, size=7)
        else:
            swatch = {"x": x, "y": top + 2, "width": 12, "height": 12, "rx": 3}
            SubElement(svg, "rect", {"class": f"tl-{phase}", **_numbers(swatch)})
        _text(svg, "tl-note", x + 18, top + 12, phase)
        x += needed
    return top + 20


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Join neighbouring spans of the same phase, because only their details differ."""
    found: list[Span] = []
    for span in spans:
        if found and found[-1].phase == span.phase:
            details = "; ".join(filter(None, dict.fromkeys((found[-1].detail, span.detail))))[-500:]
            found[-1] = Span(phase=span.phase, detail=details, begin=found[-1].begin, end=span.end)
        else:
            found.append(span)
    return found


def result_text(boot: Boot) -> str:
    """Return how a boot ended, such as `settled after 79.6 s`."""
    if boot.has_settled or boot.has_failed:
        return f"{boot.last.phase} after {duration(boot.seconds)}"
    return f"{_known(boot.last.phase)} at {duration(boot.seconds)}"


def _known(phase: str) -> str:
    return phase if len(phase) <= 16 else f"{phase[:15]}…"


def duration(seconds: float) -> str:
    """Return a duration such as `79.6 s`, `12 min 5 s` or `3 h 20 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"


def _tick(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds / 60:g} min" if seconds % 30 == 0 else f"{seconds} s"
    return f"{seconds / 3600:g} h" if seconds % 1800 == 0 else f"{seconds // 60} min"


def _sentences(timeline: Timeline) -> Iterator[str]:
    for boot in timeline.boots:
        phases = ", ".join(_span_text(span) for span in _merged(boot.spans) if span.end is not None)
        yield f"{boot.node}: {phases}{', ' if phases else ''}{result_text(boot)}."
    for node in timeline.silent:
        yield f"{node}: no record."


def _span_text(span: Span) -> str:
    length = "" if span.end is None else f" {duration(span.end - span.begin)}"
    return f"{span.phase}{length}{f' ({span.detail})' if span.detail else ''}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _text(
    parent: Element, kind: str, x: float, y: float, text: str, *, anchor: str = "start", hidden: bool = False
) -> None:
    more = {"text-anchor": anchor} if anchor != "start" else {}
    more |= {"aria-hidden": "true"} if hidden else {}
    SubElement(parent, "text", {"class": kind, **_numbers({"x": x, "y": y}), **more}).text = _clean(text)


def _numbers(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{round(value, 1):g}" for name, value in values.items()}


def _clean(text: str) -> str:
    """Return text without the characters that XML does not allow."""
    return "".join(c if c.isprintable() else "?" for c in text)
