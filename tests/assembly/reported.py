"""A cluster on loopback whose folder bake has written, with recorded consoles: what `bake report` needs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from generator.config.spec import read_spec
from generator.console_records import Journal, follow
from generator.layout import PERMIT_COPY, SEALED
from generator.operations.bake import bake
from generator.operations.baked_cluster import Cluster
from generator.plan import plan_cluster
from generator.store.folder import Store
from tests.assembly.miniature import PATIENCE, Miniature, Node, Tools

BOOT = ("cloud-init", "disk", "configured")  # the phases before etcd-join, which a loopback node does not have


@dataclass
class Screen:
    """The console of a node: first a record of each phase in BOOT, which take a moment, then what the hooks print."""

    node: Node
    first: list[str] = field(default_factory=lambda: list(BOOT))
    shown: int = 0

    def read(self) -> bytes:
        name = self.node.plan.name
        if self.first:
            time.sleep(0.1)
            return f"[    1.0] bake: node={name} phase={self.first.pop(0)}\r\n".encode()
        new = self.node.records[self.shown :]
        self.shown += len(new)
        if any("phase=voting" in line for line in new):
            new.append(f"bake: node={name} phase=settled")
        return "".join(f"{line}\r\n" for line in new).encode()


def baked(out: Path, tools: Tools, **fields: Any) -> tuple[Miniature, Cluster]:
    """Bake a cluster, and return its nodes with the files of their seeds."""
    store = Store(out, fields.get("name", "etcd"))
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o755)
    spec = read_spec(fields)[0]
    bake(spec, store, now=datetime.now(UTC), report=print)
    # `open_cluster` refuses loopback addresses.
    cluster = Cluster(store=store, plan=plan_cluster(spec), cluster_id="0123456789abcdef")
    permit = (store.read(PERMIT_COPY) or b"").decode().strip()
    root = out.parent / "nodes"
    nodes = [Node(plan, _files(store, plan.name), root / plan.name, tools, permit) for plan in cluster.plan.nodes]
    return Miniature(nodes, root, tools, cluster.plan, None), cluster  # type: ignore[arg-type]  the folder has the CA


def _files(store: Store, node: str) -> dict[str, bytes]:
    config = yaml.safe_load(store.read(f"{node}/user-data") or b"")
    found = {file["path"]: file["content"].encode() for file in config["write_files"]}
    return {path: data for path, data in found.items() if path.startswith("/etc/etcd/")}


def boot(miniature: Miniature, cluster: Cluster) -> None:
    """Start all nodes, record their consoles until all have settled, and mark the cluster as sealed."""
    journal, left = Journal(cluster.store.folder), {node.plan.name for node in miniature.nodes}
    for name in left:
        journal.keep_start(name, time.time())
    miniature.start()
    for event in follow({node.plan.name: Screen(node) for node in miniature.nodes}, journal, timeout=60 * PATIENCE):
        left -= {event.node} if event.phase == "settled" else set()
        if not left:
            break
    (cluster.store.folder / SEALED).write_text("{}\n")
