"""The firewall script against the kernel, in a network namespace: what it opens is open, and only that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="namespaces need root")
SCRIPT = Path(__file__).parents[2] / "generator/guest/etcd-firewall"
CLOSED = {
    "iptables": """
iptables -A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -p tcp -j REJECT --reject-with tcp-reset
""",
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
# Listens on all three ports; "open" lines name those that let a client in.
TRIAL = """
set -eu
ip link set lo up
python3 -c '
import socket, time
ports = [socket.create_server(("127.0.0.1", port)) for port in (2379, 2380, 2381)]
print("listening", flush=True)
time.sleep(60)' >listening &
trap "kill $!" EXIT
until [ -s listening ]; do sleep 0.05; done
show() {
    for port in 2379 2380 2381; do
        ! timeout 1 bash -c ": </dev/tcp/127.0.0.1/$port" 2>/dev/null || echo "$1 $port"
    done
}
show without-rules
eval "$CLOSED"
show closed
"$SCRIPT" && "$SCRIPT"
show opened
$LIST | grep -c 2379
"""


@pytest.mark.parametrize(("kind", "listing"), [("iptables", "iptables -S"), ("nftables", "nft list ruleset")])
def test_only_the_stated_openings_are_open_before_a_reject(
    kind: str, listing: str, tmp_path: Path, tool: Callable[[str], str]
) -> None:
    env = {
        "PATH": f"{Path(tool(listing.split()[0])).parent}:{os.environ['PATH']}",
        "CLOSED": CLOSED[kind],
        "SCRIPT": str(SCRIPT),
        "LIST": listing,
        "BAKE_FIREWALL": kind,
        "BAKE_CLIENT_PORT": "2379",
        "BAKE_PEER_PORT": "2380",
        "BAKE_CLIENT_CIDRS": "127.0.0.0/8 ::1/128",
        "BAKE_PEER_CIDRS": "192.168.20.31 fd00::1",
    }
    command = ["unshare", "--net", "sh", "-c", TRIAL]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    before = ["without-rules 2379", "without-rules 2380", "without-rules 2381"]
    rules = "1" if kind == "iptables" else "2"  # nft lists both families
    assert done.stdout.splitlines() == [*before, "opened 2379", rules]
