"""A node's root folder after its first boot, for tests of forget-seed and apply-seed."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import yaml

from generator import RELEASED
from generator.config import yaml12
from generator.config.load import load
from generator.operations.bake import bake
from generator.pki.ca_phases import Authorities
from generator.store.folder import Store

GUEST = Path(__file__).parents[2] / "generator/seed/guest/usr/libexec/bake"
NOW = RELEASED + timedelta(days=1)
Change = Callable[[Authorities], Authorities]
# A node that has booted and runs etcd. The log has the calls that change something.
SYSTEMCTL = """#!/bin/sh
case $* in
    is-system-running) echo running ;;
    "is-active etcd.service") echo active ;;
    *) echo "$*" >>{log} ;;
esac
"""
REPORT = "--no-block restart etcd-audit.service etcd-report.service\n"
RESTART = "--no-block start etcd-restart.service\n"


class Guest:
    """A node's root folder after its first boot, and the operator's folder with the node's seed."""

    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "root", Store(folder / "out", "etcd")
        self._install_systemctl()
        self.bake()
        for file in yaml.safe_load(self.seed("user-data"))["write_files"]:
            self.write(file["path"], file["content"], int(file["permissions"], 8))
        self.pki.chmod(0o710)
        self.write("/var/lib/bake/configured", self.instance() + "\n")
        self.write("/var/lib/bake/network-config", self.seed("network-config"))
        self.write("/var/lib/cloud/instances/i/user-data.txt", self.seed("user-data"))
        self.write("/var/lib/cloud/instances/i/obj.pkl", "secret")
        self.write("/var/lib/cloud/seed/nocloud/user-data", self.seed("user-data"))
        self.write("/var/lib/cloud/data/result.json", "{}")
        self.write("/run/cloud-init/instance-data-sensitive.json", "secret")
        self.write("/run/cloud-init/combined-cloud-config.json", "secret")
        (self.root / "var/lib/cloud/instance").symlink_to("instances/i")

    def _install_systemctl(self) -> None:
        systemctl = self.root.parent / "bin/systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(SYSTEMCTL.format(log=self.log))
        systemctl.chmod(0o755)

    def clone(self, folder: Path) -> Guest:
        """Return a copy of the node in another folder, with the same folder of the operator."""
        twin = copy.copy(self)
        folder.mkdir()
        twin.root = shutil.copytree(self.root, folder / "root", symlinks=True)
        twin._install_systemctl()
        return twin

    @property
    def log(self) -> Path:
        return self.root.parent / "calls"

    @property
    def pki(self) -> Path:
        return self.root / "etc/etcd/pki"

    @property
    def off(self) -> Path:
        return self.root / "etc/cloud/cloud-init.disabled"

    @property
    def waits(self) -> Path:
        return self.root / "run/bake/waits-for-boot"

    def bake(
        self, node: str = "etcd1", *, renew: bool = True, change: Change = lambda found: found, **settings: object
    ) -> None:
        """Bake a new seed with new certificates, and with other settings or CAs if given."""
        config = self.store.out.with_name("cluster.yaml")
        config.write_text(yaml12.dump({"apiVersion": "bake/v1", "nodes": 2, **settings}))
        bake(load(config=config).spec, self.store, now=NOW, report=print, renew=[node] if renew else [], change=change)

    def seed(self, name: str, node: str = "etcd1") -> str:
        return (self.store.folder / node / name).read_text()

    def instance(self) -> str:
        return str(yaml.safe_load(self.seed("meta-data"))["instance-id"])

    def written_files(self) -> dict[str, str]:
        """Return the content of the files in the seed by path."""
        return {file["path"]: file["content"] for file in yaml.safe_load(self.seed("user-data"))["write_files"]}

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def forget(self, shell: list[str]) -> str:
        return self._run([*shell, str(GUEST / "forget-seed")]).stdout

    def insert(self, *watched_by: str, node: str = "etcd1") -> subprocess.CompletedProcess[str]:
        for name in ("meta-data", "user-data", "network-config"):
            self.write(f"/run/bake/medium/{name}", self.seed(name, node))
        return self._run([*(watched_by or (sys.executable,)), str(GUEST / "apply-seed")], check=False)

    def _run(self, command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = dict(re.findall(r'^(\w+)="(.*)"$', (self.root / "etc/etcd/bake.env").read_text(), re.MULTILINE))
        env |= {"BAKE_ROOT": str(self.root), "PATH": f"{self.root.parent}/bin:/usr/bin:/bin"}
        return subprocess.run(command, env=env, check=check, capture_output=True, text=True)

    def certificates(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.pki.iterdir()}

    def calls(self) -> str:
        """Return the changes that systemctl was asked for, one in each line."""
        return self.log.read_text() if self.log.exists() else ""
