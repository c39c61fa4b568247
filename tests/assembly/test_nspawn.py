"""Three booted nodes with real seeds: they form a cluster, survive a reboot and a power cut, and pass `bake verify`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.load import load
from generator.image.base import cache_folder, default_image
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.miniature import ETCDCTL_LIMITS
from tests.assembly.nspawn_lab import OUR_UNITS, NspawnLab, bake_in_lab, healthy, strict_units, wait_until_off

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
NODES = ("etcd1", "etcd2", "etcd3")


class Onlooker(threading.Thread):
    """Searches every 50 ms for private keys that an account other than root and etcd could read."""

    def __init__(self, lab: NspawnLab) -> None:
        super().__init__(daemon=True)
        self.disks = [lab.work / node / "upper" for node in NODES]
        self.over = threading.Event()
        self.seen: set[Path] = set()
        self.exposed: set[Path] = set()

    def run(self) -> None:
        while not self.over.wait(0.05):
            for path in (found for disk in self.disks for found in self._files(disk)):
                with suppress(OSError):  # the file was deleted in the meantime
                    if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
                        self.seen.add(path)
                        if self._is_open(path):
                            self.exposed.add(path)

    def _files(self, disk: Path) -> Iterator[Path]:
        for name in ("etc/etcd", "var/lib/cloud", "var/lib/bake", "var/log", "tmp", "var/tmp"):
            with suppress(OSError):
                yield from (disk / name).rglob("*")

    def _is_open(self, path: Path) -> bool:
        folders = [folder for folder in path.parents if any(folder.is_relative_to(disk) for disk in self.disks)]
        return bool(path.stat().st_mode & 0o004) and all(folder.stat().st_mode & 0o001 for folder in folders)


@pytest.fixture(scope="module")
def lab(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    """Three nodes that have formed a cluster."""
    work = tmp_path_factory.mktemp("nspawn")
    baked = bake(load().spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=root, work=work / "nodes") as lab:
        for node in NODES:
            strict_units(lab, node)
        lab.onlooker = Onlooker(lab)
        lab.onlooker.start()
        lab.start(*NODES)
        took = lab.wait_for("voting", *NODES, timeout=120)
        print(f"3 nspawn nodes: {took:.1f} s from power-on to three voting members")
        lab.wait_for("settled", *NODES)
        lab.onlooker.over.set()
        yield lab


def test_the_permit_never_was_on_a_disk_and_is_gone_from_memory_once_the_cluster_stands(lab: NspawnLab) -> None:
    for node in NODES:
        assert "bootstrap-permit" not in lab.shell(node, "find / -xdev -name 'bootstrap-permit*'; ls /run/bake").stdout
        text = (lab.folder / "pki/bootstrap-permit").read_text().strip()
        look = f"find /etc /run /var -xdev -type f -exec grep -lF '{text}' {{}} +"  # -xdev excludes the mounted seed
        assert lab.shell(node, look, check=False).stdout == ""


def test_the_cluster_verifies_once_it_is_sealed(lab: NspawnLab) -> None:
    assert "bootstrap permit" in bake_in_lab(lab, "verify").stderr
    lab.seal(NODES[0])
    assert bake_in_lab(lab, "seal").returncode == 0

    result = healthy(lab)

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_python_api_finds_the_cluster_healthy_or_says_what_is_not(lab: NspawnLab) -> None:
    code = "import sys; from generator import api; found = api.verify(api.open_cluster(*sys.argv[1:]))\n"
    code += "print(found.healthy, *(f'{one.name}: {one.detail}' for one in found.checks if one.result != 'ok'))"
    words = (sys.executable, "-c", code, str(lab.folder.parent), lab.folder.name)
    deadline = time.monotonic() + 120
    while not (said := lab.run(*words).stdout).startswith("True"):
        assert time.monotonic() < deadline, said
        time.sleep(1)


def test_the_audit_passes_every_control(lab: NspawnLab) -> None:
    lab.wait_for_reports()
    result = healthy(lab, "audit")

    assert result.returncode == 0, result.stdout + result.stderr


def test_cloud_init_ended_without_any_error_and_is_off_from_then_on(lab: NspawnLab) -> None:
    lab.wait_for("settled", *NODES)
    for node in NODES:
        status = json.loads(lab.shell(node, "cat /run/cloud-init/status.json").stdout)["v1"]
        stages = {name: stage for name, stage in status.items() if isinstance(stage, dict)}

        assert {"init-local", "modules-final"} <= set(stages)
        for stage in stages.values():
            assert (stage["errors"], stage.get("recoverable_errors", {})) == ([], {})
        assert lab.shell(node, "cat /etc/cloud/cloud-init.disabled").stdout == ""


def test_at_no_moment_of_the_first_boot_another_account_could_read_a_key(lab: NspawnLab) -> None:
    lab.onlooker.join()
    names = {path.name for path in lab.onlooker.seen}
    assert {"user-data", "user-data.txt", "etcd-server.key", "etcd-peer.key", "etcd-client.key"} <= names
    assert lab.onlooker.exposed == set()


def slices(pem: str) -> list[str]:
    """Return two pieces of a P-256 private key. They are from the 32 bytes before the public key."""
    text = "".join(pem.splitlines()[1:-1])
    return [text[48:64], text[64:80]]  # the end of the first line, and the start of the second line


def test_a_settled_node_has_each_key_in_its_own_file_alone(lab: NspawnLab) -> None:
    lab.wait_for("settled", *NODES)
    for node in NODES:
        own = {role: f"/etc/etcd/pki/etcd-{role}.key" for role in ("server", "peer", "client")}
        pieces = {piece: role for role in own for piece in slices(lab.shell(node, f"cat {own[role]}").stdout)}
        assert len(pieces) == 6
        assert not any(piece in lab.console(node) for piece in pieces)
        words = " ".join(f"-e '{piece}'" for piece in pieces)
        look = f"grep -raoF --exclude-dir=proc --exclude-dir=sys --exclude-dir=medium {words} / 2>/dev/null"
        places = [line.rpartition(":") for line in lab.shell(node, look, check=False).stdout.splitlines()]
        found = {role: {path for path, _, piece in places if pieces[piece] == role} for role in own}
        assert found == {role: {path} for role, path in own.items()}
        assert "PRIVATE" not in lab.shell(node, "journalctl --no-pager").stdout
        assert lab.shell(node, "ls -A /var/lib/cloud").stdout.split() == ["data", "handlers", "scripts", "sem"]


def test_no_unit_has_failed(lab: NspawnLab) -> None:
    for node in NODES:
        lab.shell(node, "systemctl is-system-running --wait", check=False)  # fails if a unit has failed
        failed = lab.shell(node, "systemctl list-units --failed --no-legend --plain").stdout

        assert failed == ""


def test_every_step_of_the_document_took_effect(lab: NspawnLab) -> None:
    for node in NODES:
        assert lab.shell(node, "systemctl is-enabled etcd").stdout.strip() == "enabled"
        assert lab.shell(node, "id -u etcd").stdout.strip() == "2380"
        assert lab.shell(node, "stat -c %U /var/lib/etcd").stdout.strip() == "etcd"
        rules = lab.shell(node, "nft list ruleset").stdout
        assert "tcp dport 2379 accept" in rules
        assert "tcp dport 2380 accept" in rules


def test_files_have_the_owners_and_modes_that_cis_asks_for(lab: NspawnLab) -> None:
    wanted = {
        "/etc/etcd/etcd.conf": "600 root root",
        "/etc/etcd/bake.env": "600 root root",
        "/etc/etcd/pki": "710 root root",  # the group bits show the ACL's mask; the group has no access
        "/var/lib/etcd": "700 etcd etcd",
        "/var/lib/etcd/etcd": "700 etcd etcd",
        **{f"/etc/etcd/pki/etcd-{role}.key": "400 etcd etcd" for role in ("server", "peer", "client")},
        **{f"/etc/etcd/pki/etcd-{role}.pem": "400 etcd etcd" for role in ("ca", "server", "peer", "client")},
    }
    for node in NODES:
        found = lab.shell(node, f"stat -c '%n %a %U %G' {' '.join(wanted)}").stdout.splitlines()
        assert dict(line.split(" ", 1) for line in found) == wanted


# Runs sandbox_probe.py in a unit with the sandbox of etcd.service, which begins at the line `UMask=`.
PROBE = """
mkdir -p /home/alice && chmod 0755 /home/alice && echo note >/home/alice/note
unit=/etc/systemd/system/etcd.service
{
    printf '[Service]\\nType=oneshot\\nUser=etcd\\nStandardOutput=append:/run/probe.out\\n'
    echo 'ExecStart=/usr/bin/python3 /run/bake/seed/sandbox_probe.py'
    sed -n '/^UMask=/,/^$/p' $unit
} >/run/systemd/system/probe.service
systemctl daemon-reload
systemctl start probe
"""
NOT_IN_A_CONTAINER = {"set a kernel tunable"}  # nspawn denies this action to root as well


def test_etcds_sandbox_denies_what_is_nobodys_business(lab: NspawnLab) -> None:
    probe = Path(__file__).with_name("sandbox_probe.py")
    shutil.copy(probe, lab.work / "etcd3" / "medium" / probe.name)
    lab.shell("etcd3", PROBE)

    inside = deeds(lab.shell("etcd3", "cat /run/probe.out").stdout)
    outside = deeds(lab.shell("etcd3", f"python3 /run/bake/seed/{probe.name}").stdout)

    assert len(inside) == 30
    assert {name for name, result in inside.items() if result != "refused"} == set()
    assert {name for name, result in outside.items() if result != "done"} <= NOT_IN_A_CONTAINER


def deeds(text: str) -> dict[str, str]:
    """Return the probe's actions and their results."""
    return {name: result for result, name, _ in (line.split("\t") for line in text.splitlines())}


def test_no_unit_of_ours_was_denied_anything(lab: NspawnLab) -> None:
    """A denied system call would have killed the unit (`strict_units`). Other denials are in the unit's output."""
    words = "denied|not permitted|read-only file system|seccomp|SIGSYS|status=31|core-dump"
    for node in NODES:
        units = " ".join(f"-u {unit}" for unit in OUR_UNITS)
        found = lab.shell(node, f"journalctl --no-pager {units} | grep -iE '{words}'", check=False).stdout
        assert found == ""
        assert "etcd" in lab.shell(node, f"journalctl --no-pager {units} | tail -n 1").stdout


def test_an_unprivileged_user_can_read_no_key(lab: NspawnLab) -> None:
    look = "setpriv --reuid 65534 --regid 65534 --clear-groups cat /etc/etcd/pki/*.key /var/lib/cloud/instance/*"

    assert "PRIVATE" not in lab.shell("etcd1", look, check=False).stdout


def test_the_ca_key_is_on_no_node(lab: NspawnLab) -> None:
    key = (lab.folder / "pki" / "etcd-ca.key").read_text().splitlines()[1]

    for node in NODES:
        assert lab.shell(node, f"grep -rlF '{key}' /etc /var/lib/cloud /run", check=False).stdout == ""


def test_a_rebooted_node_comes_back_as_the_member_it_was(lab: NspawnLab) -> None:
    before = members(lab)
    reboots = lab.phases("etcd2").count("voting")

    lab.shell("etcd2", "systemctl reboot", check=False)
    wait_until_off(lab, "etcd2")
    lab.start("etcd2")
    lab.wait_for("voting", "etcd2", times=reboots + 1)

    assert members(lab) == before


def test_a_settled_node_reports_each_boot_first_and_which_seed_it_has_taken(lab: NspawnLab) -> None:
    lab.wait_for("settled", "etcd3")
    before = lab.phases("etcd3")

    lab.shell("etcd3", "systemctl reboot", check=False)
    wait_until_off(lab, "etcd3")
    lab.start("etcd3")
    lab.wait_for("settled", "etcd3", times=before.count("settled") + 1)

    after = lab.phases("etcd3")[len(before) :]
    assert (after[0], after[-1], after.count("booting")) == ("booting", "settled", 1)
    instance = (lab.folder / "etcd3/meta-data").read_text().splitlines()[0].removeprefix("instance-id: ")
    assert f"bake: node=etcd3 phase=settled seed={instance}" in lab.console("etcd3")


def test_a_node_whose_power_was_cut_comes_back_as_the_member_it_was(lab: NspawnLab) -> None:
    before = members(lab)
    seen = lab.phases("etcd1").count("voting")

    lab.cut_power("etcd1")
    lab.start("etcd1")
    lab.wait_for("voting", "etcd1", times=seen + 1)

    assert members(lab) == before
    assert healthy(lab).returncode == 0


def served(lab: NspawnLab, node: str) -> str:
    """Return the serial number of the certificate that a node's client port presents."""
    url = next(one for one in lab.plan.nodes if one.name == node).client_url.removeprefix("https://")
    script = f"openssl s_client -connect {url} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    return lab.run("sh", "-c", script).stdout


def rebake(lab: NspawnLab, *changed: str) -> None:
    """Bake again with new certificates or other settings, and put the new seeds into the nodes' drives."""
    bake(load().spec, Store(lab.folder.parent, "etcd"), now=datetime.now(UTC), report=print, renew=changed)
    for node in changed:
        lab.insert(node)


# Writes a key again and again until its stdin is closed. Each write uses a new connection with a new handshake. A write
# has failed if no node accepts it within `patience` seconds and in five tries, since a busy machine may be slow.
WRITER = """
import select, sys, time
from pathlib import Path
from generator.errors import BakeError
from generator.etcd.client import Etcd
from generator.etcd.tls_probe import ClientFiles
patience, pki, client, key, *urls = sys.argv[1:]
ca, cert, private = (Path(pki) / name for name in ("etcd-ca.pem", f"{client}.pem", f"{client}.key"))
files = ClientFiles(ca=ca, cert=cert, key=private)
done = failed = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    begun, tries, taken = time.monotonic(), 0, False
    while not taken:
        tries += 1
        for url in urls:
            try:
                with Etcd(url, files) as etcd:
                    etcd.put(key.encode(), str(done).encode())
                taken = True
                break
            except BakeError as error:
                print(error, file=sys.stderr)
        if tries >= 5 and time.monotonic() > begun + float(patience):
            break
    done, failed = done + taken, failed + (not taken)
print(done, failed)
"""


@contextmanager
def writing(
    lab: NspawnLab, *nodes: str, patience: float = 0, client: str = "etcd-client", key: str = "written"
) -> Iterator[Callable[[], tuple[int, int]]]:
    """Write a key through the first node that accepts the write. Yield a function that ends the writes.

    The function returns the number of successful and of failed writes. `patience`: a failed write is repeated for this
    many seconds, and at least five times.
    """
    urls = [one.client_url for one in lab.plan.nodes if one.name in nodes]
    script = [sys.executable, "-c", WRITER, str(patience), str(lab.folder / "pki"), client, key, *urls]
    command = ["ip", "netns", "exec", lab.hub, *script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def end() -> tuple[int, int]:
            done, failed = process.communicate("")[0].split()
            return int(done), int(failed)

        try:
            yield end
        finally:
            process.kill()


def test_new_certificates_take_effect_without_a_restart_and_without_a_failed_write(lab: NspawnLab) -> None:
    lab.seal(NODES[0])
    bake_in_lab(lab, "seal")
    lab.wait_for("settled", *NODES)
    before = {node: served(lab, node) for node in NODES}
    started = lab.shell("etcd2", "systemctl show -P ExecMainStartTimestampMonotonic etcd").stdout
    key = "stat -c '%a %u' /etc/etcd/pki/etcd-server.key; getfacl -cp /etc/etcd/pki/etcd-server.key /etc/etcd/pki"
    access = lab.shell("etcd2", key).stdout

    with writing(lab, "etcd2", patience=1) as end:  # etcd may read a new certificate with an old key
        for _ in range(3):
            rebake(lab, "etcd2")
            lab.shell("etcd2", "systemctl start apply-seed")
        done, failed = end()

    print(f"{done} writes meanwhile")
    assert done >= 3, "fewer writes than replaced certificates"
    assert failed == 0
    assert {node for node in NODES if served(lab, node) != before[node]} == {"etcd2"}
    assert lab.shell("etcd2", "systemctl show -P ExecMainStartTimestampMonotonic etcd").stdout == started
    assert lab.shell("etcd2", key).stdout == access
    assert access.startswith("400 2380\n")
    assert "user:etcd:--x" in access
    assert lab.shell("etcd2", "ls -A /etc/etcd").stdout.split() == ["bake.env", "etcd.conf", "pki"]
    assert healthy(lab).returncode == 0


def test_a_new_ca_is_everybodys_and_no_write_fails(lab: NspawnLab) -> None:
    """Replace the CA without libvirt: in each of three phases, put the new seeds into all drives at the same time.

    In each phase, a node has a power cut while it applies its seed. An application that follows bake's
    instructions can always use the cluster.
    """
    before, votes = members(lab), {node: lab.phases(node).count("voting") for node in NODES}
    leaves = {node: served(lab, node) for node in NODES}
    old = shutil.copytree(lab.folder / "pki", lab.work / "old-pki")
    application = shutil.copytree(old, lab.work / "application")
    phases: list[str] = []
    urls = [node.client_url for node in lab.plan.nodes]

    with writing(lab, *NODES, patience=30) as end:
        while phase := change_ca(lab):
            if phase not in phases:
                phases.append(phase)
                if phase == "reissue":
                    shutil.copy(lab.folder / "pki/etcd-ca.pem", application)
                assert served_urls(lab, application) == urls, phase
                if phase == "drop":
                    for name in ("etcd-client.pem", "etcd-client.key"):
                        shutil.copy(lab.folder / "pki" / name, application)
                    assert served_urls(lab, application) == urls, phase
                for node in NODES:
                    lab.insert(node)
                    lab.shell(node, "systemctl --no-block start apply-seed")
                lose_power(lab, NODES[len(phases) - 1])
            time.sleep(1)
        done, failed = end()

    print(f"{done} writes meanwhile")
    assert phases == ["trust", "reissue", "drop"]
    assert done > 30
    assert failed == 0
    for node in NODES:
        assert served(lab, node) != leaves[node]
        lab.wait_for("voting", node, times=votes[node] + 2)  # etcd has restarted twice
    assert members(lab) == before
    assert healthy(lab).returncode == 0
    assert served_urls(lab, application) == urls
    shutil.copy(application / "etcd-ca.pem", old)
    assert served_urls(lab, old) == [], "a node accepts a client of the old CA"
    lab.wait_for_reports()
    audited = healthy(lab, "audit")
    assert audited.returncode == 0, audited.stdout


def served_urls(lab: NspawnLab, pki: Path) -> list[str]:
    """Return the nodes that serve a client with these files. The client trusts only the CAs in the files."""
    ca, cert, key = (str(pki / name) for name in ("etcd-ca.pem", "etcd-client.pem", "etcd-client.key"))
    words = ["curl", "-s", "--cacert", ca, "--cert", cert, "--key", key]
    urls = [node.client_url for node in lab.plan.nodes]
    return [url for url in urls if lab.run(*words, f"{url}/version", check=False).returncode == 0]


def lose_power(lab: NspawnLab, node: str) -> None:
    seen = lab.phases(node).count("voting")
    lab.cut_power(node)
    lab.start(node)
    lab.wait_for("voting", node, times=seen + 1)
    lab.shell(node, "systemctl --no-block start apply-seed")  # containers have no udev, which starts this unit in VMs


def change_ca(lab: NspawnLab) -> str | None:
    """Return the phase of the CA change, or None when it is complete."""
    done = bake_in_lab(lab, "certs", "rotate", "--ca", "--all-phases", "-o", "json")
    assert done.returncode in (0, 3), done.stderr
    phase = json.loads(done.stdout)["ca_change"]
    assert (phase is None) == (done.returncode == 0)
    return None if phase is None else str(phase)


def test_a_seed_of_another_node_changes_nothing(lab: NspawnLab) -> None:
    before = served(lab, "etcd3")
    lab.insert("etcd3", seed_of="etcd1")

    lab.shell("etcd3", "systemctl start apply-seed", check=False)

    lab.wait_for_text("etcd3", "belongs to another node")
    assert lab.phases("etcd3")[-1] == "waiting"
    assert served(lab, "etcd3") == before
    lab.insert("etcd3")


def members(lab: NspawnLab) -> list[str]:
    """Return the members' ids, names and roles in etcdctl's list."""
    listed = f"etcdctl {' '.join(ETCDCTL_LIMITS)} member list -w simple"
    script = f". {lab.folder}/etcdctl.env; {listed} | cut -d, -f1-4,6 | sort"
    environment = {"PATH": f"{default_image(cache_folder(), report=print).bin_dir}:{os.environ['PATH']}"}
    return lab.run("env", *(f"{k}={v}" for k, v in environment.items()), "sh", "-c", script).stdout.splitlines()
