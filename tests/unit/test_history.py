"""What the newest seed costs a node that runs an older seed."""

from __future__ import annotations

import pytest

from generator.errors import InputError
from generator.level import Level
from generator.seed.history import KEPT, SeedHistory, parse_history


def made(*levels: Level) -> SeedHistory:
    history = SeedHistory()
    for number, level in enumerate(levels, 1):
        history = history.extended("etcd1", f"etcd1-{number}", level)
    return history


def test_the_newest_seed_costs_the_most_expensive_change_since_the_running_seed() -> None:
    history = made(Level.NONE, Level.REBOOT, Level.RESTART, Level.LIVE)
    costs = [history.cost("etcd1", f"etcd1-{number}") for number in (1, 2, 3, 4)]
    assert costs == [Level.REBOOT, Level.RESTART, Level.LIVE, Level.NONE]


def test_a_seed_that_was_baked_twice_counts_from_its_newest_place() -> None:
    history = made(Level.NONE, Level.RESTART).extended("etcd1", "etcd1-1", Level.RESTART)
    assert history.cost("etcd1", "etcd1-1") is Level.NONE


def test_an_unknown_seed_costs_a_reboot() -> None:
    assert made(Level.NONE, Level.LIVE).cost("etcd1", "etcd1-ff") is Level.REBOOT


@pytest.mark.parametrize(
    ("levels", "cost"),
    [((), Level.NONE), ((Level.NONE,), Level.NONE), ((Level.NONE, Level.RESTART), Level.RESTART)],
)
def test_a_node_without_a_report_counts_as_running_the_seed_before(levels: tuple[Level, ...], cost: Level) -> None:
    assert made(*levels).cost("etcd1", None) is cost


def test_the_same_seed_adds_nothing() -> None:
    history = made(Level.NONE)
    assert history.extended("etcd1", "etcd1-1", Level.REBOOT) == history


def test_only_the_newest_seeds_are_kept() -> None:
    history = made(*[Level.LIVE] * (KEPT + 5))
    assert len(history.nodes["etcd1"]) == KEPT
    assert history.cost("etcd1", "etcd1-1") is Level.REBOOT


def test_the_file_returns_the_same_history() -> None:
    history = made(Level.NONE, Level.LIVE)
    assert parse_history(history.dump(), where="") == history
    assert parse_history(None, where="") == SeedHistory()
    assert history.only(frozenset()) == SeedHistory()


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"nodes": 3}', b'{"nodes": {"a": [{"seed": "x", "level": "often"}]}}'])
def test_other_content_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError) as error:
        parse_history(raw, where="seed-history.json")
    assert error.value.problems[0].where == "seed-history.json"
