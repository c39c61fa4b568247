"""Boot nodes from their real seeds as systemd-nspawn containers, with real systemd, cloud-init and etcd.

Each node has a separate network namespace with a veth to a bridge in the lab's hub namespace. No packet leaves these
namespaces. tests/vm tests the parts that containers lack: the kernel, virtual hardware and a lost page cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Self

from generator.plan import ClusterPlan, NodePlan

OUR_UNITS = (
    "etcd", "etcd-access", "etcd-promote", "etcd-firewall", "etcd-audit", "etcd-report", "apply-seed", "forget-seed",
    "etcd-restart",
)  # fmt: skip
_numbers = count(1)
PATIENCE = 6  # a busy machine may need this many times longer than a quiet machine
# systemctl does not wait for the jobs that a job has started, for example with `--no-block`.
UNTIL_QUIET = "while systemctl list-jobs --no-legend | grep -q .; do sleep 0.1; done"
# Publishes a new report, and tries again as systemd does: during an election, which may happen at any time on a busy
# machine, etcd refuses a report. `start` would wait for a job that is running already, with an older state of the node.
REPORT = "for _ in $(seq 60); do systemctl restart etcd-audit etcd-report && exit; sleep 1; done; exit 1"
RECORD = re.compile(rb"bake: node=(\S+) phase=(\S+)")

# Runs in a separate mount namespace: mounts a writable layer over the shared root, a cgroup2 hierarchy and the seed,
# and then starts nspawn. When the container ends, the kernel removes the namespace and its mounts.
_BOOT = """
set -eu
mount -t tmpfs tmpfs "$WORK/mnt"
mkdir "$WORK/mnt/root" "$WORK/mnt/cgroup"
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$WORK/upper,workdir=$WORK/overlay" "$WORK/mnt/root"
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$MACHINE"
echo $$ > "/sys/fs/cgroup/$MACHINE/cgroup.procs"
exec systemd-nspawn --quiet --directory="$WORK/mnt/root" --machine="$MACHINE" --boot --register=no --keep-unit \
    --network-namespace-path="/run/netns/$NETNS" --console=read-only --link-journal=no --resolv-conf=off \
    --capability=CAP_NET_ADMIN --timezone=off --bind-ro="$WORK/medium:/run/bake/seed"
"""

# Without systemd on this machine, nobody removes the cgroups of an ended container. The kernel may still end processes.
_REMOVE_CGROUPS = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for _ in $(seq 100); do
    find /sys/fs/cgroup -depth -path "/sys/fs/cgroup/$PREFIX-*" -type d -delete 2>/dev/null && exit
    sleep 0.1
done
"""

_UNSHARE = ("unshare", "--mount", "--propagation=private", "--pid", "--mount-proc", "--fork", "--kill-child")


class NspawnLab:
    """The nodes of a plan. Use this class as a context manager, which stops and removes all nodes at its end."""

    def __init__(self, plan: ClusterPlan, folder: Path, *, root: Path, work: Path) -> None:
        self.plan, self.folder, self.root, self.work = plan, folder, root, work
        self.prefix = f"bk{os.getpid() % 100000}-{next(_numbers)}"
        self.hub = f"{self.prefix}-hub"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._links = count()
        self._connected: dict[str, str] = {}  # the nodes' links in the hub

    def __enter__(self) -> Self:
        self._make_hub()
        for node in self.plan.nodes:
            self._connect(node)
            self._prepare(node)
        return self

    def _make_hub(self) -> None:
        ip("netns", "add", self.hub)
        self._in_hub("link", "set", "lo", "up")
        self._in_hub("link", "add", "br0", "type", "bridge")
        subnet = self.plan.network.subnet
        self._in_hub("address", "add", f"{self.plan.network.gateway}/{subnet.prefixlen}", "dev", "br0", "nodad")
        self._in_hub("link", "set", "br0", "up")

    def __exit__(self, *_: object) -> None:
        for node in list(self.running):
            self.cut_power(node)
        for name in list(self._connected):
            self._disconnect(name)
        with suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self.hub)
        environment = {"PATH": os.environ["PATH"], "PREFIX": self.prefix}
        subprocess.run(["unshare", "--mount", "sh", "-c", _REMOVE_CGROUPS], env=environment, check=False)
        shutil.rmtree(self.work, ignore_errors=True)

    def _netns(self, node: str) -> str:
        return f"{self.prefix}-{node}"

    def _in_hub(self, *arguments: str) -> None:
        ip("-n", self.hub, *arguments)

    def _connect(self, node: NodePlan) -> None:
        """Give the node a network namespace that is connected to the hub."""
        netns, subnet, link = self._netns(node.name), self.plan.network.subnet, f"v{next(self._links)}"
        self._connected[node.name] = link
        ip("netns", "add", netns)
        ip("-n", netns, "link", "set", "lo", "up")
        ip("-n", netns, "link", "add", "host0", "type", "veth", "peer", "name", link, "netns", self.hub)
        ip("-n", netns, "address", "add", f"{node.address}/{subnet.prefixlen}", "dev", "host0", "nodad")
        ip("-n", netns, "link", "set", "host0", "up")
        self._in_hub("link", "set", link, "master", "br0", "up")

    def _disconnect(self, node: str) -> None:
        """Delete the node's link and network namespace.

        The kernel may delete a namespace seconds later. Until then, two nodes would have the same address.
        """
        with suppress(subprocess.CalledProcessError):
            self._in_hub("link", "delete", self._connected.pop(node))
        with suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self._netns(node))

    def _prepare(self, node: NodePlan) -> None:
        """Give the node a new disk, which is an empty upper layer with the seed."""
        work = self.work / node.name
        for name in ("upper", "overlay", "mnt", "medium"):
            (work / name).mkdir(parents=True)
        # The files that bootcmd reads; cloud-init's seed is below.
        for name in ("meta-data", "network-config", "bootstrap-permit", "snapshot.db", "snapshot.json"):
            if (self.folder / node.name / name).exists():
                shutil.copy(self.folder / node.name / name, work / "medium" / name)
        upper = work / "upper"
        seed = upper / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True)
        for name in ("user-data", "meta-data"):
            shutil.copy(self.folder / node.name / name, seed / name)
        # cloud-init refuses a veth as "not a physical device", so the lab sets the address from outside.
        config = upper / "etc/cloud/cloud.cfg.d/99-nspawn.cfg"
        config.parent.mkdir(parents=True)
        config.write_text("network: {config: disabled}\n")
        units = upper / "etc/systemd/system"
        units.mkdir(parents=True)
        for unit in ("systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service"):
            (units / unit).symlink_to("/dev/null")
        medium = units / "run-bake-medium.mount.d/nspawn.conf"
        medium.parent.mkdir()
        medium.write_text("[Mount]\nWhat=/run/bake/seed\nType=none\nOptions=bind\n")
        (upper / "root").mkdir(mode=0o700)

    def start(self, *nodes: str) -> None:
        """Switch the node on."""
        for node in nodes:
            work = self.work / node
            environment = {
                "PATH": os.environ["PATH"],
                "WORK": str(work),
                "ROOT": str(self.root),
                "MACHINE": self._netns(node),
                "NETNS": self._netns(node),
            }
            with self.console_path(node).open("ab") as console:
                self.running[node] = subprocess.Popen(
                    [*_UNSHARE, "sh", "-c", _BOOT],
                    env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                )  # fmt: skip

    def cut_power(self, node: str) -> None:
        """Kill the first process of the node's namespace. The kernel then kills all other processes of the namespace.

        Killing nspawn's children is not enough: while nspawn starts, the container is not among its children.
        """
        process = self.running.pop(node)
        for first in _children(process.pid) if process.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        process.kill()
        process.wait()

    def seal(self, node: str) -> None:
        """Remove the bootstrap permit from the node's ISO. The node may be running."""
        (self.work / node / "medium" / "bootstrap-permit").unlink(missing_ok=True)

    def insert(self, node: str, *, seed_of: str = "") -> None:
        """Put the seed from the cluster's folder, or the seed of another node, into the node's drive."""
        for name in ("meta-data", "user-data", "network-config"):
            shutil.copy(self.folder / (seed_of or node) / name, self.work / node / "medium" / name)

    def console_path(self, node: str) -> Path:
        return self.work / node / "console.log"

    def console(self, node: str) -> str:
        return self.console_path(node).read_text(errors="replace")

    def phases(self, node: str) -> list[str]:
        """Return the phases that the node has reported on its console, oldest first."""
        found = RECORD.findall(self.console_path(node).read_bytes())
        return [phase.decode() for name, phase in found if name.decode() == node]

    def wait_for(self, phase: str, *nodes: str, times: int = 1, timeout: float = 60) -> float:
        """Wait until each node has reported the phase `times` times, and return the seconds.

        `timeout` is the limit on a quiet machine. Raise TimeoutError with the last lines of the consoles.
        """
        return self._wait(
            lambda: all(self.phases(node).count(phase) >= times for node in nodes), phase, *nodes, timeout=timeout
        )

    def wait_for_text(self, node: str, text: str, *, times: int = 1) -> None:
        """Wait until the node's console has the text `times` times. A record arrives there after its unit has ended."""
        self._wait(lambda: self.console(node).count(text) >= times, text, node, timeout=60)

    def _wait(self, condition: Callable[[], bool], what: str, *nodes: str, timeout: float) -> float:
        start = time.monotonic()
        while not condition():
            if time.monotonic() - start > timeout * PATIENCE:
                tails = "\n".join(f"--- {node}\n{self.console(node)[-3000:]}" for node in nodes)
                raise TimeoutError(f"no {what!r} within {timeout * PATIENCE} s\n{tails}")
            time.sleep(0.1)
        return time.monotonic() - start

    def wait_for_reports(self) -> None:
        """Wait until each node has published its audit report (etcd-report.service)."""
        for node in self.running:
            wait = "for _ in $(seq 900); do journalctl -q -b -u etcd-report | grep -q Finished && exit; sleep 0.2; done"
            self.shell(node, f"{wait}; exit 1")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the nodes' network, like an operator."""
        return subprocess.run(
            ["ip", "netns", "exec", self.hub, *command], capture_output=True, text=True, check=check, timeout=600
        )

    def shell(self, node: str, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside a node, as root."""
        nspawn = _children(self.running[node].pid)[0]
        leader = _children(nspawn)[0]
        return subprocess.run(
            ["nsenter", "--target", str(leader), "--all", "--root", "--wd", "/bin/sh", "-c", script],
            capture_output=True, text=True, check=check, timeout=600, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip


def bake_in_lab(lab: NspawnLab, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.run(sys.executable, "-m", "generator.cli", *words, "--out", str(lab.folder.parent), check=False)


def healthy(lab: NspawnLab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command such as `bake audit`; the default is `bake verify`.

    Try again if the cluster is unhealthy, because a busy machine answers late.
    """
    deadline = time.monotonic() + 120
    while (done := bake_in_lab(lab, *(words or ("verify",)))).returncode == 3 and time.monotonic() < deadline:
        time.sleep(1)
    return done


def extract_root(archive: Path, target: Path) -> Path:
    """Extract the base image's root file system once per machine. Extract it again if a run was interrupted."""
    with archive.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers of pytest-xdist may need the folder at the same time
        if not target.is_dir():
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            with tarfile.open(archive) as tar:
                tar.extractall(partial, numeric_owner=True, filter="fully_trusted")  # noqa: S202  bake built it
            partial.rename(target)
    return target


def strict_units(lab: NspawnLab, node: str) -> None:
    """Change the units so that a process is killed if it makes a system call that its unit denies."""
    for unit in OUR_UNITS:
        folder = lab.work / node / f"upper/etc/systemd/system/{unit}.service.d"
        folder.mkdir(parents=True)
        (folder / "strict.conf").write_text("[Service]\nSystemCallErrorNumber=kill\n")


def wait_until_off(lab: NspawnLab, node: str) -> None:
    """Wait until nspawn has exited. It exits instead of rebooting a container that machined does not know."""
    process = lab.running[node]
    deadline = time.monotonic() + 30 * PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    lab.running.pop(node)
    if process.poll() is None:
        process.kill()
        raise TimeoutError(f"{node} did not go down\n{lab.console(node)[-2000:]}")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
