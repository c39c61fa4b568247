"""The harness against itself: hooks and a unit with a fault planted in them must be caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.assembly.miniature import ETCD_UNIT, GUEST
from tests.chaos import assembling, disks, hooks
from tests.chaos.trial import Outcome, Row, Trial
from tests.chaos.world import TrialError

SOON = 20.0  # seconds after which a cluster with a planted fault counts as stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """Texts in guest files and what stands there instead; the trials, of which one at least must fail."""

    changes: tuple[tuple[str, str, str], ...]
    row: str
    run: Callable[[Trial], Outcome]
    numbers: Iterable[int]
    aim: float = 0.06


def sow(plant: Plant, folder: Path) -> Path:
    """A copy of the guest's files with the fault in it. Fails if a text to replace is not there exactly once."""
    guest = folder / "guest"
    shutil.copytree(GUEST, guest)
    shutil.copy(ETCD_UNIT, guest)
    for file, old, new in plant.changes:
        text = (guest / file).read_text()
        if text.count(old) != 1:
            raise LookupError(f"{file} has {text.count(old)} times, not once: {old}")
        (guest / file).write_text(text.replace(old, new))
    return guest


def _calls(lane: int, lanes: int, calls: int) -> list[int]:
    return [lane + lanes * number for number in range(calls)]


PLANTS = {
    "voting add": Plant(
        changes=(("etcd-join", "cluster.add(as_learner=self.settings.as_learner)", "cluster.add(as_learner=False)"),),
        row="crash-points", run=hooks.after_add, numbers=range(1),
    ),
    "one error text": Plant(
        changes=((
            "etcd-join", "except RefusedError as refusal:\n            self.console.say",
            """except RefusedError as refusal:
            if "too many learner" not in str(refusal):
                time.sleep(3600)
            self.console.say""",
        ),),
        row="replies", run=hooks.replies,
        numbers=_calls(list(hooks.REPLIES).index("unhealthy") + 2 * len(hooks.REPLIES), hooks.REPLY_LANES, 4),
    ),
    "bootstraps always": Plant(
        changes=(
            ("etcd-join", "if not self.settings.may_bootstrap:\n            first", "if False:\n            first"),
            ("etcd-join", "Situation.UNAUTHORIZED_CLIENT if missing else Situation.ALL_EMPTY", "Situation.ALL_EMPTY"),
        ),
        row="wiped-first", run=disks.wiped_first, numbers=range(2),
    ),
    "Restart=always": Plant(
        changes=(("etcd.service.j2", "Restart=on-failure", "Restart=always"),),
        row="removed", run=disks.removed, numbers=range(0, 4, 2),
    ),
    "no set-aside": Plant(
        changes=(("etcd-join", "if self.disk is Disk.UNFINISHED:", "if False:"),),
        row="first-log", run=assembling.first_log, numbers=range(0, 40, 2), aim=0.003,
    ),
}  # fmt: skip


def planted(trial: Trial) -> Outcome:
    name = list(PLANTS)[trial.number % len(PLANTS)]
    plant, trial.label = PLANTS[name], name
    guest = sow(plant, trial.folder)
    for tries, number in enumerate(plant.numbers, 1):
        inner = Trial(
            row=plant.row, number=number, seed=trial.seed, folder=trial.folder / str(number), tools=trial.tools,
            over=trial.over, guest=guest, limit=SOON, aim=plant.aim,
        )  # fmt: skip
        try:
            plant.run(inner)
        except TrialError as caught:
            trial.label = f"{name}: caught by {plant.row} in trial {tries}: {str(caught).splitlines()[0]}"
            return Outcome(label=name)
        finally:
            inner.close()
            shutil.rmtree(inner.folder, ignore_errors=True)
    raise TrialError(f"{name} was planted, and {plant.row} did not see it")


ROWS = {
    "planted": Row(
        what=f"{len(PLANTS)} faults planted in the hooks and the unit: {', '.join(PLANTS)}",
        goal="each is caught by a row above", trials=len(PLANTS), gate=len(PLANTS), run=planted,
    ),
}  # fmt: skip
