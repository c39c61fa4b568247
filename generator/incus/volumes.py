"""The custom volumes of a node's instance: etcd's data, and the seed.

A seed has the node's private keys. A volume's content is readable only for users who may export the project's volumes,
and the instance's configuration names the volume only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.incus.client import Incus
from generator.incus.image import tar
from generator.incus.tags import Claim, Tag, data_volume, is_seed_of, location_of, read_tag, seed_volume
from generator.seed.iso import unpack


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """The custom volumes of a storage pool that belong to a cluster."""

    incus: Incus
    pool: str
    claim: Claim

    def list(self) -> list[dict[str, Any]]:
        """Return all volumes of the cluster. A volume of a member that is off is in the list, too."""
        found = self.incus.get("storage-pools", self.pool, "volumes", "custom", recursion="1")
        return [one for one in found if self.claim.covers(read_tag(one.get("config") or {}))]

    def make_data(self, instance: str, location: str, gigabytes: int, tag: Tag) -> None:
        """Make the volume for etcd's data on the member `location`, unless it exists."""
        name = data_volume(instance)
        if self._has(name, location):
            return
        config = {**tag.config, "size": f"{gigabytes}GiB"}
        body = {"name": name, "type": "custom", "content_type": "filesystem", "config": config}
        self.incus.post("storage-pools", self.pool, "volumes", "custom", body=body, **_on(location))

    def make_seed(self, instance: str, location: str, seed: Path, tag: Tag) -> str:
        """Make the volume with the files of a seed, unless it exists. Return its name.

        Incus makes it from a backup, so the volume is complete or does not exist.
        """
        data = seed.read_bytes()
        name = seed_volume(instance, hashlib.sha256(data).hexdigest())
        if not self._has(name, location):
            files = {file.path.name: file.data for file in unpack(data, where=str(seed))}
            self.incus.upload(
                "storage-pools", self.pool, "volumes", "custom", body=[backup(name, self.pool, files, tag)],
                headers={"Content-Type": "application/octet-stream", "X-Incus-name": name}, **_on(location),
            )  # fmt: skip
        return name

    def remove(self, volume: Mapping[str, Any]) -> tuple[str]:
        name = str(volume["name"])
        self.incus.delete("storage-pools", self.pool, "volumes", "custom", name, **_on(location_of(volume)))
        return (name,)

    def remove_old_seeds(self, instance: str, used: str) -> bool:
        """Remove the instance's seeds except `used`. Return whether there was one."""
        old = [one for one in self.list() if is_seed_of(instance, one) and one["name"] != used]
        for volume in old:
            self.remove(volume)
        return bool(old)

    def _has(self, name: str, location: str) -> bool:
        return self.incus.find("storage-pools", self.pool, "volumes", "custom", name, **_on(location)) is not None


def size_of(volume: Mapping[str, Any]) -> int:
    """Return the size of a data volume in bytes. bake writes it in GiB."""
    text = str(volume["config"].get("size", ""))
    return int(text.removesuffix("GiB")) << 30 if text.endswith("GiB") else 0


def backup(name: str, pool: str, files: Mapping[str, bytes], tag: Tag) -> bytes:
    """Return a backup of a volume with these files, as Incus exports it. Only root can read the files."""
    volume = {"name": name, "type": "custom", "content_type": "filesystem", "config": tag.config}
    index = {
        "name": name, "backend": "dir", "pool": pool, "type": "custom", "optimized": False, "optimized_header": False,
        "snapshots": [], "config": {"volume": volume},
    }  # fmt: skip
    inner = {f"backup/volume/{path}": data for path, data in files.items()}
    everything = {"backup/index.yaml": json.dumps(index).encode(), **inner}
    return tar(everything, mode=0o400, folders={"backup": 0o700, "backup/volume": 0o700})


def _on(location: str) -> dict[str, str]:
    """Return the query for an object of a member."""
    return {"target": location} if location else {}
