"""Which images the nodes may get: etcd's releases, the floor of the upgrade guide, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from generator.change.observed import Power, power_of
from generator.config.load import load
from generator.engine import MachineStatus, State
from generator.errors import BakeError, InputError, UnhealthyError
from generator.image.age import days_old, old_images
from generator.image.base import BootImage
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import open_cluster
from generator.operations.maintenance import snapshot
from generator.operations.running import upgrade
from generator.operations.running.change import nodes_to_upgrade
from generator.operations.running.upgrade import Release, check_releases, release
from generator.plan import ClusterPlan
from generator.store.folder import Store

NOW = datetime(2026, 11, 29, tzinfo=UTC)
Make = Callable[..., ClusterPlan]


def image(etcd: str) -> BootImage:
    return BootImage(disk=Path("disk"), format="qcow2", virtual_size=1, digest="bb", versions={"etcd": etcd})


def check(plan: Make, etcd: str, running: dict[str, Release], *, series: str = "3.5", back: bool = False) -> str | None:
    return check_releases(plan(etcd={"version": series}).spec, image(etcd), running, back=back)


def three(*releases: Release) -> dict[str, Release]:
    return {f"etcd{number}": one for number, one in enumerate(releases, start=1)}


@pytest.mark.parametrize(
    ("etcd", "series", "running"),
    [
        ("3.5.16", "3.5", three((3, 5, 16), (3, 5, 16), (3, 5, 16))),
        ("3.5.26", "3.5", three((3, 5, 16), (3, 5, 26), (3, 5, 16))),
        ("3.6.6", "3.6", three((3, 5, 26), (3, 5, 27), (3, 5, 26))),
        ("3.6.6", "3.6", three((3, 6, 6), (3, 5, 27), (3, 5, 26))),
        ("3.6.7", "3.6", three((3, 6, 6), (3, 6, 6), (3, 6, 6))),
        ("3.5.26", "3.5", {}),
    ],
)
def test_an_upgrade_by_at_most_one_series_is_allowed(
    etcd: str, series: str, running: dict[str, Release], plan: Make
) -> None:
    assert check(plan, etcd, running, series=series) is None


@pytest.mark.parametrize(
    ("etcd", "series", "running", "message"),
    [
        ("3.6.6", "3.6", three((3, 5, 26), (3, 5, 25)), "needs etcd 3.5.26 or newer before, and etcd2 runs 3.5.25"),
        ("3.6.6", "3.6", three((3, 5, 16)), "needs etcd 3.5.26 or newer before, and etcd1 runs 3.5.16"),
        ("3.6.6", "3.6", three((3, 4, 37)), "skips a series: etcd 3.4.37 runs on etcd1"),
        ("3.5.26", "3.5", three((3, 6, 6)), "cannot read the data of etcd 3.6.6, which runs on etcd1"),
        ("3.5.26", "3.5", three((3, 6, 6), (3, 5, 26)), "cannot read the data of etcd 3.6.6, which runs on etcd1"),
        ("3.5.16", "3.5", three((3, 5, 16), (3, 5, 21)), "is older than etcd 3.5.21, which runs on etcd2"),
        ("3.6.6", "3.5", three((3, 5, 26)), "3.5, but the image has etcd 3.6.6"),
        ("3.5.26", "3.6", three((3, 5, 26)), "3.6, but the image has etcd 3.5.26"),
    ],
)
def test_downgrades_leaps_and_members_below_the_floor_are_refused(
    etcd: str, series: str, running: dict[str, Release], message: str, plan: Make
) -> None:
    with pytest.raises(InputError) as error:
        check(plan, etcd, running, series=series)
    assert message in str(error.value)
    assert "hint:" in str(error.value)


def test_the_way_back_leads_to_an_older_patch_release_but_to_no_older_series(plan: Make) -> None:
    assert check(plan, "3.5.16", three((3, 5, 21), (3, 5, 16)), back=True) is None
    assert check(plan, "3.5.26", three((3, 6, 6), (3, 5, 26)), back=True) is None, "the data is still of series 3.5"
    with pytest.raises(InputError, match="cannot read the data"):
        check(plan, "3.5.26", three((3, 6, 6), (3, 6, 6)), back=True)


def test_an_unknown_release_is_a_warning(plan: Make) -> None:
    assert "unknown" in (check(plan, "", three((3, 5, 16))) or "")
    package = plan(install={"method": "package", "packages": ["etcd-server"]}).spec
    assert "the nodes install etcd (package)" in (check_releases(package, image("3.5.16"), {}, back=False) or "")


@pytest.mark.parametrize(("text", "found"), [("3.5.16", (3, 5, 16)), ("3.6.0-rc.1", None), ("", None), ("3.5", None)])
def test_releases(text: str, found: Release | None) -> None:
    assert release(text) == found


def machine(name: str, image: str, *, planned: bool = True, **more: object) -> MachineStatus:
    return MachineStatus(node=name, state=State.RUNNING, planned=planned, image=image, **more)  # type: ignore[arg-type]


def test_the_nodes_with_another_image_are_upgraded() -> None:
    stand = {
        "etcd1": machine("etcd1", "aa"), "etcd2": machine("etcd2", "bb"), "etcd3": machine("etcd3", ""),
        "etcd4": machine("etcd4", "aa", planned=False),
    }  # fmt: skip
    assert nodes_to_upgrade(stand, "bb") == {"etcd1"}
    assert nodes_to_upgrade(stand, "") == set()


def test_the_error_of_an_upgrade_names_the_way_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", "etcd")
    make(load(flags={}).spec, store, now=datetime.now(UTC), report=lambda _: None)
    cluster, error = open_cluster(store), BakeError("etcd2 failed", hint="see its console")
    before = {"etcd1": machine("etcd1", "aa"), "etcd2": machine("etcd2", "bb")}
    upgrade.add_way_back(error, cluster, before, "bb")
    assert error.hint
    assert error.hint.startswith("see its console; to return to the image of before, run bake upgrade --to aa")
    upgrade.add_way_back(alone := BakeError("x"), cluster, {"etcd2": before["etcd2"]}, "bb")
    assert alone.hint is None


@pytest.mark.parametrize("back", [True, False])
def test_only_the_way_back_works_without_a_snapshot(
    back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_words: object, **_more: object) -> None:
        raise UnhealthyError("no member can make a snapshot")

    said: list[str] = []
    monkeypatch.setattr(snapshot, "take", refuse)
    store = Store(tmp_path / "out", "etcd")
    make(load(flags={}).spec, store, now=datetime.now(UTC), report=lambda _: None)
    if back:
        upgrade.take_snapshot(open_cluster(store), now=NOW, back=True, report=said.append)
        assert said == ["no snapshot: no member can make a snapshot"]
    else:
        with pytest.raises(UnhealthyError):
            upgrade.take_snapshot(open_cluster(store), now=NOW, back=False, report=said.append)


def test_the_age_of_images() -> None:
    assert days_old("2026-09-01T00:00:00Z", now=NOW) == 89
    assert days_old("", now=NOW) is None
    assert days_old(f"{NOW + timedelta(minutes=2):%Y-%m-%dT%H:%M:%SZ}", now=NOW) == 0  # built by the same command
    built = {"etcd1": "2026-09-01T00:00:00Z", "etcd2": "2026-09-01T05:00:00Z", "etcd3": "2026-11-01T00:00:00Z", "x": ""}
    assert old_images(built, now=NOW) == (
        "the image of etcd2 is 88 days old", "the image of etcd1 is 89 days old"
    )  # fmt: skip


def test_a_stopped_vm_that_lost_its_data_disk_is_lost() -> None:
    one = MachineStatus(node="etcd1", state=State.STOPPED, disk_size=1, lost_data=True)
    assert power_of(one) is Power.LOST


@pytest.mark.parametrize(
    ("disk", "data", "power"),
    [(0, 0, Power.LOST), (0, 1, Power.STOPPED), (1, 0, Power.STOPPED), (1, 1, Power.STOPPED)],
)
def test_a_vm_with_a_data_disk_is_not_lost_without_its_root_disk(disk: int, data: int, power: Power) -> None:
    one = MachineStatus(node="etcd1", state=State.STOPPED, disk_size=disk, data_size=data)
    assert power_of(one) is power


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "is not sealed, so it has not started yet"),
        (["--name", "other"], "there is no cluster 'other'"),
    ],
)
def test_a_cluster_that_has_not_started_is_not_upgraded(words: list[str], message: str, bake: Any) -> None:
    bake("--nodes", 1)
    result = bake("upgrade", *words)
    assert (result.code, message in result.err) == (2, True), result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "zz"], "--to: 'zz' is the beginning of 0 images"),
        (["--to", "zz", "--refresh"], "--to: cannot be used with --refresh"),
        (["--image", "x.qcow2", "--to", "zz"], "--to: cannot be used with --image"),
        (["--image", "x.qcow2", "--refresh"], "only bake's image can be refreshed"),
    ],
)
def test_wrong_images_are_refused_before_anything_happens(
    words: list[str], message: str, bake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BAKE_CACHE", str(tmp_path / "cache"))
    bake("--nodes", 1)
    Path("out/etcd/sealed").touch()
    result = bake("upgrade", *words)
    assert (result.code, message in result.err) == (2, True), result.err
