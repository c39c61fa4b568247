"""The base image's changes to cloud-init also work with the newer cloud-init in Debian's testing suite.

A node boots from the base image, in which the newer version's files replace the image's files of cloud-init.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.config.load import load
from generator.image import apt_sources
from generator.image.build import apt_access
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.nspawn_lab import NspawnLab

pytestmark = [
    pytest.mark.nspawn,
    pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="booting nodes needs root"),
]
SUITE = "testing"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
STARTER = "/usr/local/lib/base-image/cloud_init.py"
NODE = "etcd1"


def download(package: str, folder: Path) -> Path:
    """Download a package of the testing suite with apt, from this machine's mirror. Return the .deb file."""
    own = apt_sources.own_release(Path("/etc/os-release").read_text())
    lines = apt_sources.mirrors(apt_sources.load_sources(Path("/etc/apt")), own, SUITE)
    sources = [line for line in lines if line.split()[2] == SUITE]
    if not sources:
        assert "CI" not in os.environ, "apt on this machine has no source of Debian"
        pytest.skip("apt on this machine has no source of Debian")
    signed = [line.replace("deb ", f"deb [signed-by={KEYRING}] ", 1) for line in sources]
    (folder / "sources").write_text("".join(f"{line}\n" for line in signed))
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    options = [
        *(f"-oDir::Etc::{name}" for name in (f"sourcelist={folder}/sources", "sourceparts=/dev/null")),
        *(f"-oDir::{name}" for name in (f"State::lists={folder}/lists", f"Cache={folder}/cache")),
        *("-oAcquire::Languages=none", "-oAPT::Sandbox::User=root", *(f"-o{line}" for line in apt_access())),
    ]
    for words in (["update", "--error-on=any"], ["download", package]):
        command = ["apt-get", *options, "-q", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.deb")
    return found


@pytest.fixture(scope="module")
def next_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders for an overlay's `lowerdir`: the newer cloud-init over the base image's root file system."""
    layer = tmp_path_factory.mktemp("layer")
    subprocess.run(["dpkg-deb", "-x", download("cloud-init", tmp_path_factory.mktemp("download")), layer], check=True)
    # An opaque folder hides the modules of the image's cloud-init.
    # (Linux, Documentation/filesystems/overlayfs.rst, "opaque")
    os.setxattr(layer / "usr/lib/python3/dist-packages/cloudinit", "trusted.overlay.opaque", b"y")
    return Path(f"{layer}:{root}")


@pytest.fixture(scope="module")
def lab(next_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NspawnLab]:
    work = tmp_path_factory.mktemp("next")
    spec = load(flags={"--nodes": (("nodes",), 1)}).spec
    baked = bake(spec, Store(work / "out", "etcd"), now=datetime.now(UTC), report=print)
    with NspawnLab(baked.plan, baked.folder, root=next_root, work=work / "nodes") as lab:
        lab.start(NODE)
        lab.wait_for("settled", NODE, timeout=120)
        yield lab


def started(lab: NspawnLab, probe: str) -> object:
    """Run `probe`, Python code that prints JSON, where cloud-init's own `main` runs: after the starter's changes."""
    code = f"""
import json, os, runpy, sys, types
def main():
{"".join(f"    {line}{os.linesep}" for line in probe.strip().splitlines())}
sys.modules["cloudinit.cmd.main"] = types.SimpleNamespace(main=main)
runpy.run_path({STARTER!r})["main"]()
"""
    done = lab.shell(NODE, f"python3 -I - <<'END'\n{code}\nEND", check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_node_runs_another_version_than_the_image_has(lab: NspawnLab, root: Path) -> None:
    own = (root / "usr/lib/python3/dist-packages/cloudinit/version.py").read_text()
    version = lab.shell(NODE, "cloud-init --version").stdout.split()[-1]

    assert f'"{version.partition("-")[0]}"' not in own


def test_it_ends_without_any_error(lab: NspawnLab) -> None:
    status = json.loads(lab.shell(NODE, "cat /run/cloud-init/status.json").stdout)["v1"]
    stages = [stage for stage in status.values() if isinstance(stage, dict)]

    assert stages
    assert [(stage["errors"], stage.get("recoverable_errors", {})) for stage in stages] == [([], {})] * len(stages)


def test_a_written_file_is_private_until_it_has_its_mode(lab: NspawnLab) -> None:
    found = started(
        lab,
        """
seen = []
def watch(event, arguments):
    if event == "os.chmod" and str(arguments[0]).endswith("/key"):
        seen.append(os.stat(arguments[0]).st_mode & 0o777)
sys.addaudithook(watch)
from cloudinit.config import cc_write_files
file = {"path": "/run/probe/sub/key", "content": "x", "permissions": "0440"}
cc_write_files.write_files("probe", [file], "root:root")
mode = lambda path: os.stat(path).st_mode & 0o777
print(json.dumps([seen, mode("/run/probe/sub/key"), mode("/run/probe/sub")]))
""",
    )

    seen, at_last, folder = found
    assert seen
    assert all(mode & 0o077 == 0 for mode in seen), [oct(mode) for mode in seen]
    assert (at_last, folder) == (0o440, 0o755)


def test_libraries_that_no_boot_needs_are_imported_when_they_are_used(lab: NspawnLab) -> None:
    found = started(
        lab,
        """
from cloudinit import url_helper, util
before = "requests.sessions" in sys.modules or "jsonschema.validators" in sys.modules
try:
    url_helper.readurl("http://127.0.0.1:9/", retries=0, timeout=1)
except url_helper.UrlError as error:
    refused = type(error).__name__
print(json.dumps([before, "requests.sessions" in sys.modules, refused, util.load_yaml("a: 1")]))
""",
    )

    assert found == [False, True, "UrlError", {"a": 1}]
