"""The labs with several hosts, `scripts/lab hosts` and `scripts/lab incus`, and an operator on the hosts' network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import pytest

from tests.vm.conftest import CALL, ROOT

WAIT = ("--wait", 900)
# Writes and reads a key. Arguments: the endpoint, and the cluster's folder.
WRITE = """
import sys; from pathlib import Path; from generator.etcd.client import Etcd
from generator.operations.baked_cluster import client_files
with Etcd(sys.argv[1], client_files(Path(sys.argv[2]))) as etcd:
    etcd.put(b"after the loss", b"1")
    assert etcd.get(b"after the loss").count == 1
"""


@dataclass
class SeveralHosts:
    """Three hosts. `folder`: the lab's folder. `out`: the folder of the operator's clusters.

    `kind`: the lab, as `scripts/lab` calls it. The file `<kind>.yaml` in the lab's folder is part of a cluster file.
    """

    folder: Path
    out: Path
    kind: ClassVar[str]

    @classmethod
    @contextmanager
    def start(cls, folder: Path) -> Iterator[Self]:
        """Start the lab, and remove it at the end. `folder`: for the clusters and the cluster file."""
        if os.geteuid() != 0:
            pytest.skip("the hosts need root")
        found = cls(ROOT / "build" / f"test-{cls.kind}-{os.getpid()}", folder / "out")
        try:
            found.lab(3)
            yield found
        finally:
            found.lab("stop")
        assert not found.folder.exists()

    def write_config(self, path: Path) -> Path:
        """Write a cluster file for small nodes on these hosts."""
        path.write_text(f"name: spread\nvm: {{memory: 768}}\n{(self.folder / f'{self.kind}.yaml').read_text()}")
        return path

    def lab(
        self, *words: object, check: bool = True, input_text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "BAKE_LAB": str(self.folder)}
        command = [ROOT / "scripts" / "lab", self.kind, *map(str, words)]
        done = subprocess.run(
            command, env=environment, text=True, capture_output=True, check=False, timeout=1500, input=input_text
        )
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def bake(
        self, command: str, *words: object, code: int = 0, name: str = "spread"
    ) -> subprocess.CompletedProcess[str]:
        line = ["exec", sys.executable, "-c", CALL, command, *words, "--out", self.out, "--name", name]
        done = self.lab(*line, check=False)
        assert done.returncode == code, f"bake {command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def steps(self, *words: object) -> list[str]:
        """Return the steps that a command plans or takes."""
        return [f"{one['action']} {one['node']}" for one in json.loads(self.bake(*words, "-o", "json").stdout)["steps"]]

    def write(self, url: str) -> None:
        """Write a key through an endpoint, from the operator's machine."""
        self.lab("exec", sys.executable, "-c", WRITE, url, self.out / "spread")
