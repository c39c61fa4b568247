"""The system calls of a bake, with any umask: no other user can open a file with a key at any time."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.report import ROOT
from tests.hostile.syscalls import Call, watch

CHANGES = {
    "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink",
    "unlinkat", "rmdir", "chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "truncate",
    "mknod", "mknodat", "creat", "openat2", "open", "setxattr",
}  # fmt: skip
RUNS = {
    "a first bake": [("--nodes", "3")],
    "over an old one": [("--nodes", "2", "--leaf-days", "9"), ("--nodes", "3")],
    "with threads that make keys": [("--nodes", "1", "--key-type", "rsa-2048")],
    "with an archive": [
        ("--profile", "rhel", "--nodes", "1", "--archive", str(ROOT / "tests/data/etcd.tar.gz"), "--archive-sha256")
    ],
}


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tool: Callable[[str], str]
) -> tuple[Path, list[Call]]:
    """Run a bake with umask 000. Return the folder in which it ran, and its system calls."""
    tool("strace")
    work = tmp_path_factory.mktemp("watched")
    digest = hashlib.sha256((ROOT / "tests/data/etcd.tar.gz").read_bytes()).hexdigest()
    for words in request.param:
        last = (digest,) if "--archive" in words else ()
        calls = watch(*words, *last, work=work, umask=0)
    return work, calls


def below(path: str, folder: Path) -> bool:
    return Path(path).is_relative_to(folder)


def test_every_file_is_new_and_its_owners_alone_from_the_first_byte(run: tuple[Path, list[Call]]) -> None:
    work, calls = run
    made = [call for call in calls if call.creates]
    assert len(made) >= 10
    for call in made:
        assert {"O_EXCL", "O_NOFOLLOW", "O_CLOEXEC"} <= call.flags
        assert call.mode == "0600"
        assert below(call.paths[0], work / "out")


def test_a_mode_is_widened_only_where_no_key_is(run: tuple[Path, list[Call]]) -> None:
    work, calls = run
    keys = {path.name for path in (work / "out").rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()}
    assert {"user-data", "seed.iso", "etcd-ca.key", "etcd-peer-ca.key", "etcd-client.key"} == keys
    modes = [(Path(call.paths[0]).name, call.mode) for call in calls if call.name == "fchmod"]
    assert {mode for name, mode in modes if name in keys} == {"0600"}
    assert {name for name, _ in modes} >= {"user-data", "seed.iso"}


def test_nothing_is_written_anywhere_else(run: tuple[Path, list[Call]]) -> None:
    work, calls = run
    changing = [call for call in calls if call.name in CHANGES or {"O_WRONLY", "O_RDWR"} & call.flags]
    assert len(changing) >= 15
    for call in changing:
        absolute = [path for path in call.paths if path.startswith("/")]
        assert absolute, call
        assert all(below(path, work / "out") for path in absolute), call


def test_every_folder_is_closed_to_others(run: tuple[Path, list[Call]]) -> None:
    work, calls = run
    modes = {call.paths[0]: call.mode for call in calls if call.name == "mkdir"}
    assert {mode for path, mode in modes.items() if path != str(work / "out")} == {"0700"}
    folders = [path for path in (work / "out", *(work / "out").rglob("*")) if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}  # also `out`, because bake sets the umask


def test_nothing_is_run_and_nobody_is_called(run: tuple[Path, list[Call]]) -> None:
    """Then no key can be in a process list or leave this machine."""
    _, calls = run
    assert sum(call.name == "execve" for call in calls if not call.failed) == 1  # this is bake
    assert [call for call in calls if call.name in ("socket", "connect")] == []


def test_would_notice(tmp_path: Path, tool: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above detect a bake with a wrong mode in `os.open`."""
    tool("strace")
    copy = tmp_path / "code"
    shutil.copytree(ROOT / "generator", copy / "generator")
    shutil.copytree(ROOT / "profiles", copy / "profiles")
    store = copy / "generator/store/atomic.py"
    store.write_text(store.read_text().replace("os.O_NOFOLLOW | os.O_CLOEXEC, 0o600", "os.O_CLOEXEC, 0o666"))
    monkeypatch.setattr("tests.hostile.syscalls.ROOT", copy)
    work = tmp_path / "work"
    work.mkdir()
    calls = watch("--nodes", "1", work=work)
    test_nothing_is_written_anywhere_else((work, calls))
    with pytest.raises(AssertionError):
        test_every_file_is_new_and_its_owners_alone_from_the_first_byte((work, calls))
    with pytest.raises(AssertionError):
        test_nothing_is_written_anywhere_else((work / "elsewhere", calls))


def test_the_new_folder_gets_its_name_in_one_call_when_all_of_it_is_on_the_disk(run: tuple[Path, list[Call]]) -> None:
    """Between two renames, there would be no folder. After a power cut, a file that was not synced could be empty."""
    work, calls = run
    renames = [call for call in calls if "rename" in call.name and str(work / "out/etcd") in call.paths]
    (swap,) = renames
    assert not swap.failed
    begun = calls[: calls.index(swap)]
    manifest = str(work / "out/etcd/manifest.json")
    replaces = any(call.name == "openat" and not call.failed and manifest in call.paths for call in begun)
    assert ("RENAME_EXCHANGE" in swap.arguments) is replaces
    syncs = [place for place, call in enumerate(begun) if call.name == "syncfs" and not call.failed]
    changes = [
        place
        for place, call in enumerate(begun)
        if (call.name in ("write", "link", "linkat", "mkdir", "fchmod") or call.creates)
        and any(Path(path).is_relative_to(work / "out") for path in call.paths)
    ]
    assert syncs[-1] > changes[-1]
    after = [call.name for call in calls[calls.index(swap) :] if str(work / "out") in call.paths]
    assert "fsync" in after
