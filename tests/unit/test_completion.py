"""What a shell suggests: the scripts of `bake completion`, and the values of options and arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import BashComplete

from generator import cli
from generator.config.load import profile_names

Bake = Callable[..., Any]
CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


def suggested(line: str) -> list[str]:
    """Return what bash would show after `line`."""
    words = line.split()
    incomplete = "" if line.endswith(" ") else words.pop()
    return [item.value for item in BashComplete(cli.bake, {}, "bake", "").get_completions(words[1:], incomplete)]


@pytest.fixture
def clusters(bake: Bake) -> None:
    bake("--nodes", 2)
    bake("--nodes", 1, "--name", "prod", "--out", "other")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bake move", ["move-leader"]),
        ("bake status --name ", ["etcd"]),
        ("bake status --out other --name ", ["prod"]),
        ("bake status --name x", []),
        ("bake console ", ["etcd1", "etcd2"]),
        ("bake console --out other --name prod ", ["etcd1"]),
        ("bake console --name none ", []),
        ("bake replace etcd1 ", ["etcd1", "etcd2"]),
        ("bake move-leader etcd2", ["etcd2"]),
        ("bake snapshot --node ", ["etcd1", "etcd2"]),
        ("bake certs rotate ", ["etcd1", "etcd2", "operator"]),
        ("bake certs deliver ", ["etcd1", "etcd2"]),
        ("bake show etcd1 /etc/etcd/b", ["/etc/etcd/bake.env"]),
        ("bake show none ", []),
        ("bake --profile d", ["debian", "default"]),
        ("bake up --profile ", profile_names()),
        ("bake up --profile ./", ["./"]),
        ("bake up --key-type r", ["rsa-2048", "rsa-3072", "rsa-4096"]),
        ("bake --network-mode ", ["nat", "isolated", "bridge", "network"]),
        ("bake init --tls-min-version ", ["1.2", "1.3"]),
        ("bake up --memory ", []),
        ("bake completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_values(clusters: None, line: str, found: list[str]) -> None:
    assert suggested(line) == found


HOSTS = """nodes: 2
network: {mode: bridge, bridge: br0}
hosts: [{name: rack2, uri: "qemu+ssh://b/system"}, {name: rack1, uri: "qemu+ssh://a/system"}]
"""
MEMBERS = """engine: incus
nodes: [{name: a, host: member2}, {name: b}, {name: c, host: member1}]
"""


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        (HOSTS, "", ["rack1", "rack2"]),
        (HOSTS, "rack2", ["rack2"]),
        (MEMBERS, "", ["member1", "member2"]),
        ("nodes: 1", "", []),
        ("nodes: 1\nhosts: [", "", []),
        ("- 1", "", []),
        ("hosts: [7]", "", []),
    ],
)
def test_hosts_of_the_cluster(clusters: None, text: str, words: str, found: list[str]) -> None:
    Path("out/etcd/cluster.yaml").write_text(text)
    assert suggested(f"bake replace etcd1 --host {words}") == found


def test_hosts_of_a_baked_cluster_and_of_a_cluster_file(bake: Bake) -> None:
    Path("hosts.yaml").write_text(HOSTS)
    assert bake("--config", "hosts.yaml").code == 0
    assert suggested("bake replace etcd1 --host ") == ["rack1", "rack2"]
    Path("more.yaml").write_text(HOSTS.replace("rack2", "rack3"))
    assert suggested("bake replace etcd1 --config more.yaml --host ") == ["rack1", "rack3"]
    assert suggested("bake replace etcd1 --name none --host ") == []


def test_the_environment_names_the_folder_and_the_cluster(clusters: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_OUT", "other")
    assert suggested("bake console ") == []
    monkeypatch.setenv("BAKE_NAME", "prod")
    assert suggested("bake console ") == ["etcd1"]


def test_an_error_suggests_nothing(clusters: None) -> None:
    Path("out/etcd/etcd1/user-data").write_text("x: [")
    assert suggested("bake show etcd1 ") == []


@pytest.mark.parametrize("shell", CHECKS)
def test_the_script_is_valid(bake: Bake, shell: str) -> None:
    result = bake("completion", shell)
    assert (result.code, "_BAKE_COMPLETE" in result.out) == (0, True)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run(CHECKS[shell], input=result.out, text=True, check=True)


def test_another_shell_is_refused(bake: Bake) -> None:
    assert (bake("completion", "tcsh").code, bake("completion").code) == (2, 2)


def test_bash_completes_with_the_script(bake: Bake, clusters: None, tmp_path: Path) -> None:
    Path("bin").mkdir()
    Path("bin/bake").write_text(f"#!{sys.executable}\nfrom generator.cli import main\nmain()\n")
    Path("bin/bake").chmod(0o755)
    Path("completion").write_text(bake("completion", "bash").out)
    script = """. ./completion; COMP_WORDS=(bake console etcd); COMP_CWORD=2; _bake_completion bake
    printf '%s\\n' "${COMPREPLY[@]}"; complete -p bake"""
    env = {
        **os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])
    }  # fmt: skip
    done = subprocess.run(["bash", "-euc", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["etcd1", "etcd2", "complete -o nosort -F _bake_completion bake"], done.stderr
