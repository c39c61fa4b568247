"""Which images the nodes may get: etcd's releases, the floor of the upgrade guide, and the way back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generator.change.observed import Power, power_of
from generator.cli import engines
from generator.config.load import load
from generator.engine import MachineStatus, State
from generator.errors import BakeError, InputError, UnhealthyError, WaitTimeoutError
from generator.image.age import days_old, old_images
from generator.image.base import BootImage
from generator.operations.bake import bake as make
from generator.operations.baked_cluster import open_cluster
from generator.operations.maintenance import snapshot
from generator.operations.running import change as change_module
from generator.operations.running import upgrade
from generator.operations.running.change import nodes_to_upgrade
from generator.operations.running.chosen_image import chosen_image
from generator.operations.running.upgrade import Release, check_releases, fields_of, needs_no_snapshot, release
from generator.plan import ClusterPlan
from generator.store.existing_cluster import load_existing
from generator.store.folder import Store
from tests.unit.cluster_world import born
from tests.unit.test_image_cache import RECIPE, put

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


def test_the_way_back_from_a_half_done_upgrade_leads_to_the_older_series(plan: Make) -> None:
    """`bake upgrade` has stored the newer etcd.version before the first node got the new image."""
    assert check(plan, "3.5.26", three((3, 6, 6), (3, 5, 26)), series="3.6", back=True) is None
    with pytest.raises(InputError, match=r"cannot read the data of etcd 3\.6\.6, which runs on etcd1, etcd2"):
        check(plan, "3.5.26", three((3, 6, 6), (3, 6, 6)), series="3.6", back=True)
    with pytest.raises(InputError, match="no member answers") as error:
        check(plan, "3.5.26", {}, series="3.6", back=True)
    assert "start a member that runs etcd 3.5, or restore a snapshot" in str(error.value)
    with pytest.raises(InputError, match=r"3\.5, but the image has etcd 3\.6\.6"):
        check(plan, "3.6.6", three((3, 5, 26)), series="3.5", back=True)


def test_the_fields_that_a_return_changes(plan: Make) -> None:
    own = plan(etcd={"version": "3.6"}, vm={"image": "/images/own.qcow2"}).spec
    assert fields_of(own, image("3.5.26")) == {
        "vm": {"image": None, "sha256": None}, "etcd": {"version": "3.5"},
    }  # fmt: skip
    assert fields_of(plan(etcd={"version": "3.5"}).spec, image("3.5.16")) == {}
    assert fields_of(plan(etcd={"version": "3.5"}).spec, image("3.6.6")) == {}


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


def test_the_error_of_an_upgrade_names_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "out", "etcd")
    make(load(flags={}).spec, store, now=datetime.now(UTC), report=lambda _: None)
    cluster, base = open_cluster(store), load(flags={}).spec
    before = {"etcd1": machine("etcd1", "aa"), "etcd2": machine("etcd2", "bb")}

    def hint(*, was: str = "", sha256: str | None = None, new: str = "", new_sha256: str | None = None,
             cached: tuple[str, ...] = (), machines: dict[str, MachineStatus] = before) -> str | None:  # fmt: skip
        error = BakeError("etcd2 failed", hint="see its console")
        specs = [
            replace(base, vm=replace(base.vm, image=path or None, sha256=digest))
            for path, digest in ((was, sha256), (new, new_sha256))
        ]
        upgrade.add_way_back(error, cluster, machines, image(""), cached=cached, was=specs[0], new=specs[1])
        return error.hint

    way, docs = "see its console; to return to the previous image, run bake upgrade", "(docs/how-to/upgrade.md)"
    assert hint(cached=("aa", "bb")) == f"{way} --to aa {docs}"
    assert hint(cached=("aa",), new="/new.qcow2") == f"{way} --to aa {docs}", "from bake's image to an own image"
    assert hint(was="/old one.qcow2", new="/new.qcow2") == f"{way} --image '/old one.qcow2' {docs}"
    assert hint(was="/old.qcow2") == f"{way} --image /old.qcow2 {docs}", "from an own image to bake's image"
    assert hint(was="/old", sha256="5a", new="/new", new_sha256="5b") == f"{way} --image /old --sha256 5a {docs}"
    assert hint(was="/old", new="/new", new_sha256="5b") == f"{way} --image /old --sha256 aa {docs}"
    assert hint(was="/same", new="/same") == f"{way} --image FILE with its file {docs}", "the file was overwritten"
    assert hint() == "see its console", "the image is no longer in the cache"
    assert hint(cached=("aa",), machines={"etcd2": before["etcd2"]}) == "see its console"


@pytest.mark.parametrize("optional", [True, False])
def test_only_the_way_back_works_without_a_snapshot(
    optional: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_words: object, **_more: object) -> None:
        raise UnhealthyError("no member can make a snapshot")

    said: list[str] = []
    monkeypatch.setattr(snapshot, "take", refuse)
    store = Store(tmp_path / "out", "etcd")
    make(load(flags={}).spec, store, now=datetime.now(UTC), report=lambda _: None)
    if optional:
        upgrade.take_snapshot(open_cluster(store), now=NOW, optional=True, report=said.append)
        assert said == ["no snapshot: no member can make a snapshot"]
    else:
        with pytest.raises(UnhealthyError):
            upgrade.take_snapshot(open_cluster(store), now=NOW, optional=False, report=said.append)
    assert needs_no_snapshot(3, to="aa", image=None)
    assert needs_no_snapshot(1, to=None, image="/old.qcow2"), "the way back to an own image"
    assert not needs_no_snapshot(3, to=None, image="/old.qcow2")
    assert not needs_no_snapshot(1, to=None, image=None)


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


class Stopped:
    """Stands for `Apply`: it notes its settings, and ends as if a node did not come back."""

    seen: dict[str, Any]

    def __init__(self, **settings: Any) -> None:
        Stopped.seen = settings

    def run(self) -> None:
        raise WaitTimeoutError("etcd1: the step did not end", hint=f"to go on, run {Stopped.seen['again']()}")


@pytest.fixture
def half_done(bake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Bake a cluster whose upgrade to the image `new` has stopped: etcd1 has the image, etcd2 and etcd3 have `old`."""
    cache = tmp_path / "cache"
    for digest, days, etcd in (("old", 9, "3.5.26"), (f"{RECIPE}-new", 0, "3.6.6")):
        put(cache, digest, days=days, packages={"etcd-server": etcd})
    machines = {f"etcd{n}": machine(f"etcd{n}", "old", disk_size=1) for n in (1, 2, 3)}
    engine = SimpleNamespace(machines=lambda: machines, console_logs=lambda *_: {}, remove_unused_images=lambda: ())
    taken = SimpleNamespace(record=SimpleNamespace(revision=1), file="file.db")
    monkeypatch.setattr(snapshot, "take", lambda *_, **__: taken)
    monkeypatch.setattr(change_module, "observe", lambda *_, **__: born(3).seen())
    monkeypatch.setattr(change_module, "Apply", Stopped)

    def make(running: Mapping[str, Release], *flags: str) -> None:
        Path("new.yaml").write_text("apiVersion: bake/v1\nnodes: 3\netcd: {version: '3.6'}\n")
        assert bake(*([] if "--config" in flags else ["--config", "new.yaml"]), *flags).code == 0
        Path("out/etcd/sealed").touch()
        monkeypatch.setenv("BAKE_CACHE", str(cache))
        monkeypatch.setattr("generator.cli.engines.make_engine", lambda *_, **__: engine)
        monkeypatch.setattr(upgrade, "running_releases", lambda _: running)
        machines["etcd1"] = machine("etcd1", f"{RECIPE}-new", disk_size=1)

    return make


def spec_of() -> Any:
    existing = load_existing(Store(Path("out"), "etcd"))
    assert existing
    return existing.spec


def test_a_half_done_upgrade_to_the_next_series_has_a_way_back(half_done: Callable[..., None], bake: Any) -> None:
    half_done(three((3, 6, 6), (3, 5, 26), (3, 5, 26)))
    result = bake("upgrade", "--to", "old", "--yes")
    assert result.code == 4, result.err
    assert "to go on, run bake upgrade --to old" in result.err
    assert "to return to" not in result.err
    assert Stopped.seen["upgrade"] == {"etcd1"}
    assert spec_of().etcd.version == "3.5"
    assert bake("upgrade", "--to", "old", "--yes").code == 4, "the command goes on"
    assert spec_of().etcd.version == "3.5"


@pytest.mark.parametrize("running", [three((3, 6, 6), (3, 6, 6), (3, 6, 6)), {}])
def test_without_a_member_of_the_older_series_nothing_is_written(
    running: dict[str, Release], half_done: Callable[..., None], bake: Any, picture: Callable[[Path], Any]
) -> None:
    half_done(running)
    before = picture(Path("out"))
    result = bake("upgrade", "--to", "old", "--yes")
    assert (result.code, "the image's etcd: 3.5.26" in result.err) == (2, True), result.err
    assert picture(Path("out")) == before


def test_the_older_series_alone_is_refused_with_the_way_back(half_done: Callable[..., None], bake: Any) -> None:
    half_done(three((3, 6, 6), (3, 5, 26), (3, 5, 26)))
    Path("old.yaml").write_text("apiVersion: bake/v1\nnodes: 3\netcd: {version: '3.5'}\n")
    result = bake("apply", "--config", "old.yaml", "--yes")
    assert result.code == 2, result.err
    assert "while a member still runs the older version, use `bake upgrade --to IMAGE`" in result.err


def test_the_way_back_from_an_own_image_to_bakes_image(half_done: Callable[..., None], bake: Any) -> None:
    half_done(three((3, 5, 26)), "--image", "/images/own.qcow2")
    result = bake("upgrade", "--to", "old", "--yes")
    assert result.code == 4, result.err
    assert spec_of().vm.image is None
    refused = bake("upgrade", "--to", "0123", "--image", "/images/own.qcow2")
    assert "--to: cannot be used with --image" in refused.err


def test_an_own_image_is_not_in_the_cache(half_done: Callable[..., None], bake: Any) -> None:
    half_done(three((3, 5, 26)), "--image", "/images/own.qcow2")
    result = bake("upgrade", "--to", "0123", "--yes")
    assert (result.code, "give your own older image with --image" in result.err) == (2, True), result.err


def test_after_a_failure_the_hint_goes_on_with_the_upgrade(half_done: Callable[..., None], bake: Any) -> None:
    half_done(three((3, 6, 6), (3, 5, 26), (3, 5, 26)))
    result = bake("upgrade", "--yes")
    assert result.code == 4, result.err
    assert "to go on, run bake upgrade; to return to the previous image, run bake upgrade --to old" in result.err


def test_new_disks_are_made_from_the_image_to_which_the_user_returned(
    half_done: Callable[..., None], bake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`bake apply` after a killed `bake upgrade --to` must not use the newest image, which the user does not want."""
    vm = pytest.importorskip("generator.vm")
    real, said = engines.make_engine, list[str]()

    def image_of() -> str:
        options = {"cache": tmp_path / "cache", "connect": None}
        return str(real(options, said.append, open_cluster(Store(Path("out"), "etcd"))).load_image().digest)  # type: ignore[attr-defined]

    half_done(three((3, 6, 6), (3, 5, 26), (3, 5, 26)))
    monkeypatch.setattr(vm, "connect", lambda _uri: None)
    assert image_of() == f"{RECIPE}-new"
    bake("upgrade", "--to", "old", "--yes")
    assert image_of() == "old"
    assert bake("apply", "--wait", "30", "--yes").code == 4
    assert image_of() == "old", "another command keeps the choice"
    shutil.rmtree(tmp_path / "cache/images/old")
    assert image_of() == f"{RECIPE}-new"
    gone = f"the image old is no longer in {tmp_path}/cache"
    assert said == [f"warning: {gone}; new disks are made from the newest image"]
    Path("new.yaml").write_text("apiVersion: bake/v1\nnodes: 3\netcd: {version: '3.6'}\n")
    bake("upgrade", "--config", "new.yaml", "--yes")
    assert not Path("out/etcd/image.txt").exists()


def test_a_return_that_is_killed_before_the_new_spec_is_written_has_chosen_the_image(
    half_done: Callable[..., None], bake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the older etcd.version, `bake apply` exchanges the root disk of etcd1. It must not use the newest image."""

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    half_done(three((3, 6, 6), (3, 5, 26), (3, 5, 26)))
    monkeypatch.setattr(change_module, "bake", kill)
    bake("upgrade", "--to", "old", "--yes")
    assert (chosen_image(Store(Path("out"), "etcd")), spec_of().etcd.version) == ("old", "3.6")


def test_the_cache_is_cleaned_with_the_vms_of_the_clusters_own_hosts(
    half_done: Callable[..., None], bake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, asked = pytest.importorskip("generator.vm"), list[str | None]()
    monkeypatch.setattr(vm, "connect", lambda uri: asked.append(uri) or SimpleNamespace(listAllDomains=list))
    monkeypatch.setattr("generator.cli.upgrade.change.run_apply", lambda *_, **__: None)
    monkeypatch.setattr("generator.cli.upgrade.reach", lambda *_: None)
    hosts = "".join(f"  - {{name: h{n}, uri: 'qemu+ssh://h{n}/system'}}\n" for n in (1, 2, 3))
    Path("hosts.yaml").write_text(
        f"apiVersion: bake/v1\nnodes: 3\nnetwork: {{mode: bridge, bridge: br0}}\nhosts:\n{hosts}"
    )
    half_done(three((3, 5, 26)), "--config", "hosts.yaml")
    result = bake("upgrade", "--to", "old", "--yes")
    assert result.code == 0, result.err
    assert asked == [f"qemu+ssh://h{n}/system" for n in (1, 2, 3)]
