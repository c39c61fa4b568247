"""Run a command of bake with the lab's nodes instead of VMs: `apply_driver.py SOCKET WORK apply --nodes 5 …`.

The process runs in the nodes' network. `SOCKET`: serves the lab's `Machines`. `WORK`: the folder of its nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generator import cli
from generator.cli import engines
from generator.operations.baked_cluster import Cluster
from generator.progress import Report
from tests.assembly.nspawn_engine import NspawnEngine, NspawnHosts
from tests.assembly.remote import Remote


def run(socket: Path, work: Path, words: list[str]) -> None:
    lab = Remote(socket)

    def engine(_options: Mapping[str, Any], report: Report, cluster: Cluster, **_: object) -> NspawnEngine:
        return NspawnEngine(plan=cluster.plan, seeds=cluster.store.folder, lab=lab, work=work, report=report)

    engines.make_engine = engine
    engines.require_hosts = lambda *_: None
    engines.connect = lambda _options: NspawnHosts(lab)
    sys.argv = ["bake", *words]
    cli.main()


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
