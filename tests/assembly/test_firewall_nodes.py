"""Every kind of firewall on booted nodes: the ports that are open to a peer, to a client and to another host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.spec import read_spec
from generator.image.base import cache_folder, default_image
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.firewall_root import firewall_root
from tests.assembly.nspawn_lab import UNTIL_QUIET, NspawnLab, ip, strict_units, wait_until_off

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
CLIENT, STRANGER = "192.168.20.1", "192.168.20.200"
OTHER = 2381  # a port that etcd does not use
# bake does not change which other ports firewalld opens.
KINDS = ("nftables", "iptables", "ufw", "active ufw", "firewalld", "firewalld, zone trusted")
# Commands that delete all rules and load the machine's rules again, without bake's rules.
LOADERS = {
    "nftables": ("reload nftables", "restart nftables"),
    "active ufw": ("restart ufw",),
    "firewalld": ("reload firewalld", "restart firewalld"),
}
KNOCK = """
import socket
for port in (2379, 2380, %d):
    try:
        socket.create_connection(("192.168.20.31", port), 20, source_address=("%s", 0)).close()
        print(port)
    except OSError:
        pass
"""
LISTEN = f"import socket, time; s = socket.create_server(('192.168.20.31', {OTHER})); time.sleep(3600)"


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NspawnLab]:
    """Two nodes, of which the first has the firewall. A process is killed if its unit denies its system call."""
    image = default_image(cache_folder(), report=lambda line: print(line, file=sys.stderr))
    assert image.root_tar is not None
    wanted = request.param
    kind = next(kind for kind in ("nftables", "iptables", "ufw", "firewalld") if kind in wanted)
    spec = read_spec({"nodes": 2, "firewall": {"kind": kind, "clientCidrs": [f"{CLIENT}/32"]}})[0]
    baked = bake(spec, Store(tmp_path / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=firewall_root(image.root_tar), work=tmp_path / "nodes") as lab:
        ip("-n", lab.hub, "address", "add", f"{STRANGER}/24", "dev", "br0")
        for node in ("etcd1", "etcd2"):
            strict_units(lab, node)
            set_up(lab.work / node / "upper/etc", wanted)
        lab.start("etcd1", "etcd2")
        lab.wait_for("voting", "etcd1", "etcd2", timeout=120)
        yield lab


def set_up(etc: Path, wanted: str) -> None:
    if "firewalld" not in wanted:
        (etc / "systemd/system/firewalld.service").symlink_to("/dev/null")
    else:
        (etc / "firewalld").mkdir()
        zone = "trusted" if "trusted" in wanted else "public"
        (etc / "firewalld/firewalld.conf").write_text(f"DefaultZone={zone}\n")
    if wanted == "nftables":
        wants = etc / "systemd/system/multi-user.target.wants"
        wants.mkdir()
        (wants / "nftables.service").symlink_to("/usr/lib/systemd/system/nftables.service")
    if wanted == "active ufw":
        (etc / "ufw").mkdir()
        (etc / "ufw/ufw.conf").write_text("ENABLED=yes\nLOGLEVEL=low\n")


def open_ports(lab: NspawnLab) -> dict[str, list[int]]:
    """Return the open ports of the first node for each kind of host. A port that drops packets takes its timeout."""
    script = KNOCK % (OTHER, "%s")
    with ThreadPoolExecutor() as pool:
        asked = {
            "self": pool.submit(lab.shell, "etcd1", f"python3 - <<'END'{script % '192.168.20.31'}END"),
            "peer": pool.submit(lab.shell, "etcd2", f"python3 - <<'END'{script % '192.168.20.32'}END"),
            "client": pool.submit(lab.run, sys.executable, "-c", script % CLIENT),
            "stranger": pool.submit(lab.run, sys.executable, "-c", script % STRANGER),
        }
    return {name: [int(port) for port in done.result().stdout.split()] for name, done in asked.items()}


def rules(lab: NspawnLab) -> str:
    script = "nft -s list ruleset; cat /etc/firewalld/zones/*.xml"
    return lab.shell("etcd1", script, check=False).stdout


def test_each_port_is_open_to_whom_it_is_for_and_to_them_alone_also_after_a_reboot(
    lab: NspawnLab, request: pytest.FixtureRequest
) -> None:
    wanted = request.node.callspec.params["lab"]
    other = [] if wanted in ("firewalld", "active ufw") else [OTHER]
    expected = {
        "self": [2379, 2380, OTHER],
        "peer": [2379, 2380, *other],
        "client": [2379, *other],
        "stranger": other,
    }
    listens = f"ss -Hltn 'sport = :{OTHER}' | grep -q ."
    listen = f'setsid python3 -c "{LISTEN}" >/dev/null 2>&1 </dev/null & until {listens}; do sleep 0.1; done'
    lab.shell("etcd1", listen)
    assert open_ports(lab) == expected
    before = rules(lab)

    lab.shell("etcd1", "systemctl restart etcd-firewall")
    assert rules(lab) == before, "a second run must not change the rules"

    for verb in LOADERS.get(wanted, ()):
        lab.shell("etcd1", f"systemctl {verb}; {UNTIL_QUIET}")
        assert open_ports(lab) == expected, verb

    votes = lab.phases("etcd1").count("voting")
    lab.shell("etcd1", "systemctl reboot", check=False)
    wait_until_off(lab, "etcd1")
    lab.start("etcd1")
    lab.wait_for("voting", "etcd1", times=votes + 1)
    lab.shell("etcd1", listen)
    assert open_ports(lab) == expected
    lab.shell("etcd1", "systemctl is-active etcd-firewall")
