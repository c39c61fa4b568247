"""Read the files of applications in `clients/<name>/`, which `bake client add` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from generator import pki
from generator.artifact import Artifact
from generator.clients.application import CERTIFICATE, KEY, RECORD, Kind
from generator.errors import InputError
from generator.layout import CLIENTS
from generator.pki import Credential, PrivateKey
from generator.store.folder import Store

FORMAT_VERSION = "1.0"


class Record(NamedTuple):
    """What the user has stated about an application. `folder`: None for the application's folder in the cluster's."""

    kind: Kind
    folder: str | None

    @property
    def file(self) -> Artifact:
        content = {"format_version": FORMAT_VERSION, "for": str(self.kind), "dir": self.folder}
        return Artifact(RECORD, json.dumps(content, indent=1).encode() + b"\n")


def client_names(store: Store) -> list[str]:
    """Return the names of the applications, in alphabetical order."""
    paths = (PurePosixPath(name) for name in store.manifest())
    return sorted(path.parts[1] for path in paths if path.parts[0] == str(CLIENTS) and path.name == str(RECORD))


def client_certificates(store: Store) -> Iterator[tuple[str, bytes, str]]:
    """Yield the name, the PEM text and the path of the certificate of each application that has one."""
    for name in client_names(store):
        path = CLIENTS / name / CERTIFICATE
        if (pem := store.read(path)) is not None:
            yield name, pem, str(store.folder / path)


def load_record(store: Store, name: str) -> Record | None:
    """Return the record of an application, or None if there is no such application. Raises InputError."""
    path = CLIENTS / name / RECORD
    raw = store.read(path) if str(path) in store.manifest() else None
    if raw is None:
        return None
    try:
        match json.loads(raw):
            case {"for": str(kind), "dir": str() | None as folder}:
                return Record(kind=Kind(kind), folder=folder)
    except (ValueError, RecursionError):
        pass
    raise InputError.one(str(store.folder / path), "has content that bake did not write", "restore the file")


def load_key(store: Store, name: str) -> PrivateKey | None:
    """Return the private key of an application, or None. Raises InputError."""
    path = CLIENTS / name / KEY
    pem = store.read(path)
    return None if pem is None else pki.parse_key(pem, where=str(store.folder / path))


def load_credential(store: Store, name: str) -> Credential | None:
    """Return the certificate and the key of an application, or None if one of them is missing. Raises InputError."""
    path = CLIENTS / name / CERTIFICATE
    pem, key = store.read(path), load_key(store, name)
    if pem is None or key is None:
        return None
    return Credential(pki.parse_certificate(pem, where=str(store.folder / path)), key)
