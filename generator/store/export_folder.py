"""Write the files of an export into a folder. The folder changes in one atomic step, like a cluster's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from os.path import abspath
from pathlib import Path

from generator.artifact import Artifact
from generator.errors import BakeError, InputError, Problem
from generator.layout import MANIFEST
from generator.store.folder import Store

_PERMIT = "bootstrap_permit"  # a key in the manifest
_HINT = "move your files away, or give another --into"


def exports_folder(store: Store) -> Path:
    """Return the default folder of a cluster's exports."""
    return store.out / f"{store.cluster}.export"


class ExportFolder(Store):
    """A folder with an export. Its manifest lists what bake wrote, so that bake overwrites nothing else."""

    def __init__(self, folder: Path, title: str) -> None:
        """`title`: the cluster and the target. A folder has only one export."""
        self.folder = Path(abspath(folder))  # noqa: PTH100  `absolute` keeps `..`
        self.out = self.folder.parent
        self.cluster = title
        self._is_checked = False

    @property
    def _staging_prefix(self) -> str:
        return f".{self.folder.name}.new-"

    def check(self) -> None:
        self._check_out()
        names = self._names()
        record = self._record() if names else None
        if record is None and names:
            raise InputError.one(str(self.folder), "is not empty, and bake did not create it", _HINT)
        if record and record["cluster"] != self.cluster:
            text = f"contains {record['cluster']}, not {self.cluster}"
            raise InputError.one(str(self.folder), text, "give another --into")

    def check_files(self, files: Iterable[Artifact]) -> None:
        """Raise one InputError with every file of somebody else that the export would overwrite or remove."""
        if problems := list(self._foreign(files)):
            raise InputError(problems)

    def _foreign(self, files: Iterable[Artifact]) -> Iterator[Problem]:
        listed = self.manifest()
        for name, entry in listed.items():
            data = self.read(name)
            if data is not None and hashlib.sha256(data).hexdigest() != entry["sha256"]:
                yield Problem(str(self.folder / name), "was changed after bake wrote it", _HINT)
        for file in files:
            path = self.folder / file.path
            if str(file.path) not in listed and (path.exists() or path.is_symlink()):
                yield Problem(str(path), "exists, and bake did not write it", _HINT)

    @property
    def has_permit(self) -> bool:
        """Whether a file of the export contains the bootstrap permit. An invalid manifest does not say so."""
        try:
            return bool((self._record() or {}).get(_PERMIT))
        except InputError:
            return False

    def write_all(
        self, files: tuple[Artifact, ...], report: Callable[[str], None], *, has_permit: bool
    ) -> tuple[str, ...]:
        """Replace the files of the last export. Return the names of the files that changed. Files of others stay."""
        with _named_into(), self.locked(report):
            self.check()
            self.check_files(files)
            with self.replacing() as staging:
                staging.facts = {_PERMIT: True} if has_permit else {}
                for file in files:
                    staging.write(file)
        return tuple(name for name in staging.changed if name != str(MANIFEST))


@contextmanager
def _named_into() -> Iterator[None]:
    """Let hints name the option --into instead of --out."""
    try:
        yield
    except InputError as error:
        changed = (one._replace(hint=one.hint and one.hint.replace("--out", "--into")) for one in error.problems)
        raise InputError(changed) from None
    except BakeError as error:
        raise BakeError(error.message, hint=error.hint and error.hint.replace("--out", "--into")) from None
