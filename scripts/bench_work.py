"""Do work for `scripts/bench` that no command of bake does.

bench_work.py fleet NODES FOLDER    make seeds for NODES nodes, in clusters of five nodes, with one CA for all
bench_work.py keys COUNT            generate COUNT RSA-4096 keys on all cores
"""

from __future__ import annotations

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

MEMBERS = 5
GARBAGE = 20_000  # lower than in generator/cli/__init__.py, because the garbage of 1,000 nodes would need 90 MiB


def fleet(nodes: int, out: Path) -> None:
    """Plan nodes, issue certificates and write seeds like `bake`, but for more than seven nodes."""
    from generator.config.pki import PeerCaSpec, PkiSpec
    from generator.config.spec import ClusterSpec, NetworkSpec
    from generator.operations.cluster_files import node_files, operator_files
    from generator.pki import Role, create_authority, issue_client, issue_nodes
    from generator.pki.ca_phases import Authorities, kept_authority
    from generator.plan import plan_cluster
    from generator.seed.guest_files import Trust
    from generator.store.folder import Store

    one_ca = PkiSpec(peer_ca=PeerCaSpec(separate=False))
    spec = ClusterSpec(nodes=nodes, network=NetworkSpec(subnet=IPv4Network("10.20.0.0/16")), pki=one_ca)
    plan = plan_cluster(spec)
    store = Store(out, plan.name)
    now = datetime.now(UTC)
    authority = create_authority(plan, now=now)
    client = issue_client(plan, authority, now=now)
    trust = Trust(identity="0" * 32, ca_pem=authority.cert_pem)
    authorities = Authorities(issuing={Role.CA: kept_authority(authority, None)}, others={}, phase=None)
    with store.locked(lambda _: None), store.replacing() as folder:
        for artifact in (*authorities.files(), *operator_files(plan, trust, {"etcd-client": client})):
            folder.write(artifact)
        for start in range(0, nodes, MEMBERS):
            part = replace(plan, nodes=plan.nodes[start : start + MEMBERS])
            for node, credentials in zip(part.nodes, issue_nodes(part, authority, now=now), strict=True):
                for artifact in node_files(part, node, trust, credentials, (), sealed=False):
                    folder.write(artifact)


def keys(count: int) -> None:
    from generator.config.pki import KeyType
    from generator.pki import generate_key

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(generate_key, [KeyType.RSA_4096] * count))


if __name__ == "__main__":
    gc.set_threshold(GARBAGE)
    if sys.argv[1] == "fleet":
        fleet(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        keys(int(sys.argv[2]))
    gc.freeze()
