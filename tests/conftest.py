"""Fixtures for all tests: a fixed time, plans, bake's command line in this process, and snapshots of folders."""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from generator import RELEASED
from generator.config.spec import read_spec
from generator.pki import key_encryption
from generator.plan import ClusterPlan, plan_cluster
from tests.output_schema import check_output

# hypothesis sets no deadlines, because a machine may be slow. In CI, it uses the same examples in each run.
settings.register_profile(
    "bake", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bake")
# A shell without job control ignores SIGINT in its background processes, and every child would inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
TIERS = ("etcd", "nspawn", "vm")  # from fast to slow


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite tests/golden with the current output")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run slow tests last. With several workers, run them first, so that no worker waits for them at the end."""

    def tier(item: pytest.Item) -> int:
        return max(
            (TIERS.index(mark.name) + 1 for mark in item.iter_markers() if mark.name in TIERS), default=0
        )

    items.sort(key=tier, reverse=hasattr(config, "workerinput"))  # pytest-xdist sets `workerinput` in its workers


@pytest.fixture(scope="session")
def now() -> datetime:
    """A fixed time after bake's release, because bake refuses an earlier time."""
    return RELEASED + timedelta(days=1, hours=3, minutes=4, seconds=5)


@pytest.fixture(scope="session")
def plan() -> Callable[..., ClusterPlan]:
    """`plan(nodes=5, pki={"keyType": "rsa-2048"})`: make a plan from the fields of a cluster file."""

    def make(**fields: Any) -> ClusterPlan:
        return plan_cluster(read_spec(fields)[0])

    return make


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Return a program's path. If the program is missing, the test is skipped, but in CI it fails."""

    def find(name: str) -> str:
        if path := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            return path
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")

    return find


@dataclass(frozen=True)
class Result:
    """The exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def bake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Any]:
    """`bake("--nodes", 3)`: run bake's command line in this process, in an empty folder."""
    from generator import cli

    for name in [name for name in os.environ if name.startswith("BAKE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    umask, handler, threshold = os.umask(0o022), signal.getsignal(signal.SIGTERM), gc.get_threshold()

    def run(*words: object) -> Result:
        monkeypatch.setattr("sys.argv", ["bake", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        result = Result(end.value.code, *capsys.readouterr())
        if "--follow" not in words and result.out.startswith("{"):
            check_output([*map(str, words)], result.out)
        return result

    yield run
    os.umask(umask)
    signal.signal(signal.SIGTERM, handler)
    gc.set_threshold(*threshold)
    atexit.unregister(gc.freeze)


@pytest.fixture
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the time to derive a key from a passphrase to 1 ms from 200 ms. test_keyring.py tests the real cost."""
    monkeypatch.setattr(key_encryption, "COST", 1 << 4)


@pytest.fixture(scope="session")
def picture() -> Callable[[Path], dict[str, tuple[object, ...]]]:
    """Return a snapshot of a folder: path → mode, modification time, content. Equal snapshots mean no change."""

    def take(folder: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(folder))] = (oct(status.st_mode), status.st_mtime_ns, content)
        return found

    return take
