"""A node of the profile classic on an image that enforces Debian's SELinux policy, with packages and firewalld.

The node forms a cluster, reboots, gets new certificates and copies its journal, and the policy denies nothing. The
kernel reports denials on the console. The tests run commands in the shell on the console (tests/vm/cloud_image). They
share the node and run in the order of this file.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.vm.conftest import Lab, Run, command_line

# bake writes files only below these folders.
TREES = "/etc/etcd /etc/systemd/system /etc/udev/rules.d /etc/cloud /usr/libexec/bake /var/lib/bake /var/lib/etcd"


@dataclass
class Guest:
    """The node. The tests run commands on its console."""

    connection: Any
    domain: str
    log: Path
    questions: int = 0

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def type(self, line: str) -> None:
        stream = self.connection.newStream()
        self.connection.lookupByName(self.domain).openConsole(None, stream, 0)
        stream.send(f"{line}\n".encode())
        time.sleep(2)  # libvirtd sends the line to the guest; the answer is in the log
        stream.abort()

    def ask(self, command: str) -> str:
        """Run a command and return its output. Without an answer in time, type it again: a busy guest may run it twice.

        The shell may not be ready, and output of the kernel may interrupt the answer.
        """
        self.questions += 1
        mark = f"answer-{self.questions}"
        answer = re.compile(rf"<{mark} ([A-Za-z0-9+/=]*)>")
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            # The command has the mark in two pieces, so that the console's echo of the command does not match.
            self.type(f" printf '<%s-%s %s>' answer {self.questions} $({{ {command}; }} 2>&1 | base64 -w0)")
            patience = time.monotonic() + 15
            while time.monotonic() < patience:
                if found := answer.search(self.said()):
                    return base64.b64decode(found[1]).decode().strip()
                time.sleep(0.5)
        pytest.fail(f"no answer to {command!r}: {self.said()[-2000:]!r}")

    def votes(self) -> int:
        """Return how often the node has reported that it votes."""
        return self.said().count("phase=voting")

    def wait_for_vote(self, before: int) -> None:
        deadline = time.monotonic() + 900
        while self.votes() == before:
            assert time.monotonic() < deadline, self.said()[-2000:]
            time.sleep(1)

    def denials(self) -> list[str]:
        said = self.said()
        assert "audit_lost" not in said
        return re.findall(r"avc:  denied .*", said)

    def wrong_labels(self) -> str:
        return self.ask(f"restorecon -n -v -F -R {TREES}")


@contextmanager
def one_node(lab: Lab, profile: str, image: Path, folder: Path) -> Iterator[Run]:
    run = command_line(lab, profile, folder)
    try:
        run("up", "--profile", profile, "--nodes", 1, "--image", image, "--wait", 1500)
        yield run
    finally:
        run("destroy", "--yes")


def guest_of(lab: Lab, connection: Any, cluster: str) -> Guest:
    return Guest(connection, f"{cluster}-etcd1", lab.folder / f"lib/images/bake-{cluster}/etcd1.console.log")


@pytest.fixture(scope="module")
def run(lab: Lab, tmp_path_factory: pytest.TempPathFactory, selinux_image: Path) -> Iterator[Run]:
    with one_node(lab, "classic", selinux_image, tmp_path_factory.mktemp("classic")) as run:
        yield run


@pytest.fixture(scope="module")
def guest(run: Run, lab: Lab, connection: Any) -> Guest:
    return guest_of(lab, connection, "classic")


def verified(run: Run) -> None:
    """Run `bake verify` until it passes, because an emulated node with RSA-4096 keys answers late after its boot."""
    deadline = time.monotonic() + 600
    while True:
        try:
            run("verify")
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise


def check(guest: Guest) -> None:
    assert guest.ask("getenforce") == "Enforcing"
    assert guest.wrong_labels() == ""
    assert guest.denials() == []


def check_firewall(guest: Guest) -> None:
    assert guest.ask("firewall-cmd --state") == "running"
    rules = guest.ask("firewall-cmd --list-rich-rules").splitlines()
    assert len([rule for rule in rules if rule.endswith('reject type="tcp-reset"')]) == 4  # 2 ports, IPv4 and IPv6


def test_a_node_assembles_itself(run: Run, guest: Guest) -> None:
    verified(run)
    check(guest)
    domain = guest.ask("cat /proc/$(systemctl show -P MainPID etcd)/attr/current")
    assert ":initrc_t:" in domain
    check_firewall(guest)
    packages = guest.ask("dpkg-query -W -f '${Package} ${db:Status-Status}\\n' acl cloud-init etcd firewalld")
    assert packages.splitlines() == [f"{name} installed" for name in ("acl", "cloud-init", "etcd", "firewalld")]
    assert guest.ask("stat -c '%U %a' /etc/etcd/pki/etcd-peer.key") == "root 640"
    assert "user:etcd:r--" in guest.ask("getfacl -c /etc/etcd/pki/etcd-peer.key")
    assert guest.ask("cat /proc/sys/kernel/printk_ratelimit") == "0"  # with a rate limit, the kernel would omit denials


def test_it_comes_back(run: Run, guest: Guest) -> None:
    before = guest.votes()
    guest.type("systemctl reboot")
    guest.wait_for_vote(before)
    verified(run)
    check(guest)
    check_firewall(guest)


def test_its_journal_can_be_read(run: Run, guest: Guest) -> None:
    assert "ready to serve client requests" in run("logs", "--unit", "etcd").stdout
    before, etcd = guest.votes(), guest.ask("systemctl show -P MainPID etcd")
    guest.ask(f"kill -KILL {etcd}")  # a busy guest may run the command twice, and the second run must not hit a hook
    guest.wait_for_vote(before)
    (failing,) = re.findall(r"phase=failing .*", guest.said())
    assert 'detail="killed KILL: ' in failing
    assert "no message" not in failing
    check(guest)


def test_it_takes_new_certificates(run: Run, guest: Guest) -> None:
    label = "stat -c '%C %U %a %n' /etc/etcd/pki /etc/etcd/pki/*"
    before = guest.ask(label)
    run("certs", "rotate", "--ca", "--all-phases", "--wait", 900)  # the last phase of the CA change restarts etcd
    verified(run)
    assert guest.ask(label) == before
    check(guest)


def test_the_checks_see_what_is_wrong(guest: Guest) -> None:
    guest.ask("runcon system_u:system_r:kernel_t:s0 true; chcon -t tmp_t /etc/etcd/bake.env")
    assert [line for line in guest.denials() if 'comm="runcon"' in line]
    assert "/etc/etcd/bake.env" in guest.wrong_labels()
