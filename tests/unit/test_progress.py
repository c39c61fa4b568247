"""The views that show a command's progress."""

from __future__ import annotations

import io
import re

import pytest

from generator.cli.progress import Live, Plain, show_progress
from generator.progress import PHASES, Silent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_event_is_a_line_with_its_time() -> None:
    stream = io.StringIO()

    with show_progress(["etcd1"], quiet=False, stream=stream) as progress:
        progress.event("etcd1", "joining", "asking etcd2")
        progress.event("etcd1", "voting", "")

    assert re.fullmatch(
        r" +\d+\.\d s  etcd1: joining \(asking etcd2\)\n +\d+\.\d s  etcd1: voting\n", stream.getvalue()
    )
    assert "\x1b" not in stream.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    with show_progress([], quiet=False, stream=Terminal()) as progress:
        assert isinstance(progress, Plain)


def test_quiet_prints_nothing() -> None:
    stream = io.StringIO()

    with show_progress(["etcd1"], quiet=True, stream=stream) as progress:
        progress.line("something")

    assert isinstance(progress, Silent)
    assert stream.getvalue() == ""


def test_a_terminal_shows_the_phase_of_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()

    with show_progress(["etcd1", "etcd2"], quiet=False, stream=stream) as progress:
        assert isinstance(progress, Live)
        progress.event("etcd1", PHASES[-1], "member 1")
        progress.event("etcd2", "waiting", "no member is alive yet")

    assert "━" * 3 * len(PHASES) in stream.getvalue()
    assert "no member is alive yet" in stream.getvalue()


def test_a_waiting_node_keeps_its_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    view = Live(["etcd1"], Terminal())

    view.event("etcd1", "joining", "")
    view.event("etcd1", "waiting", "unhealthy cluster")

    assert view.reached["etcd1"] == PHASES.index("joining")
