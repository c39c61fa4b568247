"""The list of certificates, and their delivery to fake nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from generator import pki
from generator.cli import bake as command
from generator.cli import engines
from generator.config.load import load
from generator.config.spec import ClusterSpec, read_spec
from generator.engine import MachineStatus, State
from generator.errors import BakeError, InputError, UnhealthyError, WaitTimeoutError
from generator.operations import certs
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.certs import entries
from generator.operations.running import delivery
from generator.operations.running.applied_seeds import WAITS
from generator.operations.running.delivery import Delivery, deliver, outdated
from generator.store.existing_keys import required_pems
from generator.store.folder import Store

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


class ConsoleTail:
    """A fake `generator.engine.Console`: the first call returns the complete log."""

    def __init__(self, consoles: dict[str, bytes], node: str) -> None:
        self.consoles, self.node, self.seen = consoles, node, 0

    def read(self) -> bytes:
        data = self.consoles.get(self.node, b"")[self.seen :]
        self.seen += len(data)
        return data


class Rack:
    """The nodes' ports and, as a `generator.engine.Engine`, their machines.

    A running node serves the certificate of its new seed, except a `stuck` node.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served: dict[str, bytes | None] = {}
        self.states = dict.fromkeys(NODES, State.RUNNING)
        self.stuck: set[str] = set()
        self.deaf: set[str] = set()  # nodes that miss the next insertion
        self.older: set[str] = set()  # nodes with an older apply-seed, whose seeds wait for a reboot
        self.consoles: dict[str, bytes] = {}
        self.drives: dict[str, bool] = {}
        self.said: list[str] = []
        monkeypatch.setattr(delivery, "served_certificate", lambda address, _: self.served.get(address))
        monkeypatch.setattr(delivery, "_PAUSE", 0.01)

    def serve(self, cluster: Cluster) -> None:
        """Let every node serve the certificate in the folder."""
        for node in cluster.plan.nodes:
            self.served[str(node.address)] = certificate(cluster, node.name)

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        self.demand(name)
        is_new = again or name not in self.drives
        self.drives[name] = True
        self.said.append(f"insert {name}")
        if name in self.deaf:
            self.deaf.remove(name)
        elif name in self.older:
            self.tell(name)
        elif is_new and self.states[name] is State.RUNNING and name not in self.stuck:
            (node,) = (node for node in self.cluster.plan.nodes if node.name == name)
            self.served[str(node.address)] = certificate(self.cluster, name)
        return True

    def remove_seed(self, name: str) -> bool:
        self.demand(name)
        self.said.append(f"remove {name}")
        return self.drives.pop(name, False)

    def demand(self, name: str) -> None:
        if self.states[name] in (State.MISSING, State.FOREIGN):
            raise BakeError(f"{name} has no machine")

    def tell(self, node: str) -> None:
        """Print what apply-seed reports for a seed with configuration changes, with the kernel's time before it."""
        text = f'[9.1] apply-seed[7]: bake: node={node} phase=waiting detail="a new seed takes effect at the next boot"'
        self.consoles[node] = self.consoles.get(node, b"") + text.encode() + b"\r\n"

    def console_logs(self, *names: str) -> dict[str, ConsoleTail]:
        return {node: ConsoleTail(self.consoles, node) for node in names}

    def machines(self) -> dict[str, MachineStatus]:
        return {name: MachineStatus(node=name, state=state) for name, state in self.states.items()}

    def deliver(
        self, cluster: Cluster, *names: str, with_engine: bool = True, seconds: float = 0.1
    ) -> Delivery:
        self.cluster = cluster
        engine: Any = self if with_engine else None
        return deliver(cluster, engine, names or NODES, seconds=seconds, report=print)


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(monkeypatch)


def certificate(cluster: Cluster, node: str) -> bytes:
    return required_pems(cluster.store, node, "bake")[pki.Role.SERVER][0]


def serials(cluster: Cluster, now: datetime) -> dict[tuple[str, str], str]:
    return {(entry.owner, str(entry.role)): entry.facts.serial for entry in entries(cluster, now=now)}


def test_every_certificate_is_listed_with_its_contents(made: Bake, now: datetime) -> None:
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


def test_a_node_that_serves_another_certificate_is_outdated(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.served["192.168.20.32"] = None
    assert outdated(made("etcd1")) == {"etcd1": True, "etcd2": None}


def test_seeds_are_delivered_one_node_after_the_other_and_removed_from_the_drives(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    assert rack.deliver(made(*NODES)) == Delivery(done=NODES)
    assert rack.said == ["insert etcd1", "remove etcd1", "insert etcd2", "remove etcd2"]
    assert rack.drives == {}


def test_a_node_that_serves_its_certificate_gets_no_seed(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    assert rack.deliver(made("etcd2")) == Delivery(done=NODES)
    assert "insert etcd1" not in rack.said


def test_a_node_that_does_not_apply_its_seed_stops_the_delivery(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.stuck.add("etcd1")
    with pytest.raises(WaitTimeoutError, match="etcd1 does not serve its new certificate") as error:
        rack.deliver(made(*NODES))
    assert "bake certs deliver" in (error.value.hint or "")
    assert rack.said == ["insert etcd1"]
    rack.stuck.clear()
    assert rack.deliver(made()) == Delivery(done=NODES)


def test_a_node_that_missed_the_insertion_gets_its_seed_again(made: Bake, rack: Rack) -> None:
    """The udev event was lost, or apply-seed failed. The seed is in the drive, but the node does not read it."""
    rack.serve(made())
    rack.deaf.add("etcd1")
    with pytest.raises(WaitTimeoutError, match="etcd1 does not serve its new certificate"):
        rack.deliver(made(*NODES))
    assert rack.drives == {"etcd1": True}, "the node may still apply its seed"
    assert rack.deliver(made()) == Delivery(done=NODES)
    assert rack.said == ["insert etcd1", *(f"{verb} {node}" for node in NODES for verb in ("insert", "remove"))]
    assert rack.drives == {}


def test_the_delivery_continues_if_a_seed_waits_for_a_reboot(made: Bake, rack: Rack) -> None:
    """A node reports on its console that its seed waits. bake still delivers the seeds of the other nodes."""
    rack.serve(made())
    rack.older.add("etcd1")
    found = rack.deliver(made(*NODES), seconds=60)
    assert found == Delivery(done=("etcd2",), after_restart=("etcd1",))
    assert rack.drives == {"etcd1": True}, "the seed stays in the drive for the next boot"
    rack.older.clear()
    assert rack.deliver(made()) == Delivery(done=NODES)


def test_a_node_that_waits_for_a_reboot_keeps_a_seed_although_its_certificate_is_up_to_date(
    made: Bake, rack: Rack
) -> None:
    rack.serve(made())
    rack.drives["etcd1"] = True
    rack.tell("etcd1")
    assert rack.deliver(made()) == Delivery(done=("etcd2",), after_restart=("etcd1",))
    assert rack.said == ["insert etcd1", "remove etcd2"]


def test_a_record_about_an_earlier_seed_does_not_count(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.tell("etcd1")
    assert rack.deliver(made(*NODES)) == Delivery(done=NODES)


def test_apply_seed_prints_the_record_that_the_delivery_expects() -> None:
    hook = Path(certs.__file__).parents[1] / "seed/guest/usr/libexec/bake/apply-seed"
    assert f'say("waiting", "{WAITS}")' in hook.read_text()


def test_a_node_that_does_not_answer_keeps_its_seed(made: Bake, rack: Rack) -> None:
    """The node may be booting with the seed in its drive."""
    rack.serve(made())
    rack.served["192.168.20.31"] = None
    rack.drives["etcd1"] = True
    with pytest.raises(WaitTimeoutError):
        rack.deliver(made("etcd1"))
    assert rack.served["192.168.20.31"] is None, "the seed was not inserted again"


def test_a_stopped_vm_keeps_the_seed_for_its_next_start(made: Bake, rack: Rack) -> None:
    rack.serve(made())
    rack.states["etcd1"] = State.STOPPED
    rack.served["192.168.20.31"] = None
    assert rack.deliver(made("etcd1"), "etcd1") == Delivery(at_next_start=("etcd1",))
    assert rack.drives == {"etcd1": True}


@pytest.mark.parametrize("state", [None, State.MISSING, State.FOREIGN])
def test_a_node_without_a_machine_is_reported_as_by_hand(made: Bake, rack: Rack, state: State | None) -> None:
    """`state`: None if libvirt does not answer."""
    rack.serve(made())
    rack.states["etcd2"] = state or State.RUNNING
    renewed = made("etcd2")
    assert rack.deliver(renewed, "etcd2", with_engine=state is not None) == Delivery(by_hand=("etcd2",))
    rack.serve(renewed)
    assert rack.deliver(renewed, "etcd2", with_engine=state is not None) == Delivery(done=("etcd2",))
    assert rack.said == []


# --- the command line ---------------------------------------------------------------------------------------


def call(cluster: Cluster, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["certs", *words, "--out", str(cluster.store.out)], standalone_mode=False)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.output


def test_without_a_terminal_the_table_has_no_bar(made: Bake, rack: Rack) -> None:
    """On a terminal, it has bars: see test_table.py."""
    rack.serve(cluster := made())
    row = next(line for line in call(cluster)[1].splitlines() if line.startswith("operator"))
    assert row.split()[2].isdecimal()


def test_the_json_has_every_certificate(made: Bake, rack: Rack) -> None:
    rack.serve(cluster := made())
    table = call(cluster)[1]
    assert table.count("yes") == 2
    found = json.loads(call(cluster, "-o", "json")[1])
    assert found["outdated"] == {"etcd1": False, "etcd2": False}
    assert {one["owner"] for one in found["certificates"]} == {"cluster", "operator", *NODES}


def test_certificates_that_expire_within_the_given_days_are_an_error(made: Bake, rack: Rack) -> None:
    cluster = made()
    assert call(cluster, "--within", "30d", "-q") == (0, "")
    with pytest.raises(UnhealthyError, match="these certificates expire in less than 4000 days: cluster etcd-ca, "):
        call(cluster, "--within", "4000", "-q")


def test_rotate_renews_and_delivers_certificates(
    made: Bake, rack: Rack, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    rack.serve(cluster := made())
    rack.cluster = cluster
    monkeypatch.setattr(engines, "make_engine", lambda *_, **__: rack)
    before = serials(cluster, now)
    assert call(cluster, "rotate", "etcd2", "-q")[0] == 0
    after = serials(cluster, now)
    assert {owner for (owner, role) in after if after[owner, role] != before[owner, role]} == {"etcd2"}
    assert rack.said == ["insert etcd2", "remove etcd2"]


@pytest.mark.parametrize("json_too", [True, False])
def test_a_renewal_that_waits_for_reboots_exits_with_3(
    made: Bake, rack: Rack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], json_too: bool
) -> None:
    rack.serve(cluster := made())
    rack.cluster = cluster
    rack.older.update(NODES)
    monkeypatch.setattr(engines, "make_engine", lambda *_, **__: rack)
    words = ["certs", "rotate", "--out", str(cluster.store.out), *(["-o", "json"] if json_too else [])]
    rule = "etcd1, etcd2: some configuration changes in the new seed apply at the next boot"
    with pytest.raises(UnhealthyError, match=rule) as error:
        command.main(words, standalone_mode=False)
    assert error.value.hint == f"to reboot one node after the other, run bake apply --out {cluster.store.out}"
    said = capsys.readouterr().out
    assert not json_too or json.loads(said)["after_restart"] == list(NODES)


def test_an_unreachable_libvirt_is_an_error_if_the_user_named_it(
    made: Bake, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedies = []

    def fail(*_: object, remedy: Callable[[], str]) -> None:
        remedies.append(remedy())
        raise BakeError("cannot connect")

    rack.serve(made())
    cluster = made("etcd2")
    monkeypatch.setattr(engines, "make_engine", fail)
    assert json.loads(call(cluster, "deliver", "-o", "json")[1])["by_hand"] == ["etcd2"]
    with pytest.raises(BakeError, match="cannot connect"):
        call(cluster, "deliver", "--connect", "qemu+ssh://host/system")
    assert remedies == [f"bake certs deliver --out {cluster.store.out}"] * 2


def test_an_unknown_node_is_refused(made: Bake) -> None:
    with pytest.raises(InputError, match="NAME: 'etcd9' is not one of etcd1, etcd2, operator"):
        call(made(), "rotate", "etcd9")




def test_users_certificates_are_listed(tmp_path: Path, now: datetime) -> None:
    store = Store(tmp_path / "out", "etcd")
    auth = {"enabled": True, "users": [{"name": "app1"}]}
    bake(read_spec({"nodes": 1, "auth": auth})[0], store, now=now, report=print)
    listed = {one.owner: one.facts.subject for one in entries(open_cluster(store), now=now) if "user" in one.owner}
    assert {owner: "CN=" + owner.partition(" ")[2] in subject for owner, subject in listed.items()} == {
        "user app1": True, "user nobody": True,
    }  # fmt: skip


# --- clients, and the expiry of the CA ---------------------------------------------------------------------------


@pytest.fixture
def with_users(tmp_path: Path, now: datetime) -> Cluster:
    store = Store(tmp_path / "out", "etcd")
    auth = {"enabled": True, "users": [{"name": "app1"}, {"name": "app2"}]}
    bake(read_spec({"nodes": 1, "auth": auth})[0], store, now=now, report=print)
    return open_cluster(store)


@pytest.mark.parametrize(
    ("names", "renewed"),
    [
        (["operator"], {"operator": "etcd-client.pem"}),
        (["user:app1"], {"user:app1": "users/app1.pem"}),
        (["user:app2", "operator"], {"user:app2": "users/app2.pem", "operator": "etcd-client.pem"}),
    ],
    ids=" ".join,
)
def test_only_the_named_client_gets_a_new_certificate(
    with_users: Cluster, rack: Rack, now: datetime, names: list[str], renewed: dict[str, str]
) -> None:
    before, seeds = serials(with_users, now), (with_users.store.folder / "etcd1/seed.iso").read_bytes()
    found = json.loads(call(with_users, "rotate", *names, "-o", "json", "-q")[1])
    folder = with_users.store.folder / "pki"
    assert found["clients"] == {name: str(folder / path) for name, path in renewed.items()}
    assert (found["done"], found["by_hand"]) == ([], [])
    after = serials(with_users, now)
    changed = {owner for (owner, role) in after if after[owner, role] != before[owner, role]}
    assert changed == {name.replace(":", " ") for name in names}
    assert (with_users.store.folder / "etcd1/seed.iso").read_bytes() == seeds
    assert rack.said == []
    text = call(with_users, "rotate", *names)[1]
    assert all(f"{name}: {folder / path}" in text for name, path in renewed.items())


def test_nodes_and_clients_can_be_renewed_at_once(
    with_users: Cluster, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    rack.serve(with_users)
    rack.cluster = with_users
    monkeypatch.setattr(engines, "make_engine", lambda *_, **__: rack)
    found = json.loads(call(with_users, "rotate", "etcd1", "operator", "-o", "json", "-q")[1])
    assert (found["done"], [*found["clients"]]) == (["etcd1"], ["operator"])


@pytest.mark.parametrize("name", ["user:app9", "app1", "operator:app1", "users/app1"])
def test_an_unknown_client_is_refused(with_users: Cluster, name: str) -> None:
    known = "etcd1, operator, user:app1, user:app2, user:nobody"
    with pytest.raises(InputError, match=f"NAME: '{name}' is not one of {known}"):
        call(with_users, "rotate", name)


def test_the_operator_cannot_be_renewed_alone_if_all_share_one_certificate(tmp_path: Path, now: datetime) -> None:
    store = Store(tmp_path / "out", "etcd")
    bake(load(profile="classic").spec, store, now=now, report=print)
    with pytest.raises(InputError, match="NAME: 'operator' is not one of etcd1, etcd2, etcd3"):
        call(open_cluster(store), "rotate", "operator")


@pytest.mark.parametrize(
    ("days", "command"),
    [("366", "bake certs rotate operator user:app1 user:app2 user:nobody etcd1"), ("4000", "bake certs rotate --ca")],
)
def test_the_hint_names_the_command_that_renews_expiring_certificates(
    with_users: Cluster, rack: Rack, days: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnhealthyError, match="less than") as error:
        call(with_users, "--within", days, "-q")
    assert error.value.hint == f"{command} --out {with_users.store.out}"


def said_by(spec: ClusterSpec, store: Store, now: datetime) -> tuple[list[str], set[str]]:
    """Bake, and return the reported lines and the changed files."""
    said: list[str] = []
    return said, set(bake(spec, store, now=now, report=said.append).changed)


@pytest.mark.parametrize(("leaf_days", "holds"), [(365, 330), (30, 18)])
def test_the_operators_certificate_is_renewed_before_it_expires(
    tmp_path: Path, now: datetime, leaf_days: int, holds: int
) -> None:
    """bake renews the operator's certificate in the last 30 days or the last third of its validity."""
    spec = read_spec({"nodes": 1, "pki": {"leafDays": leaf_days}, "auth": {"enabled": True}})[0]
    store = Store(tmp_path / "out", "etcd")
    said_by(spec, store, now)
    assert said_by(spec, store, now + timedelta(days=holds)) == ([], set())
    late = now + timedelta(days=holds + 7)
    end = now + timedelta(days=leaf_days - 1)
    said, changed = said_by(spec, store, late)
    assert said == [f"the operator has a new certificate, because the old certificate expires on {end:%Y-%m-%d}"]
    assert changed == {"pki/etcd-client.pem", "pki/etcd-client.key", "manifest.json", "last-bake.json"}
    assert said_by(spec, store, late) == ([], set()), "the certificate is renewed only once"


def test_bake_warns_if_the_ca_shortens_new_certificates(made: Bake, spec: ClusterSpec, now: datetime) -> None:
    store, late = made().store, now + timedelta(days=3650 - 1 - 12)
    said, _ = said_by(spec, store, late)
    assert said[0] == (
        "warning: the CA expires in 12 days, so new certificates are valid for 12 days instead of 365 days\n"
        f"  hint: to give a running cluster a new CA, run bake certs rotate --ca --out {store.out}"
    )
    assert said_by(spec, store, late) == ([], set()), "a certificate that expires with the CA is not issued again"
    said, _ = said_by(load(flags={"--nodes": (("nodes",), 3)}).spec, store, late + timedelta(days=10))
    assert "the CA expires in 2 days" in said[0]


def test_bake_does_not_warn_long_before_the_ca_expires(made: Bake, spec: ClusterSpec, now: datetime) -> None:
    """Certificates are valid from one day before their issue. This day does not cause a warning."""
    said, changed = said_by(spec, made().store, now + timedelta(days=400))
    assert "etcd1/seed.iso" in changed
    assert [line for line in said if "CA" in line] == []


def test_the_hint_for_an_expired_ca_keeps_the_cluster(made: Bake, spec: ClusterSpec, now: datetime) -> None:
    store = made().store
    with pytest.raises(InputError, match=r"etcd-ca\.pem: expired on 20") as error:
        bake(spec, store, now=now + timedelta(days=4000), report=print)
    assert [problem.hint for problem in error.value.problems] == ["run bake certs rotate --ca"]


def test_no_hint_removes_a_clusters_folder() -> None:
    sources = Path(certs.__file__).parent.rglob("*.py")
    assert [path for path in sources if re.search("remove the cluster's folder", path.read_text())] == []
