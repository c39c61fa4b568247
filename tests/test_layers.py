"""The map of the code: who may import whom, and who owns which library."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "generator"

# A module imports only from the lines above its own, and from its neighbours to the left.
LAYERS = """
    errors artifact progress
    fields values access auth spec yaml12 etcd_values etcd_options
    plan rules said changes profile
    pki.credential pki.encryption pki.profiles pki.request pki.issue pki.authority pki.inspection pki
    render steps seed archive domain etcdctl
    host.apt_sources host.folders host.manifest host.store host.image_build host.image host.image_custom
    host.console host.tls host.hello host.etcd_api host.etcd host.observe host.report
    host.hypervisor.connection host.hypervisor.accel host.hypervisor.ownership host.hypervisor.network
    host.hypervisor.pool host.hypervisor.medium host.hypervisor.firewall host.hypervisor.boot
    host.hypervisor.lifecycle host.hypervisor.terminal host.hypervisor
    authorities keyring signing bake remembered checks.check checks.members checks.ports checks
    verify judges controls audit boot_progress cluster removal certificates rotation
    options cli.shared cli.files cli.cluster cli.certificates cli
""".split()  # noqa: SIM905  it is a drawing

PKI = ("credential", "encryption", "profiles", "request", "issue", "authority", "inspection")
OWNERS = {
    "click": {"options", "cli", "cli.shared", "cli.files", "cli.cluster", "cli.certificates"},
    "cryptography": {f"pki.{name}" for name in PKI},
    "google": {"host.etcd_api"},
    "grpclib": {"host.etcd"},
    "jinja2": {"render"},
    "libvirt": {"host.hypervisor.connection"},
    "pycdlib": {"seed"},
    "requests": {"host.image_custom"},
    "rich": {"progress"},
    "yaml": {"yaml12", "seed"},  # YAML 1.2 for people, 1.1 for cloud-init
}
STANDARD = sys.stdlib_module_names | {"generator"}


def modules() -> list[str]:
    files = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    parts = (path.parts for path in files if path.parts[0] not in ("base_image", "guest"))
    names = {".".join(each).removesuffix(".__init__") for each in parts if each[-1] != "__main__"}
    return sorted(names - {"__init__", "host"})


def imports(module: str) -> Iterator[str]:
    path = PACKAGE.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(name: str) -> str | None:
    """The module of the package that an imported name is or lives in."""
    parts = name.split(".")
    candidates = (".".join(parts[1:length]) for length in range(len(parts), 1, -1))
    return next((name for name in candidates if name in LAYERS), None) if parts[0] == "generator" else None


def test_every_module_has_its_place_on_the_map() -> None:
    assert set(modules()) <= set(LAYERS)


@pytest.mark.parametrize("module", modules())
def test_imports_only_what_stands_above_it(module: str) -> None:
    above = LAYERS[: LAYERS.index(module)]
    assert {name for name in map(own, imports(module)) if name and name != module} <= set(above)


@pytest.mark.parametrize("module", modules())
def test_uses_only_the_libraries_it_owns(module: str) -> None:
    used = {name.partition(".")[0] for name in imports(module)} - STANDARD
    assert {library for library in used if module not in OWNERS.get(library, ())} == set()


def test_help_loads_no_heavy_library() -> None:
    heavy = set(OWNERS) - {"click"}
    script = "import atexit, sys; sys.argv[1:] = ['--help']; from generator.cli import main\n"
    script += "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stderr.split()
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    assert "generator.cli" in loaded
