"""Read and write the folder `out/<cluster>/`. bake replaces all files of the folder in one atomic step.

bake writes a new folder next to the old folder and then exchanges the folders (renameat2(2), RENAME_EXCHANGE). The new
folder has hard links to unchanged files and to files that bake did not write.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from generator.artifact import Artifact
from generator.config.values import name as parse_name
from generator.errors import BakeError, InputError
from generator.layout import IDENTITY, MANIFEST
from generator.store import atomic, manifest, permissions


class Store:
    """A cluster's folder below the output folder."""

    def __init__(self, out: Path, cluster: str) -> None:
        try:
            parse_name(cluster)  # paths contain the name, so `/` and `..` must be refused
        except ValueError as error:
            raise InputError.one("--name", str(error), "give the name of a baked cluster") from None
        self.out = out.absolute()
        self.cluster = cluster
        self.folder = self.out / cluster
        self._is_checked = False

    def read(self, path: str | PurePosixPath) -> bytes | None:
        """Return a file's content, or None if it is missing. Raises InputError for a symlink or another user's file."""
        if not self._is_checked:
            self._check_out()
        permissions.check_below(self.folder, PurePosixPath(path))
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError.one(
                str(self.folder / path), f"cannot be read: {error.strerror}", "check its owner"
            ) from None

    def has(self, path: str | PurePosixPath) -> bool:
        """Return whether the folder has a file."""
        return (self.folder / path).is_file()

    def manifest(self) -> dict[str, Any]:
        """Return sha256 and mode of each file that the last bake wrote. The result is empty before the first bake."""
        record = self._record()
        return record["files"] if record else {}

    def digest(self) -> str:
        """Return a digest of all files that the last bake wrote, or "" before the first bake."""
        raw = self.read(MANIFEST)
        return hashlib.sha256(raw).hexdigest() if raw is not None else ""

    def _record(self) -> dict[str, Any] | None:
        raw = self.read(MANIFEST)
        return None if raw is None else manifest.parse(raw, where=str(self.folder / MANIFEST))

    def _check_out(self) -> None:
        permissions.check_parents(self.out)
        self._is_checked = True

    def check(self) -> None:
        """Raise InputError if the folder belongs to another cluster, has no manifest, or if others can change it."""
        self._check_out()
        try:
            names = self._names()
        except OSError as error:
            raise InputError.one(str(self.folder), f"cannot be read: {error.strerror}", "give another --out") from None
        record = self._record()
        if record is None and IDENTITY.name in names:
            raise InputError.one(str(self.folder / MANIFEST), "is missing", "restore the file from a backup")
        if record is None and names - {"pki"}:
            rule = "is not empty, and bake did not create it"
            raise InputError.one(str(self.folder), rule, "give another --out or --name")
        owner = record["cluster"] if record else self.cluster
        if owner != self.cluster:
            rule = f"belongs to the cluster {owner!r}, not {self.cluster!r}"
            raise InputError.one(str(self.folder), rule, f"use --name {owner}")

    def _names(self) -> set[str]:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise InputError.one(str(self.folder), "is a symlink or a file, not a folder", "give another --out")
        return {entry.name for entry in self.folder.iterdir()} if self.folder.exists() else set()

    def remove(self, path: PurePosixPath) -> bool:
        """Delete one file and return whether it existed. The caller must hold the lock."""
        try:
            (self.folder / path).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        atomic.sync_names(self.folder)
        return True

    @contextmanager
    def locked(self, report: Callable[[str], None]) -> Iterator[None]:
        """Lock the output folder. If another bake process has the lock, tell the user and wait.

        The lock is on the folder itself, so there is no lock file. `locked` removes the unfinished folders of bake
        processes that were killed, and the output folder if it has made it and nothing was written to it.
        """
        is_new = not self.out.exists()
        with ExitStack() as stack:
            while not self._lock(stack, report):
                pass  # another bake process has removed the folder, because it wrote nothing
            if is_new:
                stack.callback(self._remove_empty)
            self._check_out()  # check again: another user may have created the folder after the first check
            # This process has the lock, so no other process uses an unfinished folder.
            for left in self._staged():
                shutil.rmtree(left, ignore_errors=True)
            yield

    def _lock(self, stack: ExitStack, report: Callable[[str], None]) -> bool:
        """Create the output folder if it does not exist, and lock it. Return whether it still exists then."""
        try:
            self.out.mkdir(mode=0o755, parents=True, exist_ok=True)
            try:
                descriptor = stack.enter_context(atomic.opened(self.out))
            except FileNotFoundError:
                return False
        except OSError as error:
            where = Path(error.filename) if isinstance(error, FileExistsError) else self.out
            text = ""
            if where.is_symlink() and not where.exists():
                text = f"is a symlink to {where.readlink()}, which does not exist"
            elif where.is_file():
                text = "is not a folder"
            raise atomic.no_write(where, error, text) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            report(f"waiting until another bake has finished with {self.out}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), self.out.stat())
        return False

    def _remove_empty(self) -> None:
        with suppress(OSError):  # the folder is not empty
            self.out.rmdir()

    @contextmanager
    def replacing(self) -> Iterator[Staging]:
        """Yield a new folder, which replaces the old folder if the `with` block ends without an error."""
        for name in self.manifest():  # check all files before the new folder gets links to them
            permissions.check_below(self.folder, PurePosixPath(name))
        try:
            staging = self._make_staging()
            yield staging
            staging.finish()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BakeError(f"{self.out}: the disk is full; nothing has changed", hint="free some space") from None
            raise BakeError(f"{self.out}: {error.strerror}; nothing has changed") from error
        finally:
            with suppress(InputError):  # the result stands, also if the folder cannot be read any more
                for folder in self._staged():  # by name: Ctrl-C can come before `staging` has a value
                    shutil.rmtree(folder, ignore_errors=True)

    def _make_staging(self) -> Staging:
        try:
            return Staging(self, Path(tempfile.mkdtemp(prefix=self._staging_prefix, dir=self.out)))
        except OSError as error:
            raise atomic.no_write(self.out, error) from None

    @property
    def _staging_prefix(self) -> str:
        return f".{self.cluster}.new-"

    def _staged(self) -> list[Path]:
        try:
            return [path for path in self.out.iterdir() if path.name.startswith(self._staging_prefix)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError.one(str(self.out), f"cannot be read: {error.strerror}", "give another --out") from None

    def has_leftover(self) -> bool:
        """Return whether a killed bake process left an unfinished folder.

        While another process has the lock, return False.
        """
        if not self._staged():
            return False
        with atomic.opened(self.out) as descriptor, suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return bool(self._staged())
        return False


class Staging:
    """A cluster's new folder. `changed`: the new files, and the files whose content or mode has changed.

    `facts`: what the manifest says about the cluster (see `manifest.describe`), by default the facts of the old folder.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.changed: list[str] = []
        self._files: dict[str, dict[str, str]] = {}
        record = store._record() or {"files": {}}
        self.facts = manifest.facts_of(record)
        self._old: dict[str, Any] = record["files"]
        self._made_folders: set[Path] = set()
        self._dropped: set[str] = set()

    def write(self, artifact: Artifact) -> None:
        """Add a file. A secret file gets mode 0600. A new folder gets mode 0700."""
        path = artifact.path
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{path} is outside the cluster's folder")
        mode = 0o600 if artifact.secret else artifact.mode
        target = self.folder / path
        self._make_parents(target.parent)
        self._files[str(path)] = {"sha256": artifact.sha256, "mode": f"{mode:04o}"}
        if not self._keep(path, artifact.data, mode, target):
            atomic.write_new(target, artifact.data, mode)
            self.changed.append(str(path))

    def keep_others(self, *dropped: PurePosixPath) -> None:
        """Add the files of the last bake that are neither in the new folder nor in `dropped`."""
        for name, entry in self._old.items():
            data = None if PurePosixPath(name) in dropped or name in self._files else self.store.read(name)
            if data is not None:
                self.write(Artifact(PurePosixPath(name), data, mode=int(entry["mode"], 8)))

    @property
    def differences(self) -> tuple[tuple[str, str], ...]:
        """Each new (`+`), changed (`~`) or removed (`-`) file, as a tuple of sign and file name."""
        made = [("~" if name in self._old else "+", name) for name in self.changed]
        return (*made, *(("-", name) for name in self._old if name not in self._files))

    def drop(self, path: PurePosixPath) -> None:
        """Leave the user's file `path` out of the new folder.

        For example, bake leaves out the file with a signed certificate after bake has read the certificate.
        """
        self._dropped.add(str(path))

    def _make_parents(self, folder: Path) -> None:
        if folder not in self._made_folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._made_folders.add(folder)

    def _keep(self, path: PurePosixPath, data: bytes, mode: int, target: Path) -> bool:
        """If a file's content and mode are unchanged, link the old file as `target`. Return whether it was linked."""
        if str(path) not in self._old and path != MANIFEST:
            return False
        old = self.store.folder / path
        with suppress(OSError):
            if old.is_symlink() or old.stat().st_mode & 0o7777 != mode or old.read_bytes() != data:
                return False
            os.link(old, target)
            return True
        return False

    def finish(self) -> None:
        """Add the manifest. If any file is new, changed or removed, replace the old folder with the new folder."""
        files = dict(sorted(self._files.items()))  # the order in which bake writes files must not change the manifest
        self.write(Artifact(MANIFEST, manifest.dump(self.store.cluster, files, self.facts)))
        if not self.changed and not set(self._old) - set(self._files):
            return
        if self.store.folder.is_dir():
            self._link_other_files(self.store.folder, self.folder)
        atomic.sync(self.folder)
        atomic.exchange(self.folder, self.store.folder)
        try:
            atomic.sync_names(self.store.out)
        except OSError as error:  # the new folder is already in place
            text = f"{self.store.out}: {error.strerror}; the new files are in place, but may be lost in a power cut"
            raise BakeError(text, hint="check the disk") from error

    def _link_other_files(self, old: Path, new: Path) -> None:
        for entry in os.scandir(old):
            target = new / entry.name
            relative = str(Path(entry.path).relative_to(self.store.folder))
            if entry.is_dir(follow_symlinks=False):
                was_written_by_bake = not target.is_dir() and any(path.startswith(f"{relative}/") for path in self._old)
                target.mkdir(mode=0o700, exist_ok=True)
                self._link_other_files(Path(entry.path), target)
                if was_written_by_bake:
                    with suppress(OSError):
                        target.rmdir()  # rmdir() fails if the folder is not empty
            elif relative not in self._old and relative not in self._dropped and not target.exists():
                os.link(entry.path, target, follow_symlinks=False)
