"""`scripts/setup` and the lock files: every Python package that it installs has an exact version and a sha256."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PROJECT["project"]["dependencies"]
GROUPS = PROJECT["dependency-groups"]
WANTED = {"bake": RUNTIME, "vm": [*RUNTIME, *PROJECT["project"]["optional-dependencies"]["vm"]], **GROUPS}
# Debian 12 has Python 3.11, Debian 13 has 3.13.
MACHINES = [
    {"python_version": version, "python_full_version": f"{version}.2", "platform_machine": machine}
    for version in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]
# Logs the arguments of pip instead of running pip. Makes environments that contain copies of itself.
FAKE_PYTHON = """#!/bin/sh
case "${{1:-}} ${{2:-}}" in
    '-m pip') shift 2; printf '%s ' "$@" >>{log}; echo >>{log} ;;
    '-m venv')
        for folder in "$@"; do :; done
        mkdir -p "$folder/bin"
        for name in python bake sslyze; do cp "$0" "$folder/bin/$name"; done ;;
    *) exec {python} "$@" ;;
esac
"""


def entries(lock: str) -> list[str]:
    """Return one line for each package, with its requirement and its options."""
    text = (LOCKS / f"{lock}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def locked(lock: str, machine: dict[str, str] | None = None) -> dict[str, Requirement]:
    """Return the requirements that pip would install from a lock file on such a machine, by package name."""
    found = [Requirement(entry.partition(" --hash")[0]) for entry in entries(lock)]
    return {canonicalize_name(one.name): one for one in found if not one.marker or one.marker.evaluate(machine)}


def version(requirement: Requirement) -> str:
    (exact,) = requirement.specifier
    assert exact.operator == "=="
    return exact.version


def test_each_set_of_dependencies_has_a_lock_file() -> None:
    assert {path.stem for path in LOCKS.iterdir()} == WANTED.keys()
    assert {Requirement(one).name for one in PROJECT["build-system"]["requires"]} <= locked("build").keys()


@pytest.mark.parametrize("lock", WANTED)
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_a_lock_file_satisfies_pyproject(lock: str, machine: dict[str, str]) -> None:
    found = locked(lock, machine)
    for wanted in map(Requirement, WANTED[lock]):
        if wanted.marker and not wanted.marker.evaluate(machine):
            continue
        assert version(found[canonicalize_name(wanted.name)]) in wanted.specifier, f"{wanted}: run scripts/lock"


@pytest.mark.parametrize("lock", WANTED)
def test_every_entry_has_a_version_and_sha256_and_names_no_registry(lock: str) -> None:
    for entry in entries(lock):
        requirement, *hashes = entry.split("--hash=")
        version(Requirement(requirement))
        assert hashes, entry
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", one) for one in hashes)
        assert "://" not in entry
        assert "--index" not in entry


def test_what_shares_an_environment_has_one_version() -> None:
    together = [locked(lock) for lock in ("vm", "dev", "build", "bake")]
    for name in set().union(*together):
        assert len({version(some[name]) for some in together if name in some}) == 1, name


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command of `scripts/setup` in a copy of the project, with a Python that logs pip's arguments."""
    for name in ("scripts/setup", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(LOCKS, tmp_path / "locks")
    fake = tmp_path / "python"
    log, python = shlex.quote(str(tmp_path / "pip.log")), shlex.quote(sys.executable)
    fake.write_text(FAKE_PYTHON.format(log=log, python=python))
    fake.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(fake))
    return ["sh", str(tmp_path / "scripts/setup")]


def pip_calls(setup: list[str], folder: Path, *words: str) -> list[str]:
    """Return the arguments of pip in one run."""
    (folder / "pip.log").write_text("")
    done = subprocess.run([*setup, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "pip.log").read_text().splitlines()


def test_pip_installs_nothing_without_a_hash(setup: list[str], tmp_path: Path) -> None:
    build, packages, bake = (call.split() for call in pip_calls(setup, tmp_path, "--dev", "python"))
    assert build[-3:] == ["--require-hashes", "-r", f"{tmp_path}/locks/build.txt"]
    assert packages[-5:] == ["--require-hashes", "-r", f"{tmp_path}/locks/bake.txt", "-r", f"{tmp_path}/locks/dev.txt"]
    assert bake[-3:] == ["--no-deps", "-e", str(tmp_path)]
    assert all("--no-build-isolation" in call for call in (build, packages, bake))


def test_an_environment_is_made_anew_when_a_lock_file_changes(setup: list[str], tmp_path: Path) -> None:
    assert pip_calls(setup, tmp_path, "--dev", "python")
    assert pip_calls(setup, tmp_path, "--dev", "python") == []
    with (tmp_path / "locks/dev.txt").open("a") as lock:
        lock.write("# renewed\n")
    assert len(pip_calls(setup, tmp_path, "--dev", "python")) == 3


# Debian's programs on a machine with QEMU 7.2 and libvirt 9. `missing`: the package that is not installed.
FAKE_DEBIAN = {
    "id": "echo 0",
    "dpkg-query": """case "$*" in
        *'${Version}'*qemu*) printf 1:7.2 ;;
        *'${Version}'*) printf 9.0.0 ;;
        *) shift 3; for one; do [ "$one" = MISSING ] || echo "installed $one"; done ;;
        esac""",
    "dpkg": "exit 0",
    "apt-cache": "echo n=bookworm-backports",
    "apt-get": """echo "$*" >>LOG
        case "$*" in *-s*libvirt-dev*)
            echo 'Inst libvirt0 [9.0.0-4] (11.3.0-3 Debian:13.1/stable [amd64])'
            echo 'Inst libvirt-dev (11.3.0-3 Debian:13.1/stable [amd64])' ;;
        esac""",
}


@pytest.fixture
def debian(setup: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Return `debian("--upgrade", missing="…")`, which returns an exit code, the error text, and apt's arguments."""

    def run(*words: str, missing: str) -> tuple[int, str, str]:
        folder, log = tmp_path / "programs", tmp_path / "apt.log"
        folder.mkdir(exist_ok=True)
        log.write_text("")
        for name, text in FAKE_DEBIAN.items():
            (folder / name).write_text(f"#!/bin/sh\n{text.replace('MISSING', missing).replace('LOG', str(log))}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        done = subprocess.run([*setup, *words], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, log.read_text()

    return run


def test_qemu_and_libvirt_are_not_upgraded_without_the_flag(debian: Callable[..., tuple[int, str, str]]) -> None:
    code, said, apt = debian("vm", missing="iproute2")
    assert code == 0
    assert "are too old for VMs without KVM; to upgrade them: scripts/setup --upgrade" in said
    assert re.findall(r"(?m)^.* install --no-install-recommends (?!.*-s)(.*)$", apt)[-1] == "iproute2"


def test_a_package_that_would_upgrade_libvirt_is_refused(debian: Callable[..., tuple[int, str, str]]) -> None:
    code, said, apt = debian("vm", missing="libvirt-dev")
    assert code == 1
    assert "  libvirt0 9.0.0-4 to 11.3.0-3" in said
    assert "hint: other VMs of this machine use them too; to upgrade them: scripts/setup --upgrade" in said
    assert all("-s" in line.split() for line in apt.splitlines() if "install" in line.split())


def test_the_flag_upgrades_qemu_and_libvirt(debian: Callable[..., tuple[int, str, str]]) -> None:
    code, _, apt = debian("--upgrade", "vm", missing="libvirt-dev")
    assert code == 0
    (installed,) = [line for line in apt.splitlines() if "install" in line.split()]
    assert {"qemu-system-x86", "libvirt-daemon-system", "libvirt-dev"} <= set(installed.split())


def test_scripts_call_pip_only_with_hashes() -> None:
    """Each `pip install` either checks hashes or installs only this project."""
    texts = {path.name: path.read_text() for path in (ROOT / "scripts").iterdir() if path.is_file()}
    joined = {name: text.replace("\\\n", " ") for name, text in texts.items()}
    calls = [line.strip() for text in joined.values() for line in text.splitlines() if "-m pip install" in line]
    assert len(calls) == 4
    assert all("--require-hashes" in call or '"$@"' in call for call in calls)
