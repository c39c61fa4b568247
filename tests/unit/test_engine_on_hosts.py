"""Machines on several hosts: a host that does not answer is named, the others go on, and no node has two machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from generator.engine import EngineOnHosts, MachineStatus, OnHosts, Owned, State, connect_all
from generator.errors import BakeError

NODES = {"etcd1": "h1", "etcd2": "h2", "etcd3": "h3"}


@dataclass
class Host:
    """A host's engine. `has`: the nodes that have a machine here. `calls`: every change."""

    name: str
    has: dict[str, State] = field(default_factory=dict)
    down: bool = False
    refuses: str = ""
    calls: list[str] = field(default_factory=list)

    def answer(self) -> None:
        if self.down:
            raise BakeError("cannot connect", hint="start it")

    def machines(self) -> dict[str, MachineStatus]:
        self.answer()
        names = dict.fromkeys((*NODES, *self.has))
        return {
            name: MachineStatus(
                node=name, state=self.has.get(name, State.MISSING), planned=name in NODES,
                disk_size=name in self.has, data_size=name in self.has,
            )
            for name in names if name in NODES or name in self.has
        }  # fmt: skip

    def check(self, *names: str) -> None:
        if self.refuses:
            raise BakeError(self.refuses)

    def create(self, *names: str) -> tuple[str, ...]:
        self.calls.append(f"create {' '.join(names)}")
        self.has |= dict.fromkeys(names, State.RUNNING)
        return names

    def remove(self, name: str) -> tuple[str, ...]:
        self.answer()
        self.calls.append(f"remove {name}")
        return (name,) if self.has.pop(name, None) else ()

    def replace(self, name: str) -> None:
        self.calls.append(f"replace {name}")
        self.has[name] = State.RUNNING

    def console_logs(self, *names: str) -> dict[str, str]:
        return {name: f"{name} on {self.name}" for name in names}

    def remove_unused_images(self) -> tuple[str, ...]:
        self.answer()
        return ("base-1",)

    def __getattr__(self, method: str) -> Callable[..., bool]:
        def call(*words: object, **_: object) -> bool:
            self.calls.append(f"{method} {' '.join(map(str, words))}")
            return True

        return call


@dataclass
class World:
    hosts: dict[str, Host]
    engine: EngineOnHosts
    said: list[str]


@pytest.fixture
def world() -> World:
    hosts, said = {name: Host(name) for name in ("h1", "h2", "h3", "h4")}, []

    def connect(name: str) -> Any:
        hosts[name].answer()
        return hosts[name]

    return World(hosts, EngineOnHosts(placement=NODES, hosts=tuple(hosts), connect=connect, report=said.append), said)


def facts(world: World) -> dict[str, tuple[str, str]]:
    return {name: (str(one.state), one.host) for name, one in world.engine.machines().items()}


def test_each_node_is_created_on_its_host(world: World) -> None:
    assert world.engine.create("etcd3", "etcd1", "etcd2") == ("etcd1", "etcd2", "etcd3")
    assert [host.calls for host in world.hosts.values()] == [[f"create etcd{n}"] for n in (1, 2, 3)] + [[]]
    assert facts(world) == {f"etcd{n}": ("running", f"h{n}") for n in (1, 2, 3)}


def test_nothing_is_created_if_a_host_refuses_or_is_down(world: World) -> None:
    world.hosts["h2"].refuses = "too little memory"
    world.hosts["h3"].down = True
    with pytest.raises(BakeError, match="host h2: too little memory; host h3: cannot connect"):
        world.engine.create("etcd1", "etcd2", "etcd3")
    assert [host.calls for host in world.hosts.values()] == [[], [], [], []]


def test_a_host_that_is_down_is_named_once_and_the_others_go_on(world: World) -> None:
    world.engine.create("etcd1", "etcd2", "etcd3")
    world.hosts["h2"].down = True
    assert facts(world) == {"etcd1": ("running", "h1"), "etcd2": ("unknown", "h2"), "etcd3": ("running", "h3")}
    assert {one.silent_hosts for one in world.engine.machines().values()} == {("h2",)}
    assert world.engine.insert_seed("etcd1") is True
    with pytest.raises(BakeError, match="host h2 does not answer"):
        world.engine.insert_seed("etcd2")
    assert world.engine.console_logs("etcd1", "etcd2")["etcd2"].read() == b""
    assert world.said == ["warning: host h2 does not answer: cannot connect"]
    world.hosts["h2"].down = False
    assert facts(world)["etcd2"] == ("running", "h2")


def test_without_any_host_there_is_an_error(world: World) -> None:
    for host in world.hosts.values():
        host.down = True
    with pytest.raises(BakeError, match="host h1: cannot connect; host h2: cannot connect"):
        world.engine.machines()


def test_a_node_on_another_host_runs_there_until_it_is_replaced(world: World) -> None:
    world.hosts["h4"].has["etcd2"] = State.STOPPED
    seen = world.engine.machines()["etcd2"]
    assert (seen.host, seen.rebuild, seen.has_data_disk) == ("h4", ("nodes[].host",), False)
    assert world.engine.create("etcd2") == ("etcd2",)
    world.engine.insert_seed("etcd2")
    assert world.hosts["h4"].calls == ["create etcd2", "insert_seed etcd2"]
    world.engine.replace("etcd2")
    assert world.hosts["h4"].has == {}
    assert facts(world)["etcd2"] == ("running", "h2")
    assert world.engine.machines()["etcd2"].rebuild == ()


def test_a_copy_on_a_host_that_was_down_is_seen_and_removed(world: World) -> None:
    world.hosts["h4"].has["etcd2"] = State.STOPPED
    world.hosts["h4"].down = True
    world.engine.replace("etcd2")
    assert any("host h4: cannot connect; a VM of etcd2 can be left there" in line for line in world.said)
    world.hosts["h4"].down = False
    seen = world.engine.machines()["etcd2"]
    assert (seen.host, seen.copies, seen.rebuild) == ("h2", ("h4",), ())
    assert world.engine.remove_copies("etcd2") == ("etcd2 on h4",)
    assert world.engine.machines()["etcd2"].copies == ()


def test_a_node_that_is_not_planned_is_removed_from_every_host(world: World) -> None:
    world.hosts["h1"].has["etcd9"] = State.RUNNING
    assert facts(world)["etcd9"] == ("running", "h1")
    assert world.engine.remove("etcd9") == ("etcd9 on h1",)


def test_unused_images_are_removed_on_every_host_that_answers(world: World) -> None:
    world.hosts["h3"].down = True
    assert world.engine.remove_unused_images() == ("base-1 on h1", "base-1 on h2", "base-1 on h4")


@dataclass
class Objects:
    """What a host has of all clusters."""

    names: list[str]

    def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
        return tuple(Owned(kind="VM", name=name, cluster_id=cluster_id) for name in self.names)

    def destroy(self, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
        removed, self.names = tuple(self.names), []
        return removed

    def used_images(self) -> set[str]:
        return set(self.names)


def test_destroy_goes_on_without_a_host_that_is_down_and_then_names_it() -> None:
    objects: dict[str, Any] = {"h1": Objects(["etcd-etcd1"]), "h2": None, "h3": Objects(["etcd-etcd3"])}

    def connect(name: str) -> Objects:
        if objects[name] is None:
            raise BakeError("cannot connect")
        return objects[name]

    said: list[str] = []
    hosts = OnHosts(hosts=tuple(objects), connect=connect, report=said.append)
    shown = [f"{one.kind} {one.name}" for one in hosts.owned("etcd", cluster_id="1")]
    assert shown == ["VM etcd-etcd1 on h1", "VM etcd-etcd3 on h3"]
    assert said == ["warning: host h2 does not answer: cannot connect"]
    with pytest.raises(BakeError, match="host h2: cannot connect"):
        hosts.destroy("etcd", cluster_id="1")
    assert (objects["h1"].names, objects["h3"].names) == ([], [])
    with pytest.raises(BakeError, match="host h2: cannot connect"):
        hosts.owned("etcd", cluster_id="1")  # what is left can only be there
    objects["h2"] = Objects(["etcd-etcd2"])
    assert hosts.used_images() == {"etcd-etcd2"}
    assert hosts.destroy("etcd", cluster_id="1") == ("etcd-etcd2",)
    assert hosts.owned("etcd") == ()


def test_one_error_names_all_hosts_that_do_not_answer() -> None:
    def fail() -> None:
        raise BakeError("no answer")

    connect_all({"h1": lambda: None})
    with pytest.raises(BakeError, match="host h1: no answer; host h3: no answer"):
        connect_all({"h1": fail, "h2": lambda: None, "h3": fail})
