"""Certificates listed, and brought to nodes; libvirt and the nodes' ports are stand-ins."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from generator import certificates, pki
from generator import cluster as cluster_module
from generator.bake import bake
from generator.certificates import Delivery, deliver, entries, outdated
from generator.cli import bake as command
from generator.cluster import Cluster, open_cluster
from generator.errors import InputError, WaitTimeoutError
from generator.host import hypervisor
from generator.host.hypervisor import NodeStatus, State
from generator.host.store import Store
from generator.keyring import required_pems
from generator.plan import NodePlan
from generator.profile import load
from generator.spec import ClusterSpec, read_spec

NODES = ("etcd1", "etcd2")
Bake = Callable[..., Cluster]


@pytest.fixture
def spec() -> ClusterSpec:
    return load(flags={"--nodes": (("nodes",), 2)}).spec


@pytest.fixture
def made(spec: ClusterSpec, tmp_path: Path, now: datetime) -> Bake:
    def run(*renew: str) -> Cluster:
        store = Store(tmp_path / "out", "etcd")
        bake(spec, store, now=now, report=print, renew=renew)
        return open_cluster(store)

    return run


class Rack:
    """The nodes' ports and drives. A node that runs serves what was put into its drive, unless it is `stuck`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served: dict[str, bytes | None] = {}
        self.states = dict.fromkeys(NODES, State.RUNNING)
        self.stuck: set[str] = set()
        self.drives: dict[str, bool] = {}
        self.said: list[str] = []
        monkeypatch.setattr(certificates, "served_certificate", lambda address, _: self.served.get(address))
        monkeypatch.setattr(certificates, "_PAUSE", 0.01)
        for name in ("insert_seed", "remove_seed", "status"):
            monkeypatch.setattr(hypervisor, name, getattr(self, name))

    def serve(self, cluster: Cluster) -> None:
        """Every node has what the folder has."""
        for node in cluster.plan.nodes:
            self.served[str(node.address)] = certificate(cluster, node.name)

    def insert_seed(self, _connection: object, _plan: object, node: NodePlan, *_: object, **__: object) -> bool | None:
        if self.states[node.name] is State.MISSING:
            return None
        self.drives[node.name] = True
        self.said.append(f"insert {node.name}")
        if self.states[node.name] is State.RUNNING and node.name not in self.stuck:
            self.served[str(node.address)] = certificate(self.cluster, node.name)
        return True

    def remove_seed(self, _connection: object, _plan: object, node: NodePlan, **_: object) -> bool:
        self.said.append(f"remove {node.name}")
        return self.drives.pop(node.name, False)

    def status(self, *_: object, **__: object) -> list[NodeStatus]:
        return [NodeStatus(node=name, domain=name, state=state) for name, state in self.states.items()]

    def deliver(self, cluster: Cluster, *names: str, connection: object = "libvirt") -> Delivery:
        self.cluster = cluster
        return deliver(cluster, connection, names or NODES, seconds=0.1, report=print)


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def certificate(cluster: Cluster, node: str) -> bytes:
    return required_pems(cluster.store, node)[pki.Role.SERVER][0]


def serials(cluster: Cluster, now: datetime) -> dict[tuple[str, str], str]:
    return {(entry.owner, str(entry.role)): entry.facts.serial for entry in entries(cluster, now=now)}


def test_every_certificate_is_listed_with_what_it_says(made: Bake, now: datetime) -> None:
    found = entries(made(), now=now)
    assert [entry.owner for entry in found] == ["cluster", "cluster", "operator", *["etcd1"] * 3, *["etcd2"] * 3]
    server = found[3]
    assert server.role is pki.Role.SERVER
    assert server.facts.names == ("etcd1.etcd.internal", "192.168.20.31", "127.0.0.1", "::1")
    assert (server.facts.issuer, server.days, server.days_left) == ("CN=etcd-ca,O=etcd", 365, 364)
    assert entries(made(), now=now + timedelta(days=400))[3].days_left == -36


def test_a_folder_without_a_seed_is_refused(made: Bake, now: datetime) -> None:
    cluster = made()
    (cluster.store.folder / "etcd2/user-data").unlink()
    with pytest.raises(InputError, match="etcd2/user-data: is missing"):
        entries(cluster, now=now)


def test_only_the_named_nodes_get_new_certificates(made: Bake, now: datetime) -> None:
    before = serials(made(), now)
    after = serials(made("etcd2"), now)
    assert {owner for (owner, role) in after if after[owner, role] != before[owner, role]} == {"etcd2"}


def test_what_a_node_serves_tells_whether_it_has_its_seeds(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.served["192.168.20.32"] = None
    assert outdated(made("etcd1")) == {"etcd1": True, "etcd2": None}


def test_nodes_are_served_one_after_the_other_and_their_drives_emptied(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    assert rack.deliver(made(*NODES)) == Delivery(done=NODES)
    assert rack.said == ["insert etcd1", "remove etcd1", "insert etcd2", "remove etcd2"]
    assert rack.drives == {}


def test_what_is_there_is_not_brought_again(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    assert rack.deliver(made("etcd2")) == Delivery(done=NODES)
    assert "insert etcd1" not in rack.said


def test_a_node_that_does_not_take_it_ends_the_round(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.stuck.add("etcd1")
    with pytest.raises(WaitTimeoutError, match="etcd1 does not serve its new certificate") as error:
        rack.deliver(made(*NODES))
    assert "bake certs deliver" in (error.value.hint or "")
    assert rack.said == ["insert etcd1"]
    rack.stuck.clear()
    assert rack.deliver(made()) == Delivery(done=NODES)


def test_a_vm_that_is_off_keeps_the_seed_for_its_next_start(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.states["etcd1"] = State.STOPPED
    rack.served["192.168.20.31"] = None
    assert rack.deliver(made("etcd1"), "etcd1") == Delivery(at_next_start=("etcd1",))
    assert rack.drives == {"etcd1": True}


@pytest.mark.parametrize("connection", [None, "libvirt"])
def test_what_bake_does_not_run_is_left_to_a_hand(made: Bake, rack: Rack, connection: object) -> None:
    rack.serve(made())
    rack.states["etcd2"] = State.MISSING
    assert rack.deliver(made("etcd2"), "etcd2", connection=connection) == Delivery(by_hand=("etcd2",))


# --- the command line ---------------------------------------------------------------------------------------


def call(cluster: Cluster, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["certs", *words, "--out", str(cluster.store.out)], standalone_mode=False)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.output


def test_the_table_has_a_bar_and_the_json_everything(made: Bake, rack: Rack) -> None:
    rack.serve(cluster := made())
    table = call(cluster)[1]
    assert re.search(r"[█░]{10} \d+ ", table)
    assert table.count("yes") == 2
    found = json.loads(call(cluster, "-o", "json")[1])
    assert found["outdated"] == {"etcd1": False, "etcd2": False}
    assert {one["owner"] for one in found["certificates"]} == {"cluster", "operator", *NODES}


def test_certificates_that_end_soon_fail(made: Bake, rack: Rack) -> None:
    cluster = made()
    assert call(cluster, "--within", "30d", "-q") == (0, "")
    from generator.errors import UnhealthyError

    first = "less than 4000 days are left: cluster etcd-ca, cluster etcd-peer-ca, operator"
    with pytest.raises(UnhealthyError, match=first):
        call(cluster, "--within", "4000", "-q")


def test_a_rotation_renews_and_delivers(
    made: Bake, rack: Rack, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    rack.serve(cluster := made())
    rack.cluster = cluster
    monkeypatch.setattr(cluster_module, "connect_if_possible", lambda _: "libvirt")
    before = serials(cluster, now)
    assert call(cluster, "rotate", "etcd2", "-q")[0] == 0
    after = serials(cluster, now)
    assert {owner for (owner, role) in after if after[owner, role] != before[owner, role]} == {"etcd2"}
    assert rack.said == ["insert etcd2", "remove etcd2"]


def test_a_node_that_is_not_planned_is_refused(made: Bake) -> None:
    with pytest.raises(InputError, match="NODE: 'etcd9' is not one of etcd1, etcd2"):
        call(made(), "rotate", "etcd9")




def test_users_certificates_are_listed(tmp_path: Path, now: datetime) -> None:
    store = Store(tmp_path / "out", "etcd")
    auth = {"enabled": True, "users": [{"name": "app1"}]}
    bake(read_spec({"nodes": 1, "auth": auth})[0], store, now=now, report=print)
    listed = {one.owner: one.facts.subject for one in entries(open_cluster(store), now=now) if "user" in one.owner}
    assert {owner: "CN=" + owner.partition(" ")[2] in subject for owner, subject in listed.items()} == {
        "user app1": True, "user nobody": True,
    }  # fmt: skip
