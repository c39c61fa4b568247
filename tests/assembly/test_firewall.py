"""The firewall script with the kernel's firewall, in network namespaces: each port is open only to its clients."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.assembly.nspawn_lab import ip

pytestmark = pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="namespaces need root")
SCRIPT = Path(__file__).parents[2] / "generator/seed/guest/usr/libexec/bake/etcd-firewall"
NODE, PEER, CLIENT, STRANGER = "10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.9"
PORTS = (2379, 2380, 2381)  # etcd does not use the last port
SETTINGS = {
    "BAKE_CLIENT_PORT": "2379",
    "BAKE_PEER_PORT": "2380",
    "BAKE_CLIENT_CIDRS": f"{CLIENT}/32 {PEER} fd00::/64",
    "BAKE_PEER_CIDRS": f"{NODE} {PEER} fd00::1",
}
NOTHING = ""
CLOSED = {
    "iptables": "iptables -A INPUT -p tcp -m conntrack --ctstate NEW -j REJECT --reject-with tcp-reset",
    "nftables": """
nft -f - <<END
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        ct state established,related accept
        tcp dport 1-65535 reject with tcp reset
    }
}
END
""",
}
OPEN = {
    "iptables": "iptables -A INPUT -p tcp -j ACCEPT",
    "nftables": "nft 'add table inet filter; add chain inet filter input { type filter hook input priority 0; };"
    " add rule inet filter input tcp dport 1-65535 accept'",
}
LISTEN = f"""
import socket, time
ports = [socket.create_server(("{NODE}", port)) for port in {PORTS}]
print("listening", flush=True)
time.sleep(3600)
"""
KNOCK = f"""
import socket, sys
for port in {PORTS}:
    try:
        socket.create_connection(("{NODE}", port), 10, source_address=(sys.argv[1], 0)).close()
        print(port)
    except OSError:
        pass
"""


class Street:
    """Two connected network namespaces: a node with servers at all ports, and the other hosts."""

    def __init__(self, name: str) -> None:
        self.node, self.others = f"{name}-node", f"{name}-others"

    def inside(self, script: str, **env: str) -> str:
        """Run a script in the node's namespace."""
        command = ["ip", "netns", "exec", self.node, "sh", "-euc", script]
        done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def open_to(self, source: str) -> list[int]:
        namespace = self.node if source == NODE else self.others
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", KNOCK, source]
        return [int(port) for port in subprocess.check_output(command, text=True).split()]

    def picture(self) -> dict[str, list[int]]:
        names = {"self": NODE, "peer": PEER, "client": CLIENT, "stranger": STRANGER}
        return {name: self.open_to(source) for name, source in names.items()}


@pytest.fixture
def street() -> Iterator[Street]:
    street = Street(f"bkfw{os.getpid()}")
    for name in (street.node, street.others):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", street.node, "link", "add", "w0", "type", "veth", "peer", "name", "w1", "netns", street.others)
    ip("-n", street.node, "address", "add", f"{NODE}/24", "dev", "w0")
    for address in (PEER, CLIENT, STRANGER):
        ip("-n", street.others, "address", "add", f"{address}/24", "dev", "w1")
    ip("-n", street.node, "link", "set", "w0", "up")
    ip("-n", street.others, "link", "set", "w1", "up")
    command = ["ip", "netns", "exec", street.node, sys.executable, "-c", LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        yield street
        server.kill()
    for name in (street.node, street.others):
        ip("netns", "delete", name)


@pytest.mark.parametrize("rules", ["nothing", "closed", "open"])
@pytest.mark.parametrize("kind", ["iptables", "nftables", "ufw"])
def test_both_ports_are_open_to_whom_they_are_for_and_no_other_port_is_touched(
    kind: str, rules: str, street: Street, tool: Callable[[str], str]
) -> None:
    family = "iptables" if kind == "ufw" else kind
    tool("iptables-restore" if family == "iptables" else "nft")
    street.inside({"nothing": NOTHING, "closed": CLOSED[family], "open": OPEN[family]}[rules])
    before = street.picture()
    env = SETTINGS | {"BAKE_FIREWALL": kind, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    show = "nft -s list ruleset" if kind == "nftables" else "iptables -S; ip6tables -S"

    street.inside(str(SCRIPT), **env)
    once = street.inside(show, **env)
    street.inside(str(SCRIPT), **env)

    assert street.inside(show, **env) == once, "a second run must not change the rules"
    other = [] if rules == "closed" else [2381]
    assert before == dict.fromkeys(before, [] if rules == "closed" else list(PORTS))
    assert street.picture() == {
        "self": [2379, 2380, *other],
        "peer": [2379, 2380, *other],
        "client": [2379, *other],
        "stranger": other,
    }


@pytest.mark.parametrize("kind", ["iptables", "nftables"])
def test_who_is_taken_out_of_the_settings_is_shut_out(kind: str, street: Street, tool: Callable[[str], str]) -> None:
    tool("iptables-restore" if kind == "iptables" else "nft")
    env = SETTINGS | {"BAKE_FIREWALL": kind, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    street.inside(str(SCRIPT), **env)
    street.inside(str(SCRIPT), **(env | {"BAKE_CLIENT_CIDRS": PEER}))
    assert street.picture()["client"] == [2381]
