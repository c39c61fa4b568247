"""Tests of what bake learns from the consoles of a running cluster's nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from generator.console_records import STARTED
from generator.errors import BakeError
from generator.operations.baked_cluster import Cluster
from generator.operations.running.applied_seeds import WAITS, applied_seeds
from generator.operations.running.consoles import Consoles
from generator.plan import ClusterPlan
from generator.progress import Silent
from generator.report.timeline import make_timeline, parse_records
from generator.store.folder import Store


class Log:
    """A console log in memory."""

    def __init__(self, text: bytes) -> None:
        self.text, self.position = text, 0

    def read(self) -> bytes:
        begin, self.position = self.position, len(self.text)
        return self.text[begin:]


class Nodes:
    """An engine that has only console logs."""

    def __init__(self, **texts: str) -> None:
        self.texts = {name: text.encode() for name, text in texts.items()}
        self.logs: dict[str, Log] = {}

    def console_logs(self, *names: str) -> dict[str, Log]:
        self.logs |= {name: Log(self.texts.get(name, b"")) for name in names}
        return {name: self.logs[name] for name in names}

    def say(self, node: str, phase: str, more: str = "") -> None:
        self.logs[node].text += f"bake: node={node} phase={phase}{more}\n".encode()


@pytest.fixture
def consoles(plan: Callable[..., ClusterPlan], tmp_path: Path) -> Callable[[Nodes], Consoles]:
    def make(nodes: Nodes) -> Consoles:
        cluster = Cluster(store=Store(tmp_path, "etcd"), plan=plan(nodes=2), cluster_id="0" * 16)
        return Consoles(nodes, cluster, Silent())

    return make


Make = Callable[[Nodes], Consoles]
WAITING = f'bake: node=etcd1 phase=waiting detail="{WAITS}"\n'


def test_an_earlier_failure_is_not_a_failure_of_this_run(consoles: Make) -> None:
    seen = consoles(Nodes(etcd1='bake: node=etcd1 phase=failed detail="x"\n'))
    seen.show()

    assert seen.settled == {}


def test_a_new_failure_ends_the_run(consoles: Make) -> None:
    nodes = Nodes()
    seen = consoles(nodes)
    nodes.say("etcd2", "failed", ' detail="disk full"')

    with pytest.raises(BakeError, match="etcd2 failed: disk full"):
        seen.show()


def test_the_last_applied_seed_of_each_node_is_known(consoles: Make) -> None:
    nodes = Nodes(etcd1="bake: node=etcd1 phase=settled seed=etcd1-1\nbake: node=etcd1 phase=settled seed=etcd1-2\n")
    seen = consoles(nodes)
    nodes.say("etcd2", "settled", " seed=etcd2-1")
    seen.show()

    assert seen.settled == {"etcd1": "etcd1-2", "etcd2": "etcd2-1"}


def test_a_node_that_boots_again_has_not_settled_yet(consoles: Make) -> None:
    seen = consoles(Nodes(etcd1="bake: node=etcd1 phase=settled seed=etcd1-1\n"))
    seen.begin("etcd1")

    assert seen.settled == {}


def test_a_node_that_told_an_earlier_run_that_it_waits_for_its_boot_still_waits(consoles: Make) -> None:
    assert consoles(Nodes(etcd1=WAITING)).waits_for_reboot("etcd1")


@pytest.mark.parametrize("phase", ["booting", "cloud-init"])
def test_a_node_that_has_booted_since_waits_no_longer(consoles: Make, phase: str) -> None:
    seen = consoles(Nodes(etcd1=f"{WAITING}bake: node=etcd1 phase={phase}\n"))

    assert not seen.waits_for_reboot("etcd1")


def test_etcd_has_restarted_when_the_node_votes_after_it_has_applied_its_seed(consoles: Make) -> None:
    nodes = Nodes(etcd1="bake: node=etcd1 phase=voting\nbake: node=etcd1 phase=settled seed=etcd1-1\n")
    seen = consoles(nodes)
    assert not seen.has_restarted("etcd1")

    nodes.say("etcd1", "voting")
    seen.show()
    assert seen.has_restarted("etcd1")


def test_etcd_has_restarted_although_the_node_has_settled_again_since(consoles: Make) -> None:
    nodes = Nodes(etcd1="bake: node=etcd1 phase=voting\nbake: node=etcd1 phase=settled seed=etcd1-1\n")
    seen = consoles(nodes)
    nodes.say("etcd1", "settled", " seed=etcd1-2")
    seen.show()
    assert not seen.has_restarted("etcd1")
    nodes.say("etcd1", "voting")
    nodes.say("etcd1", "settled", " seed=etcd1-2")
    seen.show()
    assert seen.has_restarted("etcd1")


def test_the_last_seed_that_a_node_has_printed_counts() -> None:
    nodes = Nodes(etcd1="bake: node=etcd1 phase=settled seed=etcd1-1\nbake: node=etcd1 phase=settled seed=etcd1-2\n")
    assert applied_seeds(nodes, ["etcd1", "etcd2"]).settled == {"etcd1": "etcd1-2"}


APPLIED = 'bake: node=etcd1 phase=settled seed=etcd1-1 detail="the applied seed is in the drive again"\n'
VOTES = "bake: node=etcd1 phase=settled seed=etcd1-1\n"  # after each start of etcd


@pytest.mark.parametrize(
    ("text", "waits"), [(WAITING, True), (WAITING + VOTES, True), (WAITING + APPLIED, False), (APPLIED + WAITING, True)]
)
def test_a_node_waits_for_its_boot_until_apply_seed_has_applied_another_seed(text: str, waits: bool) -> None:
    assert applied_seeds(Nodes(etcd1=text), ["etcd1"]).waiting == ({"etcd1"} if waits else set())


def test_a_boot_that_bake_starts_begins_the_nodes_timeline(consoles: Make) -> None:
    nodes = Nodes(etcd1="bake: node=etcd1 phase=voting\nbake: node=etcd1 phase=settled seed=i-1\n")
    seen = consoles(nodes)
    nodes.texts["etcd1"] = b""  # the console is empty when the VM starts
    seen.begin("etcd1")
    nodes.logs["etcd1"] = Log(b"")
    seen.show()
    nodes.say("etcd1", "cloud-init")
    nodes.say("etcd1", "settled", " seed=i-2")
    seen.show()
    raw = (seen.cluster.store.folder / "events.ndjson").read_bytes()
    timeline = make_timeline("etcd", ["etcd1", "etcd2"], parse_records(raw))
    assert [[span.phase for span in boot.spans] for boot in timeline.boots] == [["booting", "cloud-init", "settled"]]
    assert timeline.boots[0].spans[0].detail == STARTED
    assert timeline.silent == ("etcd2",)
