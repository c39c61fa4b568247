"""The exit codes and errors of `bake plan` and `bake apply` that need no running cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generator.change.observed import Observed, Power
from generator.cli import engines
from generator.config.load import load
from generator.engine import MachineStatus, State
from generator.operations.running import change
from generator.operations.running.change import plan_change
from tests.unit.cluster_world import born

Bake = Callable[..., Any]


def engine_of(machines: dict[str, MachineStatus]) -> Any:
    """Return an engine whose nodes have printed nothing on their consoles."""
    return SimpleNamespace(machines=lambda: machines, console_logs=lambda *_: {})


@pytest.fixture
def standing(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> Callable[[Observed], None]:
    """Bake a sealed cluster of three nodes, and return a function that sets what bake observes."""
    bake("--nodes", 3)
    Path("out/etcd/sealed").touch()
    machines = {f"etcd{n}": MachineStatus(node=f"etcd{n}", state=State.RUNNING, disk_size=1) for n in (1, 2, 3)}
    monkeypatch.setattr("generator.cli.engines.make_engine", lambda *_, **__: engine_of(machines))

    def see(seen: Observed) -> None:
        monkeypatch.setattr(change, "observe", lambda *_, **__: seen)

    see(born(3).seen())
    return see


def test_detailed_exit_codes(bake: Bake, standing: Callable[[Observed], None]) -> None:
    assert bake("plan", "--detailed-exitcode").code == 0
    assert bake("plan", "--nodes", 5).code == 0
    assert bake("plan", "--nodes", 5, "--detailed-exitcode").code == 5
    world = born(3)
    world.power["etcd2"] = Power.STOPPED
    standing(world.seen())
    assert bake("plan", "--detailed-exitcode", "-o", "json").code == 5
    assert bake("plan", "--name", "missing", "--detailed-exitcode").code == 2


def test_plan_writes_nothing(bake: Bake, standing: object, picture: Callable[[Path], Any]) -> None:
    before = picture(Path("out"))
    bake("plan", "--nodes", 5)
    assert picture(Path("out")) == before


@pytest.mark.parametrize("command", ["plan", "apply", "replace"])
def test_a_cluster_that_has_not_started_cannot_be_changed(bake: Bake, command: str) -> None:
    bake("--nodes", 3)
    words = ("etcd1",) if command == "replace" else ()
    done = bake(command, *words)
    assert done.code == 2
    assert "is not sealed, so it has not started yet" in done.err
    assert "start it with bake up" in done.err


def test_an_unknown_node_and_a_moved_node_are_refused(bake: Bake, standing: object) -> None:
    done = bake("replace", "etcd7")
    assert done.code == 2
    assert "NODE: there is no node 'etcd7' in the cluster etcd" in done.err
    assert "etcd1, etcd2, etcd3" in done.err
    done = bake("apply", "--first-ip", "192.168.20.77", "--yes")
    assert done.code == 2
    assert "192.168.20.31 → 192.168.20.77" in done.err


def test_without_a_terminal_and_yes_nothing_is_changed(
    bake: Bake, standing: object, picture: Callable[[Path], Any]
) -> None:
    before = picture(Path("out"))
    done = bake("apply", "--nodes", 2)
    assert done.code == 2
    assert "etcd3: its keys are deleted" in done.err
    assert "etcd2, etcd3: their keys are deleted" in bake("apply", "--nodes", 1).err
    added = bake("apply", "--nodes", 5)
    assert added.code == 2
    assert "this changes a running cluster" in added.err
    assert "cannot be undone" not in added.err
    assert picture(Path("out")) == before


def test_a_cluster_whose_vms_are_elsewhere_is_not_replaced(bake: Bake, standing: object) -> None:
    from generator.store.existing_cluster import find_existing
    from generator.store.folder import Store

    store = Store(Path("out"), "etcd")
    loaded = load(find=lambda name: find_existing(Path("out"), name))
    gone = {f"etcd{n}": MachineStatus(node=f"etcd{n}", state=State.MISSING) for n in (1, 2, 3)}
    from datetime import UTC, datetime

    from generator.errors import InputError

    with pytest.raises(InputError, match="finds none of its VMs"):
        plan_change(loaded, store, lambda _: engine_of(gone), now=datetime.now(UTC))


@pytest.mark.parametrize(
    ("words", "replaced", "again"),
    [
        (("apply", "--memory", 2048), set(), "bake apply"),
        (("replace", "etcd2", "etcd3"), set(), "bake replace etcd2 etcd3"),
        (("replace", "etcd3", "etcd2"), {"etcd3"}, "bake replace etcd2"),
        (("replace", "etcd2"), {"etcd2"}, "bake apply"),
    ],
)
def test_after_an_interruption_bake_names_the_command_that_goes_on(
    words: tuple[object, ...], replaced: set[str], again: str, bake: Bake, standing: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Interrupted:
        """Stands for `Apply`: it replaces some of the nodes, then the user presses Ctrl-C."""

        def __init__(self, **settings: Any) -> None:
            self.left = settings["replace"]

        def run(self) -> None:
            self.left -= replaced
            remedies.append(made[-1]["remedy"]())
            raise KeyboardInterrupt

    def make(*_: object, **settings: Any) -> Any:
        made.append(settings)
        return old(*_, **settings)

    made, remedies, old = list[dict[str, Any]](), list[str](), engines.make_engine
    monkeypatch.setattr(engines, "make_engine", make)
    monkeypatch.setattr(change, "Apply", Interrupted)
    result = bake(*words, "--yes")
    assert f"To go on, run `{again}`." in result.err
    assert remedies == [again], "the engine's errors have the hint `try again: ...`"
    assert result.code not in (0, 1)


def test_an_interruption_before_the_first_change_names_the_same_command(
    bake: Bake, standing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(change, "bake", interrupt)
    assert "To go on, run the same command again." in bake("replace", "etcd2", "--yes").err
