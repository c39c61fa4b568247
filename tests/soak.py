"""Run the tests repeatedly while another process keeps one core busy, and record each round.

Every round must pass. A test that waits a fixed time for a state fails from time to time on a busy machine.
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
LONGEST = 4 * 3600  # time limit in seconds of a round and of the busy process
BUSY = """
import os, sys, time
parent, end = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Tests:
    """A set of tests, with the arguments that scripts/test passes to pytest."""

    what: str
    arguments: tuple[str, ...]
    rounds: int


WORKERS = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
SETS = {
    "processes": Tests("all tests that boot no node", (*WORKERS, "-m", "not nspawn and not vm"), 5),
    "nodes": Tests("all tests that boot nodes", ("-m", "nspawn or vm"), 2),
}


@dataclass(frozen=True)
class Round:
    """The result of one run of pytest."""

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
    """Yield the id of a busy process, which ends with the context, with this process, or after `limit` seconds."""
    with subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid()), str(limit)]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def run_round(arguments: tuple[str, ...], log: Path) -> Round:
    """Run pytest next to a busy process and write its output to `log`. A run without a report counts as failed."""
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
            process.send_signal(signal.SIGINT)  # fixtures then stop their processes; SIGTERM would skip the fixtures
            process.wait()
    return read_report(report, code, time.monotonic() - began)


def read_report(report: Path, code: int, seconds: float) -> Round:
    """Return the counts in pytest's JUnit report."""
    if not report.exists():
        return Round(0, 1, 0, seconds)
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  pytest wrote it
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    return Round(tests - failed - skipped, failed or int(code != 0), skipped, seconds)


def commit() -> str:
    """Return the checked-out commit, with a note if files differ from the commit."""
    revision, changes = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain"))
    )
    return revision + " with changes" * bool(changes)


def row(name: str, number: int, done: Round, when: str) -> str:
    """Return a row of the page's table."""
    failed = f"**{done.failed}**" if done.failed else "0"
    counts = f"{done.passed} | {failed} | {done.skipped} | {done.seconds / 60:.0f} min"
    return f"| `{name}` | {number} | {counts} | {when} |"


def table(page: str, name: str, rows: list[str]) -> str:
    """Return the table with this run's rows, and the page's old rows for the other sets of tests."""
    old = re.findall(r"^\| `.*$", page.partition(BEGIN)[2].partition(END)[0], re.M)
    groups = {one: [row for row in old if row.startswith(f"| `{one}` ")] for one in SETS} | {name: rows}
    head = ["| tests | round | passed | failed | skipped | time | run |", "| --- " * 7 + "|"]
    return "\n".join([*head, *(row for group in groups.values() for row in group)])


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--set", action="append", choices=SETS, help="run only this set of tests (default: both sets)")
    parser.add_argument("--rounds", type=int, help="number of rounds (default: five of `processes`, two of `nodes`)")
    parser.add_argument("--write", action="store_true", help=f"record the rounds in {PAGE.relative_to(ROOT)}")
    parser.add_argument("pytest", nargs="*", metavar="PYTEST ARGUMENT", help="after `--`: arguments for pytest")
    options = parser.parse_args(words)
    if options.write and options.pytest:
        parser.error("--write records whole sets of tests, not a part of them")
    return options


def run(options: argparse.Namespace) -> bool:
    """Run all rounds and return whether every round passed."""
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
            if options.write:  # after each round, because all rounds take hours
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
