"""The framework of tests/chaos, without a cluster: random numbers, trials, results, the page, and planted faults."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.etcd.tls_probe import ClientFiles
from tests.chaos import planted, report
from tests.chaos.__main__ import arguments, chosen
from tests.chaos.rows import ROWS
from tests.chaos.runner import Numbers, Runner, spread
from tests.chaos.trial import Outcome, Row, Trial, lane_of
from tests.chaos.witness import Guard, Watch

TESTS = Path(__file__).parents[1]
EXHAUSTIVE = [name for name, row in ROWS.items() if row.lanes]


def trial(*, row: str = "kills", number: int = 7, seed: int = 1) -> Trial:
    return Trial(row=row, number=number, seed=seed, folder=Path("nowhere"))


def row(run: Callable[[Trial], Outcome], *, lanes: int = 0, trials: int = 100) -> Row:
    return Row(what="what", goal="goal", trials=trials, gate=1, run=run, lanes=lanes)


def test_the_same_seed_is_the_same_chance() -> None:
    assert trial().rng.random() == trial().rng.random()
    others = [trial(seed=2), trial(row="together"), trial(number=8)]
    assert trial().rng.random() not in [other.rng.random() for other in others]


def test_a_failure_says_how_to_repeat_it() -> None:
    words = trial().repeat.split()
    options = arguments(words[1:])
    assert words[0] == "scripts/chaos"
    assert (options.row, options.seed, options.trial) == (["kills"], 1, 7)


def run_lanes(calls: list[int], *, limit: int, behind: int = 0) -> list[tuple[int, int]]:
    """Return the (lane, call) of each trial. `calls`: calls per lane. `behind`: trials that run at the same time."""
    numbers = Numbers(row(lambda _: Outcome(label=""), lanes=len(calls), trials=limit), limit)
    done, waiting = [], []
    for number in numbers:
        waiting.append(number)
        while len(waiting) > behind:
            lane, call = lane_of(ended := waiting.pop(0), len(calls))
            done.append((lane, call))
            numbers.note(ended, Outcome(label="", reached=call <= calls[lane]))
    return done


def test_a_lane_ends_at_the_first_call_that_is_not_made() -> None:
    done = run_lanes([2, 0, 5], limit=1000)
    assert sorted(done) == [(0, 1), (0, 2), (0, 3), (1, 1), *((2, call) for call in range(1, 7))]


def test_a_lane_ends_even_while_other_trials_still_run() -> None:
    calls = [3, 1]
    done = run_lanes(calls, limit=1000, behind=3)
    assert {(lane, call) for lane in (0, 1) for call in range(1, calls[lane] + 1)} <= set(done)
    assert len(done) < 20


def test_no_more_trials_than_asked_for() -> None:
    assert len(set(run_lanes([50, 50], limit=7))) == 7
    assert list(Numbers(ROWS["kills"], 3)) == [0, 1, 2]
    assert list(Numbers(ROWS["kills"], 3, only=9)) == [9]


def test_a_result_has_every_trial_and_every_failure(tmp_path: Path) -> None:
    def run(trial: Trial) -> Outcome:
        trial.label = f"number {trial.number}"
        if trial.number == 2:
            raise AssertionError("the check failed")
        return Outcome(label="even" if trial.number % 2 == 0 else "odd", seconds=float(trial.number))

    some = row(run)
    result = Runner(seed=1, folder=tmp_path, tools=None, jobs=2).run("kills", some, trials=4)
    found = json.loads(json.dumps(result.as_json(some)))
    assert set(found) == {
        "what", "goal", "trials", "failures", "holds", "converge_s", "by_label", "seconds", "date",
    }  # fmt: skip
    assert (found["trials"], found["holds"]) == (4, False)
    assert found["converge_s"] == {"n": 3, "p50": 1.0, "p99": 3.0, "max": 3.0}
    assert found["by_label"]["odd"]["n"] == 2
    again = "scripts/chaos --row kills --seed 1 --trial 2"
    assert found["failures"] == [{"trial": 2, "label": "number 2", "repeat": again, "why": "the check failed"}]


def test_a_call_that_is_not_made_is_no_trial(tmp_path: Path) -> None:
    some = row(lambda trial: Outcome(label="", reached=False), lanes=3)
    result = Runner(seed=1, folder=tmp_path, tools=None).run("replies", some, trials=9)
    assert (result.trials, result.as_json(some)["holds"]) == (0, False)


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert spread([]) == {}
    assert spread([float(n) for n in range(1, 101)]) == {"n": 100, "p50": 50.0, "p99": 99.0, "max": 100.0}


@pytest.mark.parametrize(("trials", "bound"), [(2, "–"), (100, "< 3 %"), (300, "< 1 %"), (1000, "< 0.3 %")])
def test_what_none_of_n_tells_is_the_rule_of_three(trials: int, bound: str) -> None:
    assert report.bound(trials) == bound


def test_results_are_kept_beside_the_older_ones_and_shown_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(report, "versions", lambda _: {"etcd": "3.5.16"})
    report.PAGE.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    one = {"what": "older words", "trials": 300, "failures": [], "converge_s": {"p50": 1, "p99": 2, "max": 3}}
    one |= {"seed": 1, "date": "2026-01-02"}
    report.write(1, tmp_path, {"together": one})
    report.write(2, tmp_path, {"kills": one | {"failures": [{}, {}], "converge_s": {}}})
    assert list(json.loads(report.RESULTS.read_text())["rows"]) == ["together", "kills"]
    before, *rows, after = report.PAGE.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert [line for line in rows if "`" in line] == [
        f"| `kills` | {ROWS['kills'].what} | **2 of 300** | – | – | seed 1, 2026-01-02 |",
        f"| `together` | {ROWS['together'].what} | 0 of 300 | < 1 % | 1 / 2 / 3 s | seed 1, 2026-01-02 |",
    ]


def test_the_page_describes_the_recorded_rows_with_the_words_of_the_rows() -> None:
    rows = json.loads(report.RESULTS.read_text())["rows"]
    assert {name: row["what"] for name, row in rows.items()} == {name: ROWS[name].what for name in rows}
    assert report.table(rows, list(ROWS)) in report.PAGE.read_text()


def test_the_page_has_every_row_with_its_command() -> None:
    page = report.PAGE.read_text()
    assert page.count(report.BEGIN) == page.count(report.END) == 1
    stated = re.findall(r"^\| `([a-z-]+)` \|.*`scripts/chaos --row ([a-z-]+)` \|$", page, re.M)
    assert stated == [(name, name) for name in ROWS]


def test_what_the_page_names_exists() -> None:
    page = report.PAGE.read_text()
    code = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    tests = set(re.findall(r"^def (test_\w+)", code, re.M))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 10
    assert named - tests == set()
    rows = re.findall(r"row `([a-z-]+)`", page)
    replies = re.findall("`([^`]+)`", " ".join(re.findall(r"row `replies` \(([^)]*)\)", page)))
    assert len(replies) > 5
    assert set(rows) - ROWS.keys() == set()
    assert set(replies) - planted.hooks.REPLIES.keys() == set()


def test_a_run_without_names_does_what_loopback_can() -> None:
    assert set(chosen(arguments([]))) == {name for name, row in ROWS.items() if row.level == "loopback"}
    gate = chosen(arguments(["--gate"]))
    assert gate == {name: row.gate for name, row in ROWS.items() if row.gate}
    assert chosen(arguments(["--row", "power-cuts", "--trials", "3"])) == {"power-cuts": 3}


@pytest.mark.parametrize("name", planted.PLANTS)
def test_a_fault_can_be_planted_in_todays_guest(name: str, tmp_path: Path) -> None:
    plant = planted.PLANTS[name]
    guest = planted.sow(plant, tmp_path)
    assert plant.row in ROWS
    for file in {file for file, _, _ in plant.changes}:
        text = (guest / file).read_text()
        shipped = planted.ETCD_UNIT if file == planted.ETCD_UNIT.name else planted.GUEST / file
        assert text != shipped.read_text()
        if not file.endswith(".j2"):
            compile(text, file, "exec")


def test_what_cannot_be_planted_is_an_error(tmp_path: Path) -> None:
    change = ("etcd-join", "no such text", "")
    nothing = planted.Plant(changes=(change,), row="kills", run=ROWS["kills"].run, numbers=())
    with pytest.raises(LookupError, match="0 times"):
        planted.sow(nothing, tmp_path)


@pytest.mark.parametrize("name", EXHAUSTIVE)
def test_an_exhaustive_row_may_go_as_far_as_its_hooks_call(name: str) -> None:
    assert ROWS[name].trials == planted.hooks.CALLS * ROWS[name].lanes


def test_the_guard_sees_what_is_deleted_and_not_what_is_moved_or_wiped_on_purpose(tmp_path: Path) -> None:
    deleted, moved, wiped = (tmp_path / name for name in ("deleted", "moved", "wiped"))
    for disk in (deleted, moved, wiped):
        (disk / "etcd/member/wal").mkdir(parents=True)
    guard = Guard([deleted, moved, wiped])
    guard.look()
    shutil.rmtree(deleted / "etcd")
    (moved / "etcd").rename(moved / "etcd.unfinished-1")
    with guard.forgiving(wiped):
        looking = threading.Thread(target=guard.look)
        looking.start()  # the guard waits until the folder is deleted
        shutil.rmtree(wiped)
    looking.join()
    assert guard.deleted() == [deleted / "etcd/member/wal"]
    guard.close()


def test_a_watch_that_looked_late_accuses_nobody_and_one_that_saw_a_stranger_does() -> None:
    watch = Watch([], ClientFiles(ca=Path("ca"), cert=Path("cert"), key=Path("key")))
    listed = {"etcd1": 1, "etcd2": 2, "etcd3": 3}
    watch.members = {"etcd1": {1}, "": {2}}
    assert watch.strange(listed) == set()
    watch.members = {"etcd1": {1}, "etcd2": {2, 7}, "": {8}, "etcd9": {3}}
    assert watch.strange(listed) == {("etcd2", 7), ("", 8), ("etcd9", 3)}
