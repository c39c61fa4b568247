"""The phases of a CA change. Fake nodes trust the CAs and serve the certificates in their seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from cryptography import x509

from generator import pki
from generator.cli import bake as command
from generator.cli import engines
from generator.config.load import load
from generator.engine import MachineStatus, State
from generator.errors import BakeError, InputError, UnhealthyError, WaitTimeoutError
from generator.etcd.answers import Reply
from generator.operations import certs, rotate_ca
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster, open_cluster, unchanged
from generator.operations.rotate_ca import rotate_authorities
from generator.operations.running import delivery
from generator.operations.running.delivery import Delivery
from generator.pki import Role, digests
from generator.pki.ca_phases import Authority, Phase, kept_authority
from generator.seed import iso
from generator.store import atomic
from generator.store.cas import load_phase
from generator.store.folder import Store
from generator.store.operation_lock import operation_lock

NODES = ("etcd1", "etcd2", "etcd3")
Mutual = Callable[["Node", "Node"], bool]


class Node:
    """A running node: the CAs that it trusts, and the certificate that it serves."""

    def __init__(self) -> None:
        self.state = State.RUNNING
        self.stuck = False
        self.restarting = False
        self.keeps_its_cas = False  # the node has new files, but its etcd was not restarted
        self.trusted: list[x509.Certificate] = []
        self.leaf = b""

    def apply(self, cluster: Cluster, name: str) -> None:
        files = iso.written_files((cluster.store.folder / name / "user-data").read_bytes(), where="")
        if not self.keeps_its_cas:
            self.trusted = x509.load_pem_x509_certificates(files["/etc/etcd/pki/etcd-ca.pem"])
        self.leaf = files["/etc/etcd/pki/etcd-server.pem"]

    def trusts(self, pem: bytes) -> bool:
        leaf = x509.load_pem_x509_certificate(pem)
        return any(pki.is_issued_by(leaf, authority) for authority in self.trusted)


class Rack:
    """The nodes and, as a `generator.engine.Engine`, their machines.

    After each insertion, every node must trust every other node.
    """

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.nodes = {node.name: Node() for node in cluster.plan.nodes}
        self.by_address = {str(node.address): self.nodes[node.name] for node in cluster.plan.nodes}
        self.inserted: list[str] = []
        for name, node in self.nodes.items():
            node.apply(cluster, name)
        monkeypatch.setattr(delivery, "served_certificate", self.served)
        monkeypatch.setattr(delivery, "_PAUSE", 0.01)
        monkeypatch.setattr(rotate_ca, "unverified_context", lambda pair: pair[0])
        monkeypatch.setattr(rotate_ca, "probe", self.probe)

    def served(self, address: str, _: int) -> bytes | None:
        node = self.by_address[address]
        return node.leaf if node.state is State.RUNNING else None

    def probe(self, address: str, _: int, pem: bytes) -> SimpleNamespace:
        node = self.by_address[address]
        if node.state is not State.RUNNING:
            return SimpleNamespace(reply=Reply.UNREACHABLE)
        served = node.trusts(pem) and not node.restarting
        return SimpleNamespace(reply=Reply.SERVED if served else Reply.REFUSED)

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        self.inserted.append(name)
        there = self.nodes[name]
        if there.state is State.RUNNING and not there.stuck:
            there.apply(self.cluster, name)
        for one in self.nodes.values():
            assert all(one.trusts(other.leaf) for other in self.nodes.values())
        return True

    def remove_seed(self, name: str) -> bool:
        return True

    def console_logs(self, *names: str) -> dict[str, BytesIO]:
        return {name: BytesIO() for name in names}

    def machines(self) -> dict[str, MachineStatus]:
        return {name: MachineStatus(node=name, state=node.state) for name, node in self.nodes.items()}


@pytest.fixture
def cluster(tmp_path: Path, now: datetime) -> Cluster:
    store = Store(tmp_path / "out", "etcd")
    bake(load(flags={"--nodes": (("nodes",), 3)}).spec, store, now=now, report=print)
    return open_cluster(store)


@pytest.fixture
def rack(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Rack:
    return Rack(cluster, monkeypatch)


def rotate(
    cluster: Cluster,
    engine: Rack | None,
    now: datetime,
    following: dict[Role, Authority] | None = None,
    report: Callable[[str], None] = print,
    all_phases: bool = True,
) -> tuple[Phase | None, Delivery]:
    return rotate_authorities(
        cluster, engine, following or {}, passphrase=None, now=now, seconds=0.1, report=report,  # type: ignore[arg-type]
        all_phases=all_phases,
    )  # fmt: skip


def limits(cluster: Cluster, file: str) -> list[str]:
    """Return what the last CA certificate in a file permits."""
    found = x509.load_pem_x509_certificates((cluster.store.folder / "pki" / file).read_bytes())[-1]
    names = found.extensions.get_extension_for_class(x509.NameConstraints).value
    return [str(name.value) for name in names.permitted_subtrees or ()]


@pytest.mark.parametrize("file", ["etcd-ca.pem", "etcd-peer-ca.pem"])
def test_the_next_ca_gets_the_current_name_constraints(
    cluster: Cluster, rack: Rack, now: datetime, file: str
) -> None:
    assert limits(cluster, file) == ["etcd.internal"]
    flags = {"--nodes": (("nodes",), 3), "--all": (("pki", "nameConstraints"), "all")}
    bake(load(flags=flags).spec, cluster.store, now=now, report=print)
    assert limits(cluster, file) == ["etcd.internal"], "bake does not replace the CA"
    rotate(open_cluster(cluster.store), rack, now)
    assert limits(cluster, file) == ["etcd.internal", "192.168.20.0/24", "127.0.0.0/8", "::1/128"]


def authority(cluster: Cluster) -> list[str]:
    return digests((cluster.store.folder / "pki/etcd-ca.pem").read_bytes())


def pki_files(cluster: Cluster) -> set[str]:
    return {path.name for path in (cluster.store.folder / "pki").iterdir()}


def test_every_node_trusts_only_the_new_ca_after_the_change(cluster: Cluster, rack: Rack, now: datetime) -> None:
    before, identity, files = authority(cluster), cluster.cluster_id, pki_files(cluster)
    assert rotate(cluster, rack, now) == (None, Delivery(done=NODES))
    after = authority(cluster)
    assert len(after) == 1
    assert after != before
    for node in rack.nodes.values():
        assert [one.fingerprint(pki.inspection.SHA256()).hex() for one in node.trusted] == after
        assert node.trusts(node.leaf)
    assert rack.inserted == [*NODES] * 3, "each phase delivers to one node after the other"
    assert open_cluster(cluster.store).cluster_id == identity
    assert pki_files(cluster) == files, "the old CA's files are removed"
    assert load_phase(cluster.store) is None


def test_it_stops_after_each_phase_so_that_applications_can_follow(cluster: Cluster, rack: Rack, now: datetime) -> None:
    """Applications need the next CA before the phase `reissue`, and certificates of the next CA before `drop`."""
    client = cluster.store.folder / "pki/etcd-client.pem"
    old = x509.load_pem_x509_certificates((cluster.store.folder / "pki/etcd-ca.pem").read_bytes())
    for count, phase in enumerate((Phase.TRUST, Phase.REISSUE), 1):
        assert rotate(cluster, rack, now, all_phases=False) == (phase, Delivery(done=NODES))
        assert rack.inserted == [*NODES] * count
        assert load_phase(cluster.store) is phase
        assert len(authority(cluster)) == 2, "after this phase, applications can trust both CAs"
        is_old = pki.is_issued_by(x509.load_pem_x509_certificate(client.read_bytes()), old[0])
        assert is_old is (phase is Phase.TRUST)
        assert all(node.trusts(client.read_bytes()) for node in rack.nodes.values())
    assert rotate(cluster, rack, now, all_phases=False) == (None, Delivery(done=NODES))
    assert load_phase(cluster.store) is None


def test_the_next_run_completes_an_interrupted_phase_and_stops(cluster: Cluster, rack: Rack, now: datetime) -> None:
    rack.nodes["etcd2"].stuck = True
    with pytest.raises(WaitTimeoutError):
        rotate(cluster, rack, now, all_phases=False)
    rack.nodes["etcd2"].stuck = False
    assert rotate(cluster, rack, now, all_phases=False) == (Phase.TRUST, Delivery(done=NODES))
    assert rotate(cluster, rack, now, all_phases=False)[0] is Phase.REISSUE


def test_a_ca_change_continues_where_a_stuck_node_stopped_it(cluster: Cluster, rack: Rack, now: datetime) -> None:
    rack.nodes["etcd2"].stuck = True
    for phase, text in ((Phase.TRUST, "trust the next CA"), (Phase.REISSUE, "serve a certificate of the next CA")):
        with pytest.raises(WaitTimeoutError, match=f"etcd2 does not {text}") as error:
            rotate(cluster, rack, now)
        assert "bake certs rotate --ca" in (error.value.hint or "")
        assert load_phase(cluster.store) is phase
        if phase is Phase.TRUST:
            rack.nodes["etcd2"].apply(cluster, "etcd2")
    rack.nodes["etcd2"].stuck = False
    assert rotate(cluster, rack, now)[0] is None
    assert rack.inserted.count("etcd1") == 3, "a node that has completed a phase gets no seed again"


@pytest.mark.parametrize("phase", Phase)
def test_a_refusal_by_a_restarting_etcd_does_not_count(
    cluster: Cluster, rack: Rack, now: datetime, phase: Phase
) -> None:
    """A restarting etcd closes every connection, which looks like a refusal."""
    while rotate(cluster, None, now)[0] is not phase:
        for name, node in rack.nodes.items():
            node.apply(cluster, name)
    rack.nodes["etcd1"].restarting = True
    with pytest.raises(WaitTimeoutError, match="etcd1 does not"):
        rotate(cluster, rack, now)
    rack.nodes["etcd1"].restarting = False
    assert rotate(cluster, rack, now)[0] is None


def test_the_last_phase_waits_for_a_node_that_still_accepts_the_old_ca(
    cluster: Cluster, rack: Rack, now: datetime
) -> None:
    """The node has new files, but its etcd still trusts the old CA. Only a client of the old CA shows this."""
    while load_phase(cluster.store) is not Phase.DROP:
        rotate(cluster, None, now)
        for name, node in rack.nodes.items():
            node.keeps_its_cas = load_phase(cluster.store) is Phase.DROP and name == "etcd2"
            node.apply(cluster, name)
    assert rotate(cluster, None, now) == (Phase.DROP, Delivery(done=("etcd1", "etcd3"), by_hand=("etcd2",)))
    rack.nodes["etcd2"].keeps_its_cas = False
    rack.nodes["etcd2"].apply(cluster, "etcd2")
    assert rotate(cluster, None, now)[0] is None


def test_a_phase_waits_for_a_stopped_node(cluster: Cluster, rack: Rack, now: datetime) -> None:
    rack.nodes["etcd3"].state = State.STOPPED
    found = rotate(cluster, rack, now)
    assert found == (Phase.TRUST, Delivery(done=("etcd1", "etcd2"), at_next_start=("etcd3",)))
    rack.nodes["etcd3"].state = State.RUNNING
    rack.nodes["etcd3"].apply(cluster, "etcd3")
    assert rotate(cluster, rack, now)[0] is None


def test_a_ca_change_by_hand_needs_a_run_for_each_phase(cluster: Cluster, rack: Rack, now: datetime) -> None:
    trusted = []
    for phase in Phase:
        assert rotate(cluster, None, now) == (phase, Delivery(by_hand=NODES))
        files = iso.written_files((cluster.store.folder / "etcd1/user-data").read_bytes(), where="")
        trusted.append(files["/etc/etcd/pki/etcd-ca.pem"])
        for name, node in rack.nodes.items():
            node.apply(cluster, name)
    assert rotate(cluster, None, now)[0] is None
    assert len(authority(cluster)) == 1
    assert trusted[0] == trusted[1] != trusted[2], "the second phase restarts no etcd"


def test_an_answer_from_a_proxy_that_accepts_everyone_does_not_count(
    cluster: Cluster, rack: Rack, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy between this machine and the nodes presents a certificate of another CA."""
    proxy = pki.create_authority(cluster.plan, now=now).cert_pem
    for node in rack.nodes.values():
        node.leaf = proxy
    monkeypatch.setattr(rotate_ca, "probe", lambda *_: SimpleNamespace(reply=Reply.SERVED))
    for _ in range(2):
        assert rotate(cluster, None, now) == (Phase.TRUST, Delivery(by_hand=NODES))


@pytest.mark.parametrize("phase", Phase)
def test_a_bake_during_a_ca_change_changes_nothing(cluster: Cluster, rack: Rack, now: datetime, phase: Phase) -> None:
    while rotate(cluster, None, now)[0] is not phase:
        for name, node in rack.nodes.items():
            node.apply(cluster, name)
    spec = load(config=cluster.store.folder / "cluster.yaml").spec
    assert bake(spec, cluster.store, now=now, report=print).changed == ()


def test_a_separate_ca_for_peers_is_changed_too(
    tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "out", "etcd")
    bake(load(flags={"-": (("pki", "peerCa", "separate"), True)}).spec, store, now=now, report=print)
    cluster = open_cluster(store)
    rack = Rack(cluster, monkeypatch)
    old = (store.folder / "pki/etcd-peer-ca.pem").read_bytes()
    rotate(cluster, None, now)
    both = (store.folder / "pki/etcd-peer-ca.pem").read_bytes()
    assert both == old + (store.folder / "pki/etcd-peer-ca-next.pem").read_bytes()
    files = iso.written_files((store.folder / "etcd1/user-data").read_bytes(), where="")
    assert files["/etc/etcd/pki/etcd-peer-ca.pem"] == both
    assert rotate(cluster, rack, now)[0] is None
    peers = (store.folder / "pki/etcd-peer-ca.pem").read_bytes()
    assert digests(peers)[0] not in digests(old)
    files = iso.written_files((store.folder / "etcd1/user-data").read_bytes(), where="")
    leaf = pki.parse_certificate(files["/etc/etcd/pki/etcd-peer.pem"], where="")
    assert pki.is_issued_by(leaf, pki.parse_certificate(peers, where=""))


def test_a_ca_change_from_an_expired_ca_skips_the_first_phase(cluster: Cluster, rack: Rack, now: datetime) -> None:
    """No node trusts another node after the CA has expired, so the first phase has no purpose."""
    late = now + timedelta(days=4000)
    with pytest.raises(InputError, match="expired on"):
        bake(cluster.plan.spec, cluster.store, now=late, report=print)
    assert rotate(cluster, None, late)[0] is Phase.REISSUE
    for name, node in rack.nodes.items():
        node.apply(cluster, name)
    assert rotate(cluster, rack, late)[0] is None
    for node in rack.nodes.values():  # no node accepts a client of an expired CA, so new certificates show the phase
        assert [one.fingerprint(pki.inspection.SHA256()).hex() for one in node.trusted] == authority(cluster)
    assert bake(cluster.plan.spec, cluster.store, now=late, report=print).changed == ()


def test_a_ca_change_can_end_with_the_users_own_ca(
    cluster: Cluster, rack: Rack, now: datetime
) -> None:
    theirs = pki.create_authority(cluster.plan, now=now)
    assert rotate(cluster, rack, now, {Role.CA: kept_authority(theirs, None)})[0] is None
    assert (cluster.store.folder / "pki/etcd-ca.pem").read_bytes() == theirs.cert_pem


# --- concurrent commands ----------------------------------------------------------------------------------------


def begin_next_phase(cluster: Cluster, now: datetime) -> None:
    """Write the files of the next phase, as another `certs rotate --ca` does before it delivers them."""
    found = open_cluster(cluster.store)
    bake(found.plan.spec, found.store, now=now, report=print, change=lambda old: old.advanced())


def test_a_command_does_not_skip_a_phase_that_another_command_began(
    cluster: Cluster, rack: Rack, now: datetime
) -> None:
    def report(line: str) -> None:
        if line == "etcd3: trusts the next CA":
            begin_next_phase(cluster, now)

    with pytest.raises(BakeError, match=r"another command .*: the phase was `trust` and is now `reissue`"):
        rotate(cluster, rack, now, report=report)
    assert load_phase(cluster.store) is Phase.REISSUE
    assert rack.inserted == [*NODES], "no node got a seed of the next phase"
    assert rotate(cluster, rack, now)[0] is None


@pytest.mark.parametrize("at", ["etcd1: its new seed is in the drive", "etcd1: trusts the next CA"])
def test_a_delivery_stops_if_another_command_begins_the_next_phase(
    cluster: Cluster, rack: Rack, now: datetime, at: str
) -> None:
    """The folder then has the seeds of the next phase."""

    def report(line: str) -> None:
        if line == at:
            begin_next_phase(cluster, now)

    with pytest.raises(BakeError, match="another command"):
        rotate(cluster, rack, now, report=report)
    assert rack.inserted == ["etcd1"]
    assert load_phase(cluster.store) is Phase.REISSUE


@pytest.mark.parametrize("words", [["rotate"], ["rotate", "etcd2"], ["deliver"]], ids=" ".join)
def test_a_ca_change_that_another_command_begins_stops_other_commands(
    cluster: Cluster, rack: Rack, now: datetime, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """The CA change begins after the other command has read the folder and before it locks the folder."""
    monkeypatch.setattr(engines, "make_engine", lambda *_, **__: rack)
    monkeypatch.setattr(certs, "refuse_during_rotation", lambda cluster: begin_next_phase(cluster, now))
    monkeypatch.setattr(delivery, "served_certificate", lambda *_: None)
    with pytest.raises(BakeError, match=r"another command .*: the phase was `none` and is now `trust`"):
        call(cluster, *words)
    assert rack.inserted == []
    assert load_phase(cluster.store) is Phase.TRUST


@pytest.mark.parametrize("ca", [True, False])
def test_changes_by_another_command_are_not_overwritten(
    cluster: Cluster, rack: Rack, now: datetime, ca: bool
) -> None:
    spec = load(flags={"--nodes": (("nodes",), 4)}).spec
    bake(spec, cluster.store, now=now, report=print)
    before = (cluster.store.folder / "manifest.json").read_bytes()
    renew: Callable[[], object] = partial(
        bake, cluster.plan.spec, cluster.store, now=now, report=print, renew=NODES, change=unchanged(cluster)
    )
    with pytest.raises(BakeError, match="another command has just changed this cluster"):
        rotate(cluster, rack, now) if ca else renew()
    assert (cluster.store.folder / "manifest.json").read_bytes() == before
    with pytest.raises(BakeError, match="another command has just changed this cluster"):
        delivery.deliver(cluster, rack, NODES, seconds=0.1, report=print)  # type: ignore[arg-type]


# --- the command line ---------------------------------------------------------------------------------------


def call(cluster: Cluster, *words: object) -> tuple[int, str]:
    line = ["certs", *map(str, words), "--out", str(cluster.store.out)]
    result = CliRunner().invoke(command, line, standalone_mode=False)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def no_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BakeError("libvirt does not answer")

    monkeypatch.setattr(engines, "make_engine", fail)


def test_the_command_names_the_nodes_that_it_waits_for(cluster: Cluster, rack: Rack, no_libvirt: None) -> None:
    with pytest.raises(UnhealthyError, match="phase trust waits for etcd1, etcd2, etcd3") as error:
        call(cluster, "rotate", "--ca", "-q")
    assert "bake certs rotate --ca" in (error.value.hint or "")
    assert "give every application" in (error.value.hint or "")
    shown = json.loads(call(cluster, "-o", "json")[1])
    assert shown["ca_change"] == "trust"
    assert [one["owner"] for one in shown["certificates"]][:5] == [
        "cluster", "cluster", "cluster, next", "cluster, next", "operator",
    ]  # fmt: skip
    assert "A CA change is in progress (phase trust)" in call(cluster)[1]
    for words in (["rotate"], ["deliver"]):
        with pytest.raises(InputError, match=r"a CA change is in progress \(phase trust\)"):
            call(cluster, *words)


@pytest.mark.parametrize("words", [("rotate", "--ca"), ("rotate",), ("deliver",)])
def test_no_certificates_change_while_another_command_changes_the_cluster(
    cluster: Cluster, rack: Rack, no_libvirt: None, words: tuple[str, ...]
) -> None:
    before = cluster.store.digest()
    with operation_lock(cluster.store, "bake apply"), pytest.raises(BakeError, match=r"`bake apply` .* is changing"):
        call(cluster, *words)
    assert cluster.store.digest() == before


@pytest.fixture
def libvirt(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "make_engine", lambda *_, **__: rack)


def test_with_libvirt_one_command_completes_all_phases(cluster: Cluster, rack: Rack, libvirt: None) -> None:
    found = json.loads(call(cluster, "rotate", "--ca", "--all-phases", "-o", "json", "-q")[1])
    assert (found["done"], found["ca_change"], found["complete"], found["next"]) == ([*NODES], None, True, None)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("rotate", "etcd2"), "~ etcd2/: user-data, meta-data, seed.iso"),
        (("rotate", "operator"), "~ pki/: etcd-client.pem, etcd-client.key"),
        (("rotate", "--ca"), "~ pki/: etcd-ca.pem, etcd-peer-ca.pem"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_changed_files_are_shown_before_they_change(
    cluster: Cluster,
    rack: Rack,
    libvirt: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    shown: str,
) -> None:
    before, exchange, seen = cluster.store.manifest(), atomic.exchange, []

    def swap(new: Path, old: Path) -> None:
        seen.append(capsys.readouterr().err)
        exchange(new, old)

    monkeypatch.setattr(atomic, "exchange", swap)
    command(["certs", *words, "--out", str(cluster.store.out), "-o", "json"], standalone_mode=False)
    assert shown in seen[0]
    assert cluster.store.manifest() != before
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert all(each["kind"] == "file" for each in changes)
    assert {each["name"] for each in changes} >= {f"{shown.split()[1].strip(':')}{shown.split()[-1]}"}


def test_changed_fields_are_shown(
    tmp_path: Path, now: datetime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, no_libvirt: None
) -> None:
    pair = {name: tmp_path / name for name in ("old.pem", "old.key", "new.pem", "new.key")}
    for name in ("old", "new"):
        theirs = pki.create_authority(cluster.plan, now=now)
        pair[f"{name}.pem"].write_bytes(theirs.cert_pem)
        pair[f"{name}.key"].write_bytes(theirs.key_pem)
        pair[f"{name}.key"].chmod(0o600)
    stated = {"certificate": str(pair["old.pem"]), "key": str(pair["old.key"])}
    store = Store(tmp_path / "own", "etcd")
    bake(load(flags={"-": (("pki", "ca"), stated)}).spec, store, now=now, report=print)
    Rack(open_cluster(store), monkeypatch)
    words = ["--ca", "--ca-certificate", pair["new.pem"], "--ca-key", pair["new.key"]]
    result = CliRunner().invoke(command, ["certs", "rotate", *map(str, words), "--out", str(store.out)])
    assert f"- pki.ca.certificate: {pair['old.pem']}" in result.output
    assert "- pki.ca.key" in result.output
    assert "~ pki/: etcd-ca.pem" in result.output


def test_the_command_prints_what_applications_need_before_the_next_phase(
    cluster: Cluster, rack: Rack, libvirt: None
) -> None:
    pki_folder = cluster.store.folder / "pki"
    code, text = call(cluster, "rotate", "--ca")
    assert (code, text.splitlines()[-2]) == (0, "phase trust is complete; do this before phase reissue:")
    assert text.endswith(
        f"  give every application {pki_folder}/etcd-ca.pem, which contains the old and the next CA; "
        f"then run bake certs rotate --ca "
        f"--out {cluster.store.out}\n"
    )
    found = json.loads(call(cluster, "rotate", "--ca", "-o", "json", "-q")[1])
    assert (found["ca_change"], found["complete"], found["next"]) == ("reissue", True, "drop")
    assert found["task"] == f"give every application its new client certificate and key from {pki_folder}"
    assert call(cluster, "rotate", "--ca", "-q") == (0, "")
    assert json.loads(call(cluster, "-o", "json")[1])["ca_change"] is None


@pytest.mark.usefixtures("quick_scrypt")
def test_the_new_ca_key_is_encrypted(cluster: Cluster, rack: Rack, tmp_path: Path, libvirt: None) -> None:
    (tmp_path / "word").write_text("correct horse")
    call(cluster, "rotate", "--ca", "-q", "--ca-passphrase-file", tmp_path / "word")
    assert pki.is_encrypted((cluster.store.folder / "pki/etcd-ca.key").read_bytes())


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "nodes": (("--ca", "etcd1"), "--ca: renews the certificates of all nodes, not only of etcd1"),
    "without --ca": (("--ca-key", "k"), "--ca-key: needs --ca"),
    "all phases of none": (("--all-phases",), "--all-phases: needs --ca"),
    "half a CA": (("--ca", "--ca-certificate", "c"), "--ca-key: is missing but --ca-certificate is given"),
    "no file": (("--ca", "--ca-certificate", "c", "--ca-key", "k"), "--ca-certificate: c: is not a file"),
    "the same CA": (
        ("--ca", "--ca-certificate", "{pki}/etcd-ca.pem", "--ca-key", "{pki}/etcd-ca.key"),
        "is already this cluster's CA",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "rule"), BAD.values(), ids=BAD)
def test_invalid_options_change_nothing(
    cluster: Cluster, rack: Rack, no_libvirt: None, words: tuple[str, ...], rule: str
) -> None:
    before = (cluster.store.folder / "manifest.json").read_bytes()
    with pytest.raises(InputError) as error:
        call(cluster, "rotate", *(word.format(pki=cluster.store.folder / "pki") for word in words))
    assert rule in str(error.value)
    assert (cluster.store.folder / "manifest.json").read_bytes() == before


def test_a_ca_for_peers_is_refused_without_a_separate_ca(tmp_path: Path, now: datetime, no_libvirt: None) -> None:
    store = Store(tmp_path / "out", "etcd")
    bake(load(flags={"-": (("pki", "peerCa", "separate"), False)}).spec, store, now=now, report=print)
    with pytest.raises(InputError, match="this cluster has no separate CA for peers"):
        call(open_cluster(store), "rotate", "--ca", "--peer-ca-certificate", "c", "--peer-ca-key", "k")


def test_a_cluster_with_the_users_ca_needs_the_next_ca(
    tmp_path: Path, now: datetime, cluster: Cluster
) -> None:
    theirs, store = pki.create_authority(cluster.plan, now=now), Store(tmp_path / "own", "etcd")
    for name, data in (("ca.pem", theirs.cert_pem), ("ca.key", theirs.key_pem)):
        (tmp_path / name).write_bytes(data)
    stated = {"certificate": str(tmp_path / "ca.pem"), "key": str(tmp_path / "ca.key")}
    bake(load(flags={"-": (("pki", "ca"), stated)}).spec, store, now=now, report=print)
    with pytest.raises(InputError, match="--ca-certificate: is required, because this cluster uses a CA that you gave"):
        rotate(open_cluster(store), None, now)
