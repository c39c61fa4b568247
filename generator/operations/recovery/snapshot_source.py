"""Read and check a snapshot that `bake snapshot` or `etcdctl snapshot save` has written."""

from __future__ import annotations

import hashlib
import json
import re
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from generator.artifact import Artifact
from generator.config.spec import ClusterSpec
from generator.errors import InputError
from generator.etcd.bolt_file import Facts, database_facts
from generator.image.base import BootImage
from generator.pki import Role
from generator.plan import ClusterPlan
from generator.seed.iso import SEED_SNAPSHOT, SEED_SNAPSHOT_RECORD
from generator.store.snapshot_files import Record, parse_record, record_path

# bake packs an ISO in memory, and needs about four times the size of the snapshot.
MAX_BYTES = 1 << 30
_PAGE, _DIGEST = 512, 32  # etcd writes a database whose size is a multiple of 512 bytes, then the SHA-256
_AGAIN = "use another snapshot, or save a new one: bake snapshot"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checked snapshot. `record`: the content of the JSON file next to it, or None if there is none."""

    path: Path
    data: bytes = field(repr=False)
    facts: Facts
    record: Record | None

    @property
    def etcd_version(self) -> str:
        """The minor version of etcd that wrote the data, or "0.0" if it is not known."""
        stated = ".".join(self.record.etcd_version.split(".")[:2]) if self.record else ""
        return self.facts.version or stated or "0.0"

    def files(self) -> tuple[Artifact, ...]:
        """Return the files for the first node's ISO."""
        record = {"format_version": "1.0", "etcd_version": self.etcd_version, "revision": self.facts.revision}
        return (
            Artifact(SEED_SNAPSHOT, self.data, mode=0o600, secret=True),
            Artifact(SEED_SNAPSHOT_RECORD, json.dumps(record).encode() + b"\n", mode=0o600, secret=True),
        )

    def doubts(self, cluster_id: str) -> Iterator[str]:
        """Yield why this may be the wrong snapshot for a cluster, or may lack data."""
        if self.record is None:
            return
        if self.record.cluster_id != cluster_id:
            yield f"the snapshot is of another cluster ({self.record.cluster}, id {self.record.cluster_id})"
        if not self.record.quorum:
            yield (
                f"the snapshot is of {self.record.member} without a quorum: it lacks the writes that only the other "
                "members had"
            )


def read_source(path: Path) -> Source:
    """Read a snapshot and check that it is complete. Raises InputError."""
    data = _read(path)
    _check_digest(path, data)
    record = _read_record(path)
    if record is not None and (record.size, record.sha256) != (len(data), hashlib.sha256(data).hexdigest()):
        rule = f"is not the file that {record_path(path)} describes: size or SHA-256 differs"
        raise InputError.one(str(path), rule, "use the pair of files that bake snapshot has written")
    try:
        facts = database_facts(path)
    except ValueError as error:
        raise InputError.one(str(path), f"is damaged: {error}", _AGAIN) from None
    return Source(path=path, data=data, facts=facts, record=record)


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError.one(str(path), "is not a file", "give a file of bake snapshot or etcdctl snapshot save")
        if status.st_size > MAX_BYTES:
            rule = f"has {status.st_size >> 20} MiB, but a seed's ISO has room for {MAX_BYTES >> 20} MiB"
            raise InputError.one(str(path), rule, "give back free space before you save it: bake defrag --compact")
        return path.read_bytes()
    except OSError as error:
        raise InputError.one(str(path), f"cannot be read: {error.strerror}", "give the file of a snapshot") from None


def _check_digest(path: Path, data: bytes) -> None:
    """Check the SHA-256 that etcd writes at the end of a snapshot."""
    if len(data) % _PAGE == 0 and data:
        rule = "has no SHA-256 at its end: it is truncated, or a copy of the file `db` of a member"
        raise InputError.one(str(path), rule, _AGAIN)
    if len(data) % _PAGE != _DIGEST or len(data) < _PAGE:
        raise InputError.one(str(path), f"is not a snapshot, or truncated: it has {len(data)} bytes", _AGAIN)
    if hashlib.sha256(memoryview(data)[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise InputError.one(str(path), "is damaged: its content does not have the SHA-256 at its end", _AGAIN)


def _read_record(path: Path) -> Record | None:
    place = record_path(path)
    try:
        return parse_record(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError.one(str(place), f"cannot be used: {text}", "restore or remove the file") from None


# --- does it fit the nodes ------------------------------------------------------------------------------------


def check_users(source: Source, plan: ClusterPlan) -> None:
    """Raise InputError if etcd's authentication in the snapshot would lock out the nodes or the operator."""
    if not source.facts.auth:
        return
    if not plan.spec.auth.enabled:
        rule = "has etcd's authentication turned on, but this cluster has auth off, so new nodes would get no user"
        raise InputError.one(str(source.path), rule, "set auth: true, and run the command again")
    first = next(node.name for node in plan.nodes if node.bootstrap)
    if missing := sorted({first, str(Role.CLIENT)} - source.facts.users):
        rule = f"has etcd's authentication turned on, but no user {' and no user '.join(missing)}"
        raise InputError.one(str(source.path), rule, "use a snapshot of this cluster, or a cluster with the same names")


def check_version(source: Source, version: str | None) -> None:
    """Raise InputError if the snapshot is newer than the nodes' etcd. `version`: None if bake does not know it."""
    if version is not None and _minor(version) < _minor(source.etcd_version):
        rule = f"is of etcd {source.etcd_version}, but the nodes have etcd {version}"
        raise InputError.one(str(source.path), rule, "use nodes with the same or a newer etcd")


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def etcd_version(spec: ClusterSpec, image: BootImage) -> str | None:
    """Return the version of etcd on the nodes, or None if only the nodes know it: then the first node checks it."""
    if spec.install.archive:
        return _archived_version(Path(spec.install.archive))
    if image.bin_dir is None:
        return None
    done = subprocess.run([str(image.bin_dir / "etcd"), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"etcd Version: ([0-9.]+)", done.stdout)
    return found[1] if found else None


def _archived_version(path: Path) -> str | None:
    """Return the version in the name of the folder in a release tarball, such as etcd-v3.5.21-linux-amd64."""
    try:
        with tarfile.open(path) as archive:
            return _first_version(member.name for member in archive)
    except (tarfile.TarError, OSError, EOFError):
        return None


def _first_version(names: Iterable[str]) -> str | None:
    found = (re.match(r"etcd-v([0-9]+\.[0-9]+\.[0-9]+)", name) for name in names)
    return next((one[1] for one in found if one), None)
