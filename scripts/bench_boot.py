"""Boot three VMs under libvirt and print the seconds until they reach a goal.

`scripts/bench` runs this script in a lab.

bench_boot.py cluster FOLDER      boot the seeds of a new cluster; goal: three voting members
bench_boot.py floor FOLDER        boot with an empty user-data; goal: cloud-init has finished on all VMs
bench_boot.py plain FOLDER        like floor, but with the image without tuning
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from generator import vm
from generator.artifact import Artifact
from generator.config.load import load
from generator.engine import Console
from generator.image.base import cache_folder, default_image
from generator.operations.bake import Baked, bake
from generator.seed.iso import pack
from generator.store.folder import Store

END = {"cluster": re.compile(rb"phase=voting"), "floor": re.compile(rb"Cloud-init v\. \S+ finished")}
END["plain"] = END["floor"]
LIMIT = 600.0


def empty_seed(folder: Path) -> bytes:
    """Return the seed of a node with an empty user-data."""
    kept = [Artifact(PurePosixPath(name), (folder / name).read_bytes()) for name in ("meta-data", "network-config")]
    return pack([Artifact(PurePosixPath("user-data"), b"#cloud-config\n{}\n"), *kept]).data


def seconds_to(pattern: re.Pattern[bytes], logs: Mapping[str, Console]) -> float:
    """Return the seconds until every node has printed the pattern on its console."""
    started, said = time.monotonic(), dict.fromkeys(logs, b"")
    while not all(pattern.search(text) for text in said.values()):
        if time.monotonic() - started > LIMIT:
            ends = "\n".join(text[-500:].decode(errors="replace") for text in said.values())
            raise SystemExit(f"bench: goal not reached after {LIMIT:.0f} s:\n{ends}")
        for node, log in logs.items():
            said[node] += log.read()
        time.sleep(0.1)
    return time.monotonic() - started


def measure(kind: str, baked: Baked) -> float:
    image = default_image(cache_folder(), report=lambda line: print(line, file=sys.stderr), plain=kind == "plain")
    connection = vm.connect(None)
    names = [node.name for node in baked.plan.nodes]
    for folder in (baked.folder / name for name in names if kind != "cluster"):
        (folder / "seed.iso").write_bytes(empty_seed(folder))
    engine = vm.LibvirtEngine(
        connection=connection, plan=baked.plan, cluster_id="bench", seeds=baked.folder, load_image=lambda: image,
        report=lambda _: None, accel="tcg",
    )  # fmt: skip
    try:
        engine.create(*names)
        return seconds_to(END[kind], engine.console_logs(*names))
    finally:
        vm.LibvirtHosts(connection=connection).destroy(baked.plan.name, cluster_id="bench")


def main(kind: str, folder: str) -> None:
    spec = load(flags={"--name": (("name",), f"bench-{kind}")}).spec
    baked = bake(spec, Store(Path(folder), spec.name), now=datetime.now(UTC), report=lambda _: None)
    print(f"{measure(kind, baked):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
