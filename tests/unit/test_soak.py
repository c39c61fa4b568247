"""`scripts/soak`: the busy process ends, each round counts the results in pytest's report, and the page has them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import soak
from tests.chaos.report import PAGE

SOME = """
import pytest
def test_a(): pass
def test_b(): pytest.skip("not here")
@pytest.mark.parametrize("n", range(2))
def test_c(n): assert {holds}
"""
NO_HYPOTHESIS = ("-p", "no:hypothesispytest")  # the import of hypothesis takes most of a short round


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_core_is_busy_for_as_long_as_it_is_wanted() -> None:
    with soak.busy_core() as pid:
        while cpu_time(pid) < 5:
            assert is_alive(pid)
            time.sleep(0.01)
    assert not is_alive(pid)


def cpu_time(pid: int) -> int:
    """Return the CPU time of a process in hundredths of a second (utime in /proc/PID/stat)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


@pytest.mark.parametrize(("parent", "limit"), [(os.getpid(), "0.1"), (1 << 30, "3600")], ids=["limit", "orphan"])
def test_the_busy_process_ends_at_its_limit_and_without_its_parent(parent: int, limit: str) -> None:
    done = subprocess.run([sys.executable, "-c", soak.BUSY, str(parent), limit], timeout=120, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("text", "counts", "holds"),
    [
        (SOME.format(holds=True), (3, 0, 1), True),
        (SOME.format(holds="n == 0"), (2, 1, 1), False),
        ("import no_such_module", (0, 1, 0), False),
        ("", (0, 1, 0), False),  # a round without tests has failed
    ],
)
def test_a_round_is_what_pytest_reports(text: str, counts: tuple[int, ...], holds: bool, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(text)
    done = soak.run_round((*NO_HYPOTHESIS, str(tmp_path)), tmp_path / "round.log")
    assert ((done.passed, done.failed, done.skipped), done.holds) == (counts, holds)


def test_the_page_keeps_the_rows_of_the_tests_that_are_not_run() -> None:
    page = f"before\n{soak.BEGIN}\nNot recorded yet.\n{soak.END}\n| `nodes` | outside |\n"
    good, bad = soak.Round(10, 0, 1, 120), soak.Round(9, 1, 1, 60)
    first = soak.table(page, "nodes", [soak.row("nodes", 1, bad, "2026-01-02, abc")])
    assert first.splitlines()[2:] == ["| `nodes` | 1 | 9 | **1** | 1 | 1 min | 2026-01-02, abc |"]
    page = f"{soak.BEGIN}\n{first}\n{soak.END}"
    both = soak.table(page, "processes", [soak.row("processes", 1, good, "now")])
    assert [line[:17] for line in both.splitlines()[2:]] == ["| `processes` | 1", "| `nodes` | 1 | 9"]


def test_a_part_of_the_tests_is_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        soak.arguments(["--write", "--", "tests/unit"])
    assert "not a part of them" in capsys.readouterr().err


def test_the_page_has_its_place() -> None:
    page = PAGE.read_text()
    assert page.count(soak.BEGIN) == page.count(soak.END) == 1


ENDLESS = """
import time, pytest
@pytest.fixture
def node(tmp_path_factory):
    yield
    open("{folder}/down", "x")
def test_it(node):
    open("{folder}/up", "x")
    time.sleep(600)
"""


def test_a_round_that_is_ended_takes_down_what_it_has_started(tmp_path: Path) -> None:
    (tmp_path / "test_endless.py").write_text(ENDLESS.format(folder=tmp_path))
    code = "import signal, sys; from pathlib import Path; from tests import soak\n"
    code += "signal.signal(signal.SIGTERM, soak._interrupt)\n"
    code += f"soak.run_round(({', '.join(map(repr, NO_HYPOTHESIS))}, sys.argv[1]), Path(sys.argv[1], 'round.log'))"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=soak.ROOT, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "up").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
    assert (tmp_path / "down").exists()
