"""The map of the code: which folder may import which, who owns which library, and how large things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "generator"

# A module imports from its own folder and from those before it. Each entry is a folder or a single module.
ORDER = """
    errors artifact layout progress level engine console_records
    config plan pki seed export clients store
    image etcd health change report operations
    vm incus api cli
""".split()  # noqa: SIM905  it is a drawing
# No effects, except reading what the user names.
PURE = ("config", "plan", "pki", "seed", "export", "clients", "health", "change", "report")
EFFECTS = {"asyncio", "fcntl", "grpclib", "http", "libvirt", "requests", "socket", "subprocess", "tempfile"}
OWNERS = {
    "click": {"cli"},
    "cryptography": {"pki"},
    "google": {"etcd.messages"},
    "grpclib": {"etcd.client"},
    "jinja2": {"seed.templates", "report.page"},
    "libvirt": {"vm.connection"},
    "markupsafe": {"report.page"},
    "pycdlib": {"seed.iso"},
    "pyrage": {"store.backup_file"},
    "requests": {"image.custom"},
    "rich": {"cli.progress", "cli.output.watch"},
    "yaml": {"config.yaml12", "seed.iso"},  # YAML 1.2 for people, 1.1 for cloud-init
}
STANDARD = sys.stdlib_module_names | {"generator"}
MOST_LINES, MOST_MODULES = 300, 14


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name; what runs in a guest or builds an image is none."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[:2] in (("seed", "guest"), ("image", "recipe")) or parts[-1] == "__main__":
            continue
        found[".".join(part for part in parts if part != "__init__")] = path
    return {name: path for name, path in found.items() if name}


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(_imports(modules()[module]))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for name in imports(module):
        parts = name.split(".")[1:] if name.startswith("generator.") else []
        candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found |= {next((each for each in candidates if each in modules()), module)} if parts else set()
    return found - {module}


def place(module: str) -> int:
    return ORDER.index(module.partition(".")[0])


@pytest.mark.parametrize("module", modules())
def test_imports_only_from_folders_before_its_own(module: str) -> None:
    assert {name for name in own(module) if place(name) > place(module)} == set()


def test_no_two_modules_need_each_other() -> None:
    TopologicalSorter({module: own(module) for module in modules()}).prepare()  # raises CycleError


@pytest.mark.parametrize("module", modules())
def test_uses_only_the_libraries_it_owns(module: str) -> None:
    used = {name.partition(".")[0] for name in imports(module)} - STANDARD
    owner = module.partition(".")[0]
    assert {library for library in used if not {module, owner} & OWNERS.get(library, set())} == set()


@pytest.mark.parametrize("module", [name for name in modules() if name.partition(".")[0] in PURE])
def test_what_is_pure_has_no_effects(module: str) -> None:
    """Also through what it imports."""
    reached, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= own(name) - reached
    assert {name for name in reached if EFFECTS & {one.partition(".")[0] for one in imports(name)}} == set()


@pytest.mark.parametrize("module", modules())
def test_a_module_fits_its_name(module: str) -> None:
    assert len(modules()[module].read_text().splitlines()) <= MOST_LINES


def test_a_folder_fits_on_a_page() -> None:
    folders = [module.rpartition(".")[0] for module in modules() if modules()[module].name != "__init__.py"]
    assert {folder for folder in folders if folders.count(folder) > MOST_MODULES} == set()


def test_help_loads_no_heavy_library() -> None:
    heavy = set(OWNERS) - {"click"}
    script = "import atexit, sys; sys.argv[1:] = ['--help']; from generator.cli import main\n"
    script += "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stderr.split()
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    assert "generator.cli" in loaded
