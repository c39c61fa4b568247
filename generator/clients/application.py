"""An application that uses the cluster, and the files that its configuration names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import NamedTuple

from generator.artifact import Artifact
from generator.plan import ClusterPlan

CA, CERTIFICATE, KEY = (PurePosixPath(name) for name in ("ca.pem", "client.pem", "client.key"))
REQUEST = PurePosixPath("client.csr")  # for a CA whose key bake does not have
RECORD = PurePosixPath("client.json")
PASSWORD = PurePosixPath("password")


class Kind(StrEnum):
    """The kind of application. `generic`: any other program."""

    KUBERNETES = "kubernetes"
    PATRONI = "patroni"
    PROMETHEUS = "prometheus"
    GENERIC = "generic"


@dataclass(frozen=True, kw_only=True)
class Application:
    """An application.

    `folder`: the folder with the application's files on the application's machine. `home`: the application's folder in
    the cluster's folder. `etcdctl`: the command with which the operator runs etcdctl. `password`: the password of the
    etcd user, or None if the application needs none.
    """

    name: str
    kind: Kind
    plan: ClusterPlan
    folder: PurePosixPath
    home: PurePosixPath
    etcdctl: str
    password: str | None = field(default=None, repr=False)

    @property
    def auth(self) -> bool:
        """Whether etcd's authentication is on."""
        return self.plan.spec.auth.enabled

    @property
    def endpoints(self) -> list[str]:
        """The nodes' client URLs."""
        return [node.client_url for node in self.plan.nodes]

    @property
    def hosts(self) -> list[str]:
        """The nodes' client ports as `address:port`."""
        return [url.removeprefix("https://") for url in self.endpoints]

    def path(self, file: PurePosixPath) -> str:
        """Return the path of one of the application's files on the application's machine."""
        return str(self.folder / file)


class Configuration(NamedTuple):
    """What an application needs in addition to its certificate.

    `shown`: the files that bake prints. `others`: files that are long or secret. `steps`: the operator's tasks, one
    sentence or command each. `notes`: facts about access.
    """

    shown: tuple[Artifact, ...]
    others: tuple[Artifact, ...] = ()
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> Iterator[Artifact]:
        yield from self.shown
        yield from self.others


def text_file(name: str, text: str) -> Artifact:
    return Artifact(PurePosixPath(name), text.encode())
