"""Runs the tests again and again while another process keeps one core busy, and records each round.

Every round must pass: on a busy machine a test that waits a fixed time for a state fails now and then.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from tests.chaos.report import PAGE, ROOT, put

BEGIN, END = "<!-- soak: made by scripts/soak --write -->", "<!-- /soak -->"
LOGS = ROOT / "build" / "soak"
LONGEST = 4 * 3600  # seconds that one round may take; the busy process ends after as long, whatever happens
BUSY = """
import os, sys, time
parent, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Tests:
    """Some of the tests, as scripts/test runs them."""

    what: str
    arguments: tuple[str, ...]
    rounds: int


SETS = {
    "processes": Tests(
        "all that boot no node", ("-n", "2", "--dist", "loadfile", "-m", "not nspawn and not vm"), 5
    ),
    "nodes": Tests("all that boot nodes", ("-m", "nspawn or vm"), 2),
}


@dataclass(frozen=True)
class Round:
    """What one run of pytest came to."""

    passed: int
    failed: int
    skipped: int
    seconds: float

    @property
    def holds(self) -> bool:
        return self.passed > 0 and self.failed == 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped, {self.seconds / 60:.0f} min"


@contextmanager
def busy_core(limit: float = LONGEST) -> Iterator[int]:
    """The id of a process that computes until it is ended, at the latest after `limit` seconds or with this process."""
    with subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid()), str(limit)]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def run_round(arguments: tuple[str, ...], log: Path) -> Round:
    """One run of pytest next to a busy process. Its output is in `log`; a run without a report has failed."""
    report, began = log.with_suffix(".xml"), time.monotonic()
    report.unlink(missing_ok=True)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}", *arguments]
    with log.open("w") as said, busy_core():
        process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            code = -signal.SIGTERM
        finally:
            process.send_signal(signal.SIGINT)  # its fixtures then end what they have started; SIGTERM would skip them
            process.wait()
    return read_report(report, code, time.monotonic() - began)


def read_report(report: Path, code: int, seconds: float) -> Round:
    """Counts of pytest's JUnit report."""
    if not report.exists():
        return Round(0, 1, 0, seconds)
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  pytest wrote it
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    return Round(tests - failed - skipped, failed or int(code != 0), skipped, seconds)


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    revision, changes = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain"))
    )
    return revision + " with changes" * bool(changes)


def row(name: str, number: int, done: Round, when: str) -> str:
    """A row of the page's table."""
    failed = f"**{done.failed}**" if done.failed else "0"
    counts = f"{done.passed} | {failed} | {done.skipped} | {done.seconds / 60:.0f} min"
    return f"| `{name}` | {number} | {counts} | {when} |"


def table(page: str, name: str, rows: list[str]) -> str:
    """The rows of this run, and those of the page for the tests that it does not run."""
    old = re.findall(r"^\| `.*$", page.partition(BEGIN)[2].partition(END)[0], re.M)
    groups = {one: [row for row in old if row.startswith(f"| `{one}` ")] for one in SETS} | {name: rows}
    head = ["| tests | round | passed | failed | skipped | time | run |", "| --- " * 7 + "|"]
    return "\n".join([*head, *(row for group in groups.values() for row in group)])


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--set", action="append", choices=SETS, help="these tests alone (default: both sets)")
    parser.add_argument("--rounds", type=int, help="instead of five of `processes` and two of `nodes`")
    parser.add_argument("--write", action="store_true", help=f"record the rounds in {PAGE.relative_to(ROOT)}")
    parser.add_argument("pytest", nargs="*", metavar="PYTEST ARGUMENT", help="behind `--`: a part of the tests")
    options = parser.parse_args(words)
    if options.write and options.pytest:
        parser.error("--write records whole sets of tests, not a part of them")
    return options


def run(options: argparse.Namespace) -> bool:
    """All rounds. Whether each of them passed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    good = True
    for name in options.set or SETS:
        rows: list[str] = []
        when = f"{datetime.now(UTC):%Y-%m-%d}, {commit()}, {os.cpu_count()} cores, one of them kept busy"
        for number in range(1, (options.rounds or SETS[name].rounds) + 1):
            log = LOGS / f"{name}-{number}.log"
            done = run_round((*SETS[name].arguments, *options.pytest), log)
            good = good and done.holds
            rows.append(row(name, number, done, when))
            print(f"{name}, round {number}: {done} ({log.relative_to(ROOT)})", flush=True)
            if options.write:  # each round as soon as it is there: all of them take hours
                put(PAGE, BEGIN, END, table(PAGE.read_text(), name, rows))
    return good


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return 0 if run(options) else 1
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
