"""The wheel: it has every file that bake reads, its license, and works without the source folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from generator import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built by the build back end alone, which needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    (path,) = folder.iterdir()
    assert path.name == f"etcd_bake-{__version__}-py3-none-any.whl"
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def source_files() -> dict[str, Path]:
    """The wheel's name of each file in the package and of each profile."""
    package = {path: path.relative_to(ROOT) for path in (ROOT / "generator").rglob("*")}
    profiles = {path: "generator" / path.relative_to(ROOT) for path in (ROOT / "profiles").rglob("*")}
    return {
        str(name): path for path, name in (package | profiles).items()
        if path.is_file() and "__pycache__" not in path.parts
    }  # fmt: skip


def test_it_has_every_file_of_the_package_and_the_profiles(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if name.startswith("generator/")}
    assert packed == set(source_files())
    assert {
        "generator/py.typed",
        "generator/profiles/default.yaml",
        "generator/seed/guest/usr/libexec/bake/etcd-join",
        "generator/image/recipe/customize.sh",
    } <= packed


def test_programs_stay_executable(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in source_files() if wheel.getinfo(name).external_attr >> 16 & 0o111}
    assert packed == {name for name, path in source_files().items() if os.access(path, os.X_OK)}


def test_its_license_is_apache_2(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["License-Expression"], metadata.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()
    assert b"Version 2.0, January 2004" in wheel.read(name)


def test_distribution_and_command_have_their_names(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("etcd-bake", __version__)
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert wheel.read(name).decode().split() == ["[console_scripts]", "bake", "=", "generator.cli:main"]


def test_a_version_is_classified_for_each_python_that_is_locked() -> None:
    (line,) = (line for line in (ROOT / "scripts/lock").read_text().splitlines() if line.startswith("PYTHONS="))
    wanted = [f"Programming Language :: Python :: {version}" for version in line.split("'")[1].split()]
    assert [name for name in PROJECT["classifiers"] if "Python :: 3." in name] == wanted


def test_it_bakes_without_the_source_folder(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    script = "import sys; site = sys.argv.pop(1); sys.path.insert(0, site); import generator.cli as cli\n"
    script += "assert cli.__file__.startswith(site), cli.__file__\ncli.main()"
    words = [sys.executable, "-I", "-c", script, str(tmp_path / "site"), "--nodes", "1", "--profile", "debian"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/etcd/etcd1/seed.iso").is_file()
