"""The views that show a command's progress."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from generator import pki
from generator.cli.progress import Bars, Live, Plain, bar_of, show_progress, show_work
from generator.config.pki import KeyType
from generator.image import custom
from generator.progress import PHASES, Silent, Work, showing, working
from generator.vm import storage_pool
from tests import terminal

ROOT = Path(__file__).parents[2]


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

    assert "━" * len(PHASES) in stream.getvalue()
    assert "no member is alive yet" in stream.getvalue()


def test_a_waiting_node_keeps_its_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    view = Live(["etcd1"], Terminal())

    view.event("etcd1", "joining", "")
    view.event("etcd1", "waiting", "unhealthy cluster")

    assert view.nodes["etcd1"].reached == PHASES.index("joining")


class Clock:
    """A clock that a test sets, in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def drawn(view: Live, width: int = 100) -> list[str]:
    """Return the lines of the table."""
    from rich.console import Console

    stream = io.StringIO()
    view.console.width = width
    Console(file=stream, width=width).print(view.table())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def cells(view: Live, node: str) -> list[str]:
    """Return the words after the bar of a node."""
    (line,) = (line for line in drawn(view) if line.startswith(node))
    return re.split(r" {2,}", line)[2:]


def test_the_table_has_the_time_of_each_phase_and_of_each_node(clock: Clock) -> None:
    view = Live(["etcd1", "etcd2"], io.StringIO(), clock)
    view.event("etcd1", "booting", "")
    clock.now += 30
    view.event("etcd1", "waiting", "no member is alive yet")
    clock.now += 4
    view.event("etcd1", "waiting", "another reason")
    clock.now += 3

    assert drawn(view)[0].split() == ["NODE", "PHASE", "FOR", "TOTAL"]
    assert cells(view, "etcd1") == ["waiting", "7 s", "37 s", "another reason"]
    assert cells(view, "etcd2") == []
    assert drawn(view)[-1] == "37 s"


@pytest.mark.parametrize("last", ["settled", "failed"])
def test_the_clock_of_a_node_stops_when_it_has_settled_or_failed(clock: Clock, last: str) -> None:
    view = Live(["etcd1"], io.StringIO(), clock)
    view.event("etcd1", "booting", "")
    clock.now += 30
    view.event("etcd1", last, "")
    clock.now += 300
    assert cells(view, "etcd1") == [last, "30 s"]

    view.event("etcd1", "joining", "")
    clock.now += 1
    assert cells(view, "etcd1") == ["joining", "1 s", "331 s"]


def test_the_rows_keep_the_order_of_the_plan(clock: Clock) -> None:
    view = Live(["etcd1", "etcd2", "etcd3"], io.StringIO(), clock)
    for node in ("etcd3", "other", "etcd1", "etcd2"):
        view.event(node, "joining", "")
    assert [line.split()[0] for line in drawn(view)[1:-1]] == ["etcd1", "etcd2", "etcd3", "other"]


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/red]", "a:smile:b", "127.0.0.1:key:2379", "[link=x]y"])
def test_text_is_shown_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with show_progress(["etcd1"], quiet=False, stream=stream) as progress:
        progress.line(f"line {text}")
        progress.event("etcd1", "joining", f"detail {text}")
    assert f"line {text}" in stream.getvalue()
    assert f"detail {text}" in stream.getvalue()


def test_escape_sequences_of_a_console_do_not_reach_the_terminal(clock: Clock) -> None:
    view = Live(["etcd1"], io.StringIO(), clock)
    view.event("etcd1", "joining", "a\x1b[2Jb\x07\rc")
    assert cells(view, "etcd1")[-1] == "a[2Jbc"


@pytest.mark.parametrize("width", [66, 80, 120])
def test_only_the_last_column_is_cut_to_fit_the_terminal(clock: Clock, width: int) -> None:
    view = Live(["a-node-with-a-long-name", "b"], io.StringIO(), clock)
    view.event("a-node-with-a-long-name", "configured", "")
    view.event("b", "waiting", "the cluster refuses to add this node: etcdserver: too many learner members" * 2)
    clock.now += 1234
    lines = drawn(view, width)
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["NODE", "PHASE", "FOR", "TOTAL"]
    assert re.fullmatch(r"a-node-with-a-long-name  ━+─+  configured  1234 s  1234 s", lines[1])
    assert re.fullmatch(r"b +─+  waiting +1234 s  1234 s  t.*…", lines[2])


# --- long work ------------------------------------------------------------------------------------------------


def test_without_a_terminal_work_prints_nothing() -> None:
    stream = io.StringIO()
    with show_progress([], quiet=False, stream=stream), show_work(quiet=False, stream=stream):
        with working("uploading x", 10) as work:
            work.advance(10)
        assert not work.shown
    assert (stream.getvalue(), work.done) == ("", 10)


def test_a_terminal_shows_work_below_the_nodes(clock: Clock) -> None:
    view = Live(["etcd1"], io.StringIO(), clock)
    with showing(view), working("uploading x", 200 << 20, "B") as work:
        work.advance(50 << 20)
        assert work.shown
        line = drawn(view)[2]
        assert re.fullmatch(r"uploading x  ━{6}─{18}  50 of 200 MiB", line)
    assert "uploading" not in "".join(drawn(view))


def test_work_of_unknown_size_has_no_bar() -> None:
    work = Work("downloading x", 0, "B", done=7 << 20)
    assert bar_of(work).plain == "downloading x  7 MiB"


def test_a_bar_appears_after_a_second_and_leaves_the_screen_as_it_was(clock: Clock) -> None:
    stream = Terminal()
    with showing(Bars(stream, clock)), working("generating keys", 4) as work:
        work.advance(1)
        assert stream.getvalue() == ""
        clock.now += 1
        work.advance(1)
        assert "generating keys" in stream.getvalue()
        assert "2 of 4" in stream.getvalue()
    assert stream.getvalue().rpartition("2 of 4")[2] == "\r\x1b[2K\x1b[?25h\r"  # the line of the bar is empty again


def test_an_error_ends_the_bar(clock: Clock) -> None:
    bars = Bars(Terminal(), clock)

    def fail() -> None:
        with working("generating keys", 4) as work:
            clock.now += 2
            work.advance(1)
            raise ValueError

    with showing(bars), pytest.raises(ValueError):
        fail()
    assert (bars.live, bars.works) == (None, {})


def test_rsa_keys_of_a_bake_are_shown_on_a_terminal(tmp_path: Path) -> None:
    """The command line in a pseudo-terminal. RSA keys of 4096 bits take seconds."""
    command = [sys.executable, "-m", "generator.cli", "--nodes", "3", "--key-type", "rsa-4096"]
    with terminal.Terminal(command, folder=tmp_path, env={"PYTHONPATH": str(ROOT)}) as here:
        here.wait(lambda: re.search(r"generating rsa-4096 keys  [━─]+  \d+ of \d+", here.text), "a bar appears")
        assert here.ended() == 0
        assert "generating" not in here.text
        assert here.is_restored()
    plain = subprocess.run(
        [*command, "--name", "other"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "generating" not in plain.stderr


class Recorded:
    """Records every amount of every piece of work."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.amounts: list[int] = []

    def begin(self, work: Work) -> None:
        self.works.append(work)

    def advanced(self, work: Work) -> None:
        self.amounts.append(work.done)

    def end(self, work: Work) -> None:
        self.amounts.append(-1)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    view = Recorded()
    with showing(view):
        yield view


def test_each_rsa_key_advances_the_work_and_ec_keys_show_none(recorded: Recorded) -> None:
    def quick(_kind: KeyType) -> pki.PrivateKey:
        return pki.generate_key(KeyType.ECDSA_P256)

    with pki.pregenerated_keys(KeyType.RSA_4096, 5, workers=2, new_key=quick) as take:
        for _ in range(5):
            take(KeyType.RSA_4096)
    (work,) = recorded.works
    assert (work.text, work.done, work.total) == ("generating rsa-4096 keys", 5, 5)
    with pki.pregenerated_keys(KeyType.ECDSA_P256, 5, workers=2):
        pass
    assert recorded.works == [work]


@pytest.mark.parametrize("total", [30, 0])
def test_a_download_is_a_bar_on_a_terminal_and_lines_elsewhere(recorded: Recorded, total: int) -> None:
    chunks, said = [b"x" * 10] * 3, list[str]()
    with working("downloading x", total, "B") as work:
        assert custom._copy(chunks, io.BytesIO(), work, said.append) == 30
    assert (said, work.done) == ([], 30)
    assert custom._copy(chunks, io.BytesIO(), Work("x", 30, "B"), said.append) == 30
    assert len(said) == 3


def test_the_check_of_an_image_advances_to_its_size(recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * (3 << 20))
    assert custom._sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert recorded.amounts == [1 << 20, 2 << 20, 3 << 20, -1]


def sent(content: Path, *, sparse: bool) -> tuple[bytes, Work]:
    """Send a file as storage_pool does, with libvirt's own loops. Return what arrived, and the work."""
    libvirt = pytest.importorskip("libvirt")
    parts: list[bytes] = []

    class Stream:
        send = staticmethod(lambda data: parts.append(data) or len(data))
        sendHole = staticmethod(lambda length: parts.append(bytes(length)) or 0)  # noqa: N815  libvirt's name
        sendAll, sparseSendAll = libvirt.virStream.sendAll, libvirt.virStream.sparseSendAll  # noqa: N815

        def finish(self) -> None: ...

        def abort(self) -> None: ...

    class Volume:
        def connect(self) -> Any:
            return type("Connection", (), {"newStream": lambda _: Stream()})()

        def upload(self, *_: object) -> None: ...

    with content.open("rb") as source, working("uploading x", content.stat().st_size, "B") as work:
        storage_pool._send(Volume(), source, work, sparse=sparse)  # type: ignore[arg-type]
    return b"".join(parts), work


@pytest.mark.parametrize("sparse", [False, True])
def test_an_upload_advances_to_the_size_of_the_file(recorded: Recorded, tmp_path: Path, sparse: bool) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(b"begin" * 1000)
        file.seek(4 << 20)
        file.write(b"end")
        file.truncate(6 << 20)
    data, work = sent(path, sparse=sparse)
    assert data == path.read_bytes()
    assert (work.done, work.total) == (6 << 20, 6 << 20)
    assert recorded.amounts[:-1] == sorted(recorded.amounts[:-1])
