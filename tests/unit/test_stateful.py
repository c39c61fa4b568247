"""Random sequences of commands on one folder, some of them killed: no data is lost without confirmation.

A model has the expected result of each command. After each step, the folder is compared with the model.
`BAKE_EXAMPLES=200` tests more sequences.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from generator import cli
from generator.config import yaml12
from generator.config.fields import plain
from generator.config.load import load, load_kept
from generator.config.spec import ClusterSpec
from generator.config.user_input import canonical, flat, parse_input, paths_of, put, without
from generator.errors import InputError
from generator.operations import bake as baking
from generator.operations import seal as sealing
from generator.operations.baked_cluster import open_cluster
from generator.pki.ca_phases import Phase
from generator.plan import plan_cluster
from generator.store.cas import load_phase
from generator.store.folder import Store
from tests.hostile.cuts import contents, is_whole
from tests.hostile.forked import End, run_apart

EXAMPLES = int(os.environ.get("BAKE_EXAMPLES", "6"))
PROFILES = {
    **{name: (Path(__file__).parents[2] / f"profiles/{name}.yaml").read_text() for name in ("default", "hardened")},
    "own.yaml": "pki: {subject: {organization: k8s}, leafDays: 300}\netcd: {options: {max-txn-ops: 256}}\n",
}
FLAGS: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "--nodes": (("nodes",), (1, 2, 3, 4)),
    "--leaf-days": (("pki", "leafDays"), (90, 365, 400)),
    "--first-ip": (("network", "firstIp"), ("192.168.20.31", "192.168.20.77")),
    "--memory": (("vm", "memory"), (1024, 2048)),
}
USERS: tuple[dict[str, Any], ...] = (
    {"enabled": False},
    {"enabled": True},
    {"enabled": True, "users": [{"name": "alice", "roles": ["root"]}]},
    {"enabled": True, "users": [{"name": "alice"}, {"name": "bob"}]},
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "nodes": st.sampled_from(
            [2, 3, [{"name": "etcd1"}, {"name": "other"}], [{"name": "etcd1", "address": "192.168.20.99"}]]
        ),
        "auth": st.sampled_from(USERS),
        "etcd": st.sampled_from([{"options": {"heartbeat-interval": 200}}, {"clientPort": 3379}]),
        "vm": st.sampled_from([{"cpus": 2}, {"memory": 512, "disk": 9}]),
    },
)
LEFT_OPEN = {("pki", "peerName"), ("pki", "peerCa", "separate")}
ONE = st.one_of(
    *(st.tuples(st.just(flag), st.sampled_from(values)) for flag, (_, values) in FLAGS.items()),
    st.tuples(st.just("--profile"), st.sampled_from(list(PROFILES))),
    st.tuples(st.just("--config"), FILES),
)
LOSING = (
    ("--nodes", 1),
    ("--first-ip", "192.168.20.77"),
    ("--profile", "default"),
    ("--config", {"auth": USERS[0]}),
    ("--config", {"auth": USERS[1], "etcd": {"clientPort": 3379}}),
)
CUTS = st.none() | st.integers(1, 40)


def cut_at(number: int, out: Path) -> None:
    """Kill this process at its operation `number` on files below a folder."""
    left = [number]

    def hook(event: str, words: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(words[2], int) and words[2] & os.O_WRONLY
        if writes or event in ("os.rename", "os.link", "os.mkdir", "os.remove", "shutil.rmtree"):
            below = str(out) in str(words[1] if event == "os.link" else words[0])
        else:
            below = event == "ctypes.dlopen"  # before the sync of the disk and before the exchange of the folders
        left[0] -= below
        if below and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@dataclass
class Model:
    """The expected state: fields that the user set, and kept values of other fields."""

    profile: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)

    def expected(
        self, profile: str | None, config: Mapping[str, Any] | None, flags: Mapping[str, Any], *, is_new: bool
    ) -> Model:
        """Return the model after a bake with this input."""
        fields = deepcopy(dict(config) if config is not None else self.fields)
        for flag, value in flags.items():
            put(fields, FLAGS[flag][0], value)
        after = Model(profile or self.profile or ("default" if is_new else None), fields, self.base)
        said = [*paths_of(after.profile_fields), *paths_of(fields), *paths_of(self.fields)]
        after.base = without(self.base, [*said, *paths_of(self.profile_fields)])
        return after

    @property
    def profile_fields(self) -> dict[str, Any]:
        return dict(yaml12.load_text(PROFILES[self.profile], "profile").value or {}) if self.profile else {}

    def spec(self, scratch: Path) -> ClusterSpec:
        """Return the spec of a first bake with all these fields."""
        layers = [scratch / "base.yaml", scratch / "fields.yaml"]
        below = deepcopy(self.base)
        for path, value in flat(self.profile_fields).items():
            put(below, path, value)
        layers[0].write_text(yaml12.dump({"apiVersion": "bake/v1", **below}))
        layers[1].write_text(yaml12.dump({"apiVersion": "bake/v1", **self.fields}))
        return load(profile=str(layers[0]), config=layers[1]).spec


def fixed_fields(spec: ClusterSpec) -> dict[tuple[str | int, ...], Any]:
    """Return the fields of a spec, except those with defaults that depend on other fields."""
    return {path: value for path, value in flat(plain(spec)).items() if path not in LEFT_OPEN}


def losses(old: ClusterSpec, new: ClusterSpec) -> list[str]:
    """Return words that bake's message about lost data must contain, without calling bake's code for this message."""
    before, after = ({node.name: node.client_url for node in plan_cluster(spec).nodes} for spec in (old, new))
    lost = [name for name in before if name not in after]
    lost += [name for name in old.auth.common_names if name != "nobody" and name not in new.auth.common_names]
    lost += ["authentication is switched off"] * (old.auth.enabled and not new.auth.enabled)
    return lost


def moves_members(old: ClusterSpec, new: ClusterSpec) -> bool:
    """Return whether a member gets another URL, or a new node gets the address of a removed node."""
    before, after = ({node.name: node.client_url for node in plan_cluster(spec).nodes} for spec in (old, new))
    added, left = ({urls[name] for name in urls.keys() - others} for urls, others in ((after, before), (before, after)))
    ports = old.etcd.client_port != new.etcd.client_port
    return ports or bool(added & left) or any(before[name] != after[name] for name in before.keys() & after)


class Commands(RuleBasedStateMachine):
    """A cluster's folder, its model, and the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="bake-stateful-"))
        self.work = self.scratch / "work"
        self.work.mkdir()
        (self.work / "own.yaml").write_text(PROFILES["own.yaml"])
        self.out = "out"
        self.model = Model()
        self.touched = False  # whether the folder has changed since the last check

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    def is_refused(self, expected: Model) -> bool:
        """Return whether bake refuses such a cluster, or this change of a cluster that has started."""
        try:
            new = expected.spec(self.scratch)
        except InputError:
            return True
        is_sealed = (self.folder / "sealed").exists()
        return is_sealed and moves_members(load_kept(self.folder / "cluster.yaml"), new)

    def losses(self, expected: Model) -> list[str]:
        old, new = load_kept(self.folder / "cluster.yaml"), expected.spec(self.scratch)
        return losses(old, new)

    @property
    def folder(self) -> Path:
        return self.work / self.out / "etcd"

    @property
    def store(self) -> Store:
        return Store(self.work / self.out, "etcd")

    def is_baked(self) -> bool:
        return (self.folder / "manifest.json").exists()

    def bake(self, *words: object, cut: int | None = None) -> End:
        def act() -> None:
            sys.argv[1:] = [*map(str, words), "--out", self.out]
            cli.main()

        return self.in_fork(act, cut)

    def in_fork(self, act: Callable[[], object], cut: int | None) -> End:
        """Run `bake` in a forked process, which is killed if `cut` is set. The folder has all old or all new files."""

        def cutting() -> None:
            if cut:
                cut_at(cut, self.work / self.out)
            act()

        before, keys = contents(self.folder), self.authority_keys()
        phase = load_phase(self.store)
        end = run_apart(cutting, self.work)
        after = contents(self.folder)
        assert end.code in (0, 2, -9), end.said
        assert "Traceback" not in end.said, end.said
        self.touched = self.touched or after != before or end.code == -9
        assert after == before or end.code != 2, end.said
        assert after == before or is_whole(self.folder), f"the folder has old and new files after {end}"
        assert phase is Phase.DROP or keys <= self.authority_keys(), "the key of a CA is lost"
        return end

    def authority_keys(self) -> set[bytes]:
        return {path.read_bytes() for path in (self.folder / "pki").glob("etcd-*ca*.key")}

    @initialize(
        profile=st.sampled_from(list(PROFILES)), config=FILES, nodes=st.sampled_from([2, 3]), sealed=st.booleans()
    )
    def begin(self, profile: str, config: dict[str, Any], nodes: int, sealed: bool) -> None:
        self.bake_with_options("bake", profile, config, {"--nodes": nodes}, yes=False, cut=None)
        if sealed:
            self.seal(None)

    @precondition(is_baked)
    @rule()
    def try_to_lose(self) -> None:
        """Check that bake refuses each change that loses data without confirmation."""
        for word, value in LOSING:
            flags = {word: value} if word in FLAGS else {}
            profile, config = (value if word == each else None for each in ("--profile", "--config"))
            expected = self.model.expected(profile, config, flags, is_new=False)
            if self.is_refused(expected) or self.losses(expected):
                self.bake_with_options("bake", profile, config, flags, yes=False, cut=None)

    @rule(one=ONE, yes=st.booleans(), cut=CUTS)
    def bake_with_one_option(self, one: tuple[str, Any], yes: bool, cut: int | None) -> None:
        word, value = one
        flags = {word: value} if word in FLAGS else {}
        profile, config = (value if word == each else None for each in ("--profile", "--config"))
        self.bake_with_options("bake", profile, config, flags, yes, cut)

    @rule(
        command=st.sampled_from(["bake", "bake", "bake", "check"]),
        profile=st.none() | st.sampled_from(list(PROFILES)),
        config=st.none() | FILES,
        flags=st.fixed_dictionaries({}, optional={flag: st.sampled_from(FLAGS[flag][1]) for flag in FLAGS}),
        yes=st.booleans(),
        cut=CUTS,
    )
    def bake_with_options(
        self,
        command: str,
        profile: str | None,
        config: dict[str, Any] | None,
        flags: dict[str, Any],
        yes: bool,
        cut: int | None,
    ) -> None:
        words: list[object] = [word for flag, value in flags.items() for word in (flag, value)]
        words += ["--profile", profile] if profile else []
        if config is not None:
            (self.work / "c.yaml").write_text(yaml12.dump({"apiVersion": "bake/v1", **config}))
            words += ["--config", "c.yaml"]
        was_baked = self.is_baked()
        expected = self.model.expected(profile, config, flags, is_new=not was_baked)
        refused, before = self.is_refused(expected), contents(self.folder)
        lost = self.losses(expected) if was_baked and not refused else []
        if command == "check":
            assert self.bake("check", *words).code == (2 if refused else 0)
            assert contents(self.folder) == before
            return
        end = self.bake(*words, *(["--yes"] if yes else []), cut=cut)
        if refused:
            assert end.code in (2, -9), end.said
        elif lost and not yes:
            assert end.code == 2, f"{lost} without confirmation: {end}"
            assert "this cannot be undone" in end.said
            assert [text for text in lost if text not in end.said] == []
        elif end.code != -9:
            assert end.code == 0, end.said
        if end.code == 0 or (contents(self.folder) != before and self.is_baked()):
            self.model = expected

    @precondition(is_baked)
    @rule(operation=st.sampled_from(["seal", "rotate", "rotate_ca", "rename_out", "remove_input_file"]), cut=CUTS)
    def run_other_operation(self, operation: str, cut: int | None) -> None:
        getattr(self, operation)(cut)

    def seal(self, cut: int | None) -> None:
        cluster = open_cluster(self.store)
        now = datetime.now(UTC)
        end = self.in_fork(lambda: sealing.seal_files(cluster.store, cluster.plan, now=now, report=str), cut)
        assert end.code == -9 or (self.folder / "sealed").exists()

    def rotate(self, cut: int | None) -> None:
        plan = open_cluster(self.store).plan
        if not load_phase(self.store):
            self.in_fork(self.bake_again(plan.spec, renew=[node.name for node in plan.nodes[:2]]), cut)

    def rotate_ca(self, cut: int | None) -> None:
        self.in_fork(self.bake_again(open_cluster(self.store).plan.spec, change=lambda found: found.advanced()), cut)

    def bake_again(self, spec: ClusterSpec, **more: Any) -> Callable[[], object]:
        return partial(baking.bake, spec, self.store, now=datetime.now(UTC), report=str, **more)

    def rename_out(self, _cut: int | None) -> None:
        names = ("out", "a b'c", "$(touch canary)")
        name = names[(names.index(self.out) + 1) % len(names)]
        (self.work / self.out).rename(self.work / name)
        self.out, self.touched = name, True

    def remove_input_file(self, _cut: int | None) -> None:
        """Change the folder as if an older version of bake had written it."""
        manifest = json.loads((self.folder / "manifest.json").read_text())
        if manifest["files"].pop("input.yaml", None):
            (self.folder / "input.yaml").unlink()
            (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        self.model = Model(base=plain(load_kept(self.folder / "cluster.yaml")))

    @invariant()
    def check_folder(self) -> None:
        if self.touched and self.is_baked():
            self.the_folder_matches_the_model()
            self.without_options_nothing_changes()
        self.touched = False

    def the_folder_matches_the_model(self) -> None:
        spec = load_kept(self.folder / "cluster.yaml")
        assert fixed_fields(spec) == fixed_fields(self.model.spec(self.scratch))
        assert yaml.safe_load((self.folder / "cluster.yaml").read_text()) == plain(spec)
        plan = plan_cluster(spec)
        assert {path.parent.name for path in self.folder.glob("*/user-data")} == {node.name for node in plan.nodes}
        if (kept := self.folder / "input.yaml").exists():
            user_input, _ = parse_input(kept.read_text(), "input.yaml")
            assert user_input.fields == canonical(self.model.fields)
            assert user_input.matching(spec) == user_input
            assert self.model.profile in ("own.yaml", user_input.profile)

    def without_options_nothing_changes(self) -> None:
        before = {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")} if self.kept_input() else {}
        end = self.bake()
        assert end.code == 0, end.said
        if before:
            assert "Nothing changed" in end.said
            assert {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")} == before
        assert [path.name for path in (self.work / self.out).iterdir()] == ["etcd"]
        assert not (self.work / "canary").exists()

    def kept_input(self) -> bool:
        return (self.folder / "input.yaml").exists()


TestCommands = Commands.TestCase
TestCommands.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=10,
    suppress_health_check=list(HealthCheck),
    phases=(Stage.explicit, Stage.reuse, Stage.generate),  # without Stage.shrink, which takes minutes
)
