"""Runs the trials of a row, several at a time, and keeps what came of them."""

from __future__ import annotations

import math
import random
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.assembly.miniature import Tools
from tests.chaos.trial import Outcome, Row, Trial, lane_of
from tests.chaos.world import Interrupted

SAMPLED_CALLS = 4  # of a hook: it asks for the list, for its note, changes something, and takes a note

@dataclass(kw_only=True)
class Result:
    """What came of a row so far."""

    trials: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self, row: Row) -> dict[str, Any]:
        every = [some for times in self.times.values() for some in times]
        by_label = {label: spread(times) for label, times in sorted(self.times.items())}
        return {
            "what": row.what,
            "goal": row.goal,
            "trials": self.trials,
            "failures": self.failures,
            "holds": self.trials > 0 and not self.failures,
            "converge_s": spread(every),
            "by_label": by_label,
            "seconds": round(self.seconds, 1),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
        }


def spread(times: list[float]) -> dict[str, float]:
    """Nearest-rank percentiles."""
    ordered = sorted(times)
    if not ordered:
        return {}
    rank = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    found = {name: round(ordered[math.ceil(part * len(ordered)) - 1], 2) for name, part in rank.items()}
    return {"n": len(ordered), **found}


class Numbers:
    """The trials to run, in order. An exhaustive row's lane ends at the first call that was not made.

    Fewer trials than an exhaustive row has for the first few calls are a sample of those, by the seed's chance.
    """

    def __init__(self, row: Row, limit: int, only: int | None = None, *, seed: int = 0) -> None:
        self.row, self.limit, self.only, self.seed = row, limit, only, seed
        self.ended: dict[int, int] = {}  # lane → the first call that was not made

    def __iter__(self) -> Iterator[int]:
        if self.only is not None:
            yield self.only
            return
        if self.limit < (some := self.row.lanes * SAMPLED_CALLS):
            chance = random.Random(f"{self.seed}/{self.row.what}")  # noqa: S311  repeatable on purpose
            yield from chance.sample(range(some), self.limit)
            return
        issued = number = 0
        while issued < self.limit and number < max(self.row.trials, self.limit):
            if self.row.lanes:
                if len(self.ended) == self.row.lanes:
                    return
                lane, call = lane_of(number, self.row.lanes)
                if call > self.ended.get(lane, call):
                    number += 1
                    continue
            yield number
            issued += 1
            number += 1

    def note(self, number: int, outcome: Outcome) -> None:
        if self.row.lanes and not outcome.reached:
            lane, call = lane_of(number, self.row.lanes)
            self.ended[lane] = min(call, self.ended.get(lane, call))


@dataclass(kw_only=True)
class Runner:
    """`jobs`: how many trials at a time. `over` is set when the run is to end."""

    seed: int
    folder: Path
    tools: Tools | None
    jobs: int = 1
    guest: Path | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def trial(self, name: str, number: int, **options: Any) -> Trial:
        folder = self.folder / f"{name}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        return Trial(
            row=name, number=number, seed=self.seed, folder=folder, tools=self.tools, over=self.over,
            guest=self.guest, **options,
        )  # fmt: skip

    def run(self, name: str, row: Row, *, trials: int, only: int | None = None) -> Result:
        result, started = Result(), time.monotonic()
        numbers = Numbers(row, trials, only, seed=self.seed)
        waiting: dict[Future[Outcome], Trial] = {}
        queue = iter(numbers)
        with ThreadPoolExecutor(1 if row.alone else self.jobs) as pool:
            try:
                while True:
                    while len(waiting) < (1 if row.alone else self.jobs) and (number := next(queue, None)) is not None:
                        trial = self.trial(name, number)
                        waiting[pool.submit(perform, row, trial)] = trial
                    if not waiting:
                        break
                    for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                        self._note(result, numbers, waiting.pop(done), done)
            except BaseException:
                self.over.set()
                raise
            finally:
                result.seconds = time.monotonic() - started
        return result

    def _note(self, result: Result, numbers: Numbers, trial: Trial, done: Future[Outcome]) -> None:
        error = done.exception()
        if isinstance(error, Interrupted):
            return
        if error is not None:
            why = str(error) if isinstance(error, AssertionError) else "".join(traceback.format_exception(error))
            result.trials += 1
            result.failures.append({"trial": trial.number, "label": trial.label, "repeat": trial.repeat, "why": why})
            tell(f"{trial.row} {trial.number}: FAILED: {trial.label}\n{why}\n  again: {trial.repeat}")
            return
        outcome = done.result()
        numbers.note(trial.number, outcome)
        if not outcome.reached:
            tell(f"{trial.row} {trial.number}: no such call: {trial.label}")
            return
        result.trials += 1
        took = ""
        if outcome.seconds is not None:
            result.times.setdefault(outcome.label, []).append(outcome.seconds)
            took = f" in {outcome.seconds:.1f} s"
        tell(f"{trial.row} {trial.number}: whole{took}: {trial.label}")


def perform(row: Row, trial: Trial) -> Outcome:
    """One trial, and nothing left of it."""
    try:
        return row.run(trial)
    finally:
        trial.close()
        shutil.rmtree(trial.folder, ignore_errors=True)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
