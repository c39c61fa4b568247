"""Commands on an existing cluster: the fields that they change, the changes that they show, and questions."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from errno import EIO
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from generator import cli
from generator.cli import common
from generator.config import spec as spec_module
from generator.config.load import load_kept
from generator.config.placement import node_names
from generator.errors import BakeError
from generator.operations.bake import bake as make
from generator.store.existing_cluster import load_existing
from generator.store.folder import Store

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
FOLDER = Path("out/etcd")
# etcd.options of the profiles default and hardened
LIMITS = {
    "auto-compaction-mode": "periodic", "auto-compaction-retention": "1h", "quota-backend-bytes": 2 << 30,
}  # fmt: skip


def current(*path: str) -> Any:
    """Return the current value of a field."""
    value = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    for key in path:
        value = value[key]
    return value


def stored_input() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "input.yaml").read_text()))


def changes(result: Any) -> list[tuple[str, str, str]]:
    found = json.loads(result.out)["changes"]
    return [(each["change"], each["kind"], each["name"]) for each in found if each["kind"] != "file"]


# --- changed and kept fields --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("--nodes", 5),
        ("--profile", "hardened"),
        ("--subnet", "10.1.2.0/24", "--first-ip", "10.1.2.77", "--leaf-days", 90),
        ("--profile", "classic", "--key-type", "rsa-2048"),
        ("--config", "c.yaml"),
    ],
    ids=str,
)
def test_without_options_the_cluster_is_unchanged(
    bake: Bake, picture: Picture, words: tuple[object, ...]
) -> None:
    Path("c.yaml").write_text("nodes: [{name: a}, {name: b}]\nauth: true\netcd: {options: {heartbeat-interval: 200}}\n")
    assert bake(*words).code == 0
    before = picture(Path("out"))
    result = bake()
    assert (result.code, picture(Path("out"))) == (0, before)
    assert "Nothing changed" in result.err
    check = bake("check", "-o", "json")
    assert (check.code, changes(check)) == (0, [])
    assert json.loads(check.out)["spec"] == yaml.safe_load((FOLDER / "cluster.yaml").read_text())


def test_a_flag_changes_only_its_field(bake: Bake) -> None:
    bake("--profile", "hardened", "--nodes", 5)
    before = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    result = bake("--leaf-days", 60, "-o", "json")
    assert (result.code, changes(result)) == (0, [("~", "field", "pki.leafDays")])
    assert yaml.safe_load((FOLDER / "cluster.yaml").read_text()) == {**before, "pki": {**before["pki"], "leafDays": 60}}


def test_a_cluster_file_replaces_all_fields_that_were_set(bake: Bake) -> None:
    Path("c.yaml").write_text("etcd: {options: {heartbeat-interval: 200}}\nvm: {memory: 2048}\n")
    bake("--profile", "hardened", "--nodes", 5, "--cpus", 2, "--config", "c.yaml")
    Path("c.yaml").write_text("vm: {memory: 4096}\nnodes: 5\n")
    result = bake("--config", "c.yaml", "-o", "json")
    assert result.code == 0
    assert changes(result) == [
        ("-", "field", "etcd.options.heartbeat-interval"), ("~", "field", "vm.memory"), ("~", "field", "vm.cpus"),
    ]  # fmt: skip
    assert current("auth", "enabled") is True  # the value comes from the profile, which is unchanged
    assert stored_input() == {
        "formatVersion": "1.0",
        "profile": "hardened",
        "profileFields": {
            "pki": {"leafDays": 90, "nameConstraints": "all"},
            "etcd": {"tlsMinVersion": "1.3", "options": LIMITS},
            "firewall": {"clientCidrs": ["subnet"]},
            "auth": {"enabled": True},
        },
        "fields": {"vm": {"memory": 4096}, "nodes": 5},
    }


def test_a_profile_replaces_the_previous_profile(bake: Bake) -> None:
    bake("--profile", "hardened", "--leaf-days", 33)
    assert bake("--profile", "default", "--yes").code == 0
    assert (current("etcd", "tlsMinVersion"), current("auth", "enabled")) == ("1.2", False)
    assert current("pki", "leafDays") == 33
    assert (stored_input()["profile"], stored_input()["profileFields"]) == ("default", {"etcd": {"options": LIMITS}})


def test_the_name_in_a_file_selects_the_cluster(bake: Bake) -> None:
    Path("c.yaml").write_text("name: prod\nnodes: 1\n")
    assert bake("--config", "c.yaml").code == 0
    assert bake("--name", "prod", "--nodes", 3).code == 0
    assert len(node_names(load_kept(Path("out/prod/cluster.yaml")))) == 3
    assert not FOLDER.exists()


def test_a_new_cluster_next_to_others_is_reported(bake: Bake) -> None:
    assert "is a new cluster" not in bake("--name", "prod", "--nodes", 1).err
    said = "etcd is a new cluster; to change an existing cluster, add --name with one of: prod\n"
    assert said in bake("--nodes", 1).err
    assert "is a new cluster" not in bake().err


def test_up_after_down_boots_the_same_cluster(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    bake("--profile", "hardened", "--nodes", 5)
    booted: list[Any] = []

    def stop(engine: Any, *names: str) -> None:
        assert names == tuple(node.name for node in engine.plan.nodes)
        booted.append(engine.plan)
        raise BakeError("far enough")

    monkeypatch.setattr("generator.vm.connect", lambda _: object())
    monkeypatch.setattr("generator.operations.up.boot_image", lambda *_: SimpleNamespace(built=""))
    monkeypatch.setattr("generator.vm.LibvirtEngine.create", stop)
    for words in ((), ("--memory", 2048)):
        result = bake("up", *words)
        assert result.err.endswith("error: far enough\n")
    assert [len(plan.nodes) for plan in booted] == [5, 5]
    assert all(plan.spec.auth.enabled for plan in booted)
    assert [plan.spec.vm.memory for plan in booted] == [1024, 2048]
    assert "~ vm.memory: 1024 → 2048" in result.err
    refused = bake("up", "--nodes", 3)
    assert (refused.code, len(booted)) == (2, 2)


@pytest.mark.parametrize("by", ["flag", "file"])
def test_user_files_are_found_from_any_folder(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, picture: Picture, by: str
) -> None:
    shutil.copy(Path(__file__).parents[1] / "data/etcd.tar.gz", "etcd.tar.gz")
    digest = sha256(Path("etcd.tar.gz").read_bytes()).hexdigest()
    Path("c.yaml").write_text(f"install: {{archive: etcd.tar.gz, sha256: '{digest}'}}\n")
    flags = ("--archive", "etcd.tar.gz", "--archive-sha256", digest)
    assert bake("--profile", "rhel", *(flags if by == "flag" else ("--config", "c.yaml"))).code == 0
    before, out = picture(Path("out")), Path("out").absolute()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert bake("--out", out).code == 0
    assert picture(out) == before


def test_paths_stay_relative_in_a_folder_with_an_invalid_name(
    bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("José").mkdir()
    monkeypatch.chdir("José")
    assert bake("--image", "x.qcow2").code == 0
    assert current("vm", "image") == "x.qcow2"


def test_a_problem_in_a_kept_field_has_its_location(bake: Bake) -> None:
    bake("--subnet", "10.1.2.0/24", "--first-ip", "10.1.2.77")
    result = bake("--subnet", "10.1.3.0/24")
    assert result.code == 2
    assert f"{FOLDER.absolute()}/input.yaml:" in result.err
    assert "network.firstIp: 10.1.2.77 (node etcd1) is outside the subnet 10.1.3.0/24" in result.err


def test_fields_with_another_value_are_forgotten(bake: Bake) -> None:
    """For example, `certs rotate --ca` replaces the CA that the user gave."""
    Path("c.yaml").write_text("vm: {memory: 2048, cpus: 2}\n")
    bake("--profile", "ci", "--config", "c.yaml")
    spec = load_kept(FOLDER / "cluster.yaml")
    other = replace(spec, vm=replace(spec.vm, cpus=4, disk=9))
    make(other, Store(Path("out"), "etcd"), now=datetime.now(UTC), report=pytest.fail)
    assert stored_input()["fields"] == {"vm": {"memory": 2048}}
    assert stored_input()["profileFields"]["vm"] == {"memory": 512, "dataDisk": 2}
    assert "Nothing changed" in bake().err


# --- folders of an earlier version --------------------------------------------------------------------------


@pytest.fixture
def older(bake: Bake) -> Callable[..., None]:
    """Bake a cluster as an older version did, without input.yaml."""

    def make(*words: object, without: str = "") -> None:
        bake(*words)
        (FOLDER / "input.yaml").unlink()
        kept = FOLDER / "cluster.yaml"
        lines = [line for line in kept.read_text().splitlines(keepends=True) if not (without and without in line)]
        kept.write_text("".join(lines))
        manifest = json.loads((FOLDER / "manifest.json").read_text())
        del manifest["files"]["input.yaml"]
        manifest["files"]["cluster.yaml"]["sha256"] = sha256(kept.read_bytes()).hexdigest()
        (FOLDER / "manifest.json").write_text(json.dumps(manifest))

    return make


def test_all_fields_of_an_older_folder_are_kept(bake: Bake, older: Callable[..., None]) -> None:
    older("--profile", "hardened", "--nodes", 5)
    Path("c.yaml").write_text("vm: {memory: 4096}\n")
    for words in ((), ("--config", "c.yaml"), ("--leaf-days", 60), ("--profile", "default")):
        assert bake(*words).code == 0
    assert (current("nodes"), current("auth", "enabled"), current("etcd", "tlsMinVersion")) == (5, True, "1.3")
    assert (current("vm", "memory"), current("pki", "leafDays")) == (4096, 60)


def test_a_field_of_a_newer_version_keeps_the_old_behaviour(
    bake: Bake, older: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test treats `etcd.version` as a field that a newer version added."""
    older("--nodes", 1, without="version: '3.5'")
    for module in ("generator.config.user_input", "generator.config.load"):
        monkeypatch.setattr(f"{module}.FIELDS_ADDED", {("etcd", "version"): "3.6"})
    result = bake()
    assert result.code == 0
    assert current("etcd", "version") == "3.6"
    note = "note: the cluster keeps values that differ from bake's new defaults: etcd.version 3.6, not 3.5"
    assert note in result.err


def test_a_new_default_changes_nothing_and_is_reported(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    bake("--cpus", 2)
    defaults = spec_module.ClusterSpec(vm=spec_module.VmSpec(memory=2048, cpus=4))
    monkeypatch.setattr("generator.config.load._DEFAULTS", defaults)
    result = bake()
    assert "Nothing changed" in result.err
    assert "values that differ from bake's new defaults: vm.memory 1024, not 2048\n" in result.err
    assert "vm.cpus" not in result.err


def test_a_new_version_of_a_profile_changes_nothing_and_is_reported(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profiles = tmp_path / "profiles"
    shutil.copytree(Path(__file__).parents[2] / "profiles", profiles)
    monkeypatch.setattr("generator.config.load.PROFILES", profiles)
    bake("--profile", "ci")
    (profiles / "ci.yaml").write_text("vm: {memory: 768, disk: 4}\npki: {caDays: 30, leafDays: 7}\n")
    result = bake()
    assert "Nothing changed" in result.err
    assert "vm.memory 512, not 768" in result.err
    assert "network.mode isolated, not nat" in result.err
    assert bake("--profile", "ci").code == 0
    assert current("vm", "memory") == 768
    assert "note:" not in bake().err


@pytest.mark.parametrize("profile", ["default", "hardened"])
def test_a_cluster_that_was_baked_without_compaction_stays_without(
    bake: Bake, picture: Picture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
) -> None:
    """The profiles of earlier versions set none of the options LIMITS."""
    older = tmp_path / "profiles"
    older.mkdir()
    (older / "default.yaml").write_text("apiVersion: bake/v1\n")
    (older / "hardened.yaml").write_text("etcd: {tlsMinVersion: 1.3}\n")
    with monkeypatch.context() as patch:
        patch.setattr("generator.config.load.PROFILES", older)
        bake("--profile", profile)
    before = picture(Path("out"))
    result = bake()
    assert (result.code, picture(Path("out")), current("etcd", "options")) == (0, before, {})
    assert "etcd.options.auto-compaction-mode unset, not periodic" in result.err
    assert bake("--profile", profile, "--yes").code == 0
    assert current("etcd", "options") == LIMITS


# --- shown changes ------------------------------------------------------------------------------------------


def test_changes_are_shown_before_they_are_made(bake: Bake) -> None:
    bake("--nodes", 3)
    result = bake("--nodes", 4, "--leaf-days", 90, "-o", "json")
    lines = result.err.splitlines()
    for line in (
        "+ node etcd4: 192.168.20.34",
        "~ pki.leafDays: 365 → 90",
        "~ etcd1/: user-data, meta-data, seed.iso",
        "+ etcd4/: user-data, meta-data, network-config, seed.iso",
    ):
        assert line in lines
    files = [each for each in json.loads(result.out)["changes"] if each["kind"] == "file"]
    assert {"change": "+", "kind": "file", "name": "etcd4/seed.iso", "lost": None} in files
    assert "PRIVATE KEY" not in result.err + result.out


@pytest.mark.parametrize("more", [("--leaf-days", 90), ("--nodes", 2, "--yes")], ids=str)
def test_changes_are_shown_before_a_failure(
    bake: Bake, picture: Picture, monkeypatch: pytest.MonkeyPatch, more: tuple[object, ...]
) -> None:
    """The message lists every file that would change, and bake changes nothing."""
    bake("--nodes", 3)
    before = picture(Path("out"))

    def fail(*_: Path) -> None:
        raise OSError(EIO, "no swap")

    monkeypatch.setattr("generator.store.atomic.exchange", fail)
    result = bake(*more)
    assert (result.code, picture(Path("out"))) == (1, before)
    lines = result.err.splitlines()
    shown = {
        "--leaf-days": ("~ pki.leafDays: 365 → 90", "~ etcd1/: user-data, meta-data, seed.iso"),
        "--nodes": ("- node etcd3: 192.168.20.33 (its keys are deleted)",),
    }
    assert set(shown[str(more[0])]) <= set(lines)
    assert "error" in lines[-2] + lines[-1]
    assert any(line.startswith("- etcd3/: ") for line in lines) == (more[0] == "--nodes")


def test_a_first_bake_shows_no_difference(bake: Bake) -> None:
    result = bake("--nodes", 3, "-o", "json")
    assert json.loads(result.out)["changes"] == []
    assert "+ " not in result.err


def test_check_shows_changes_and_changes_nothing(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    before = picture(Path("out"))
    result = bake("check", "--nodes", 1, "-o", "json")
    assert (result.code, picture(Path("out"))) == (0, before)
    assert changes(result) == [("-", "node", "etcd2"), ("-", "node", "etcd3")]
    assert {each["lost"] for each in json.loads(result.out)["changes"]} == {"its keys are deleted"}


# --- confirmation -------------------------------------------------------------------------------------------

USERS = "auth: {enabled: true, users: [{name: alice, roles: [root]}]}\n"
LOSSES = {
    "a node's keys": ((), ("--nodes", 2), "etcd3: its keys are deleted"),
    "a user's key": (("--config", "users.yaml"), ("--config", "empty.yaml", "--profile", "hardened"), "alice: its key"),
    "authentication": (("--profile", "hardened"), ("--profile", "default"), "authentication is switched off"),
    "a MAC": (("sealed",), ("--config", "mac.yaml"), "still use the old addresses"),
}


@pytest.fixture
def losing_bake(bake: Bake) -> Callable[[str], tuple[tuple[str, ...], str]]:
    """Return the options of a bake that loses data of the baked cluster."""
    texts = {
        "users": USERS,
        "empty": "vm: {cpus: 2}\n",
        "mac": 'nodes: [{name: etcd1, mac: "52:54:00:00:00:01"}, {name: etcd2}, {name: etcd3}]\n',
    }
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)

    def make(loss: str) -> tuple[tuple[str, ...], str]:
        first, words, text = LOSSES[loss]
        assert bake("--name", "etcd", *(word for word in first if word != "sealed")).code == 0
        if "sealed" in first:
            (FOLDER / "sealed").write_text("")
        return words, text

    return make


@pytest.mark.parametrize("loss", LOSSES)
def test_changes_that_cannot_be_undone_need_confirmation(
    bake: Bake, losing_bake: Callable[[str], tuple[tuple[str, ...], str]], loss: str, picture: Picture
) -> None:
    words, text = losing_bake(loss)
    before = picture(Path("out"))
    for more in ((), ("-q",), ("-o", "json")):
        refused = bake(*words, *more)
        assert (refused.code, "changes" in refused.out) == (2, False)
        assert "error: this cannot be undone: " in refused.err
        assert text in refused.err
        assert any(line[:2] in ("- ", "~ ") for line in refused.err.splitlines())
        assert picture(Path("out")) == before
    agreed = bake(*words, "--yes", "-o", "json")
    assert agreed.code == 0
    assert any(each["lost"] for each in json.loads(agreed.out)["changes"])
    assert bake().code == 0


# For each change that no running node can apply: the file before and after it, the field, and the way.
REFUSED = {
    "an address": ("", "network: {firstIp: 192.168.20.99}", "nodes[].address: etcd1: ", "remove the node, then add it"),
    "the network": ("", "network: {subnet: 10.9.9.0/24}", "network.subnet: ", "create a new cluster with another"),
    "a port": ("", "etcd: {peerPort: 2390}", "etcd.peerPort: ", "create a new cluster with another --name"),
    "a client port": ("", "etcd: {clientPort: 2390}", "etcd.clientPort: ", "create a new cluster with another --name"),
    "an older etcd": ("etcd: {version: '3.6'}", "", "etcd.version: ", "create a new cluster with another --name"),
    "a name": ("", "nodes: [{name: etcd1}, {name: etcd2}, {name: x}]", "nodes[].name: ", "in a second change"),
    "the data's place": ("", "etcd: {dataDir: /var/lib/etcd/new}", "etcd.dataDir: ", "create a new cluster"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_change_that_no_running_node_can_apply_is_refused_despite_confirmation(
    bake: Bake, case: str, picture: Picture
) -> None:
    before, after, where, way = REFUSED[case]
    for name, text in (("before", before), ("after", after)):
        Path(f"{name}.yaml").write_text(f"vm: {{cpus: 2}}\n{text}\n")
    assert bake("--config", "before.yaml").code == 0
    (FOLDER / "sealed").write_text("")
    kept = picture(Path("out"))
    for words in (("--yes",), (), ("--yes", "-q"), ("--yes", "-o", "json"), ("check",), ("check", "-o", "json")):
        refused = bake(*words, "--config", "after.yaml")
        assert (refused.code, picture(Path("out"))) == (2, kept)
        assert f"error: {where}" in refused.err
        assert way in refused.err.partition("hint: ")[2]
        assert "add --yes" not in refused.err
    (FOLDER / "sealed").unlink()
    assert bake("--yes", "--config", "after.yaml").code == 0


def test_a_refused_change_whose_way_needs_new_seeds_is_written(bake: Bake) -> None:
    bake("--nodes", 1)
    (FOLDER / "sealed").write_text("")
    result = bake("--network-mode", "isolated")
    assert (result.code, current("network", "mode")) == (0, "isolated")
    assert "[refused] (running VMs and containers keep their network; run `bake down`, `bake` with" in result.err


def test_changes_of_an_unsealed_cluster_need_no_confirmation(bake: Bake) -> None:
    bake("--nodes", 1)
    assert bake("--first-ip", "192.168.20.99").code == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "nodes"), [("y\n", 0, 1), ("n\n", 1, 3), ("\n", 1, 3)])
def test_a_terminal_is_asked(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, picture: Picture, answer: str, code: int, nodes: int
) -> None:
    bake("--nodes", 3)
    before = picture(Path("out"))
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    result = bake("--nodes", 1)
    assert (result.code, current("nodes")) == (code, nodes)
    assert "This cannot be undone. Continue?" in result.err
    assert (picture(Path("out")) == before) == (code != 0)
    if code == 1:
        assert result.err.endswith("error: nothing was done\n")


def test_a_confirmation_is_void_after_a_change_by_another_run(
    bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run adds two nodes after the user's answer. The options would now delete keys, so bake asks again."""
    bake("--nodes", 3)
    agree, others = common.agree, [("--nodes", "5")]

    def interrupted(*words: Any) -> Any:
        found = agree(*words)
        if others:
            run_in_between(*others.pop())
        return found

    def run_in_between(*words: str) -> None:
        with argv(*words), pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0

    monkeypatch.setattr(common, "agree", interrupted)
    result = bake("--nodes", 4)
    assert result.code == 2
    assert "has changed" in result.err
    assert "starting over" in result.err
    assert "etcd5: its keys are deleted" in result.err
    assert current("nodes") == 5


def test_a_folder_that_is_replaced_during_reading_is_read_again(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise, bake could compare the old manifest with the new cluster.yaml, which would look edited."""
    bake("--nodes", 1, "--out", "other")
    bake("--nodes", 3)
    read, others = Store.read, [tmp_path / "other/etcd"]

    def interrupted(store: Store, path: Any) -> bytes | None:
        if str(path) == "cluster.yaml" and others:
            FOLDER.rename("old")
            others.pop().rename(FOLDER)
        return read(store, path)

    monkeypatch.setattr(Store, "read", interrupted)
    found = load_existing(Store(tmp_path / "out", "etcd"))
    assert found is not None
    assert (found.is_known, found.value["nodes"], found.nodes) == (True, 1, {"etcd1"})


@contextmanager
def argv(*words: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["bake", *words])
        yield


# --- edited files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("nodes: 1\n"), Path.unlink], ids=["edited", "gone"])
def test_an_edited_spec_is_not_used(
    bake: Bake, spoil: Callable[[Path], object], picture: Picture
) -> None:
    bake("--nodes", 3)
    spoil(FOLDER / "cluster.yaml")
    before = picture(Path("out"))
    for words in ((), ("--nodes", 3)):
        result = bake(*words)
        assert (result.code, picture(Path("out"))) == (2, before)
        assert "cluster.yaml: was changed after bake wrote it, so bake does not know the cluster's fields" in result.err
    Path("c.yaml").write_text("nodes: 2\n")
    result = bake("--config", "c.yaml")
    assert (result.code, picture(Path("out"))) == (2, before)
    assert "etcd3: its keys are deleted" in result.err
    assert "bake cannot compare it with the new spec" in result.err
    assert bake("--config", "c.yaml", "--yes").code == 0
    assert current("nodes") == 2


def test_an_edited_input_file_is_refused(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 3)
    (FOLDER / "input.yaml").write_text((FOLDER / "input.yaml").read_text().replace("nodes: 3", "nodes: 1"))
    before = picture(Path("out"))
    result = bake()
    assert (result.code, picture(Path("out"))) == (2, before)
    assert "input.yaml: was changed after bake wrote it" in result.err
    (FOLDER / "input.yaml").unlink()
    assert bake("--leaf-days", 90).code == 0
    assert (current("nodes"), stored_input()["fields"]) == (3, {"pki": {"leafDays": 90}})


@pytest.mark.parametrize("words", [["etcd1"], ["--ca", "--wait", "1"]], ids=["certificates", "ca"])
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("cluster.yaml", "enabled: true", "enabled: false"),
        ("cluster.yaml", "nodes: 3", "nodes: 2"),
        ("input.yaml", "90", "91"),
    ],
)
def test_a_renewal_does_not_apply_edits(
    bake: Bake, picture: Picture, file: str, old: str, new: str, words: list[str]
) -> None:
    pytest.importorskip("libvirt")
    bake("--nodes", 3, "--profile", "hardened")
    text = (FOLDER / file).read_text()
    assert old in text
    (FOLDER / file).write_text(text.replace(old, new))
    before = picture(Path("out"))
    result = bake("certs", "rotate", *words, "--connect", "test:///default")
    assert (result.code, picture(Path("out"))) == (2, before), result.err
    assert f"{file}: was changed after bake wrote it" in result.err


def test_a_renewal_names_the_files_that_a_newer_version_changes(bake: Bake, older: Callable[..., None]) -> None:
    pytest.importorskip("libvirt")
    bake("--nodes", 3)
    older()
    listed = json.loads((FOLDER / "manifest.json").read_text())
    (FOLDER / "etcd2/meta-data").write_text("instance-id: old\n")
    listed["files"]["etcd2/meta-data"]["sha256"] = sha256(b"instance-id: old\n").hexdigest()
    (FOLDER / "manifest.json").write_text(json.dumps(listed))
    result = bake("certs", "rotate", "etcd1", "--connect", "test:///default")
    assert result.code == 0, result.err
    assert "~ etcd1/: user-data" in result.err
    assert "~ etcd2/: meta-data" in result.err
