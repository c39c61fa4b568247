"""The names and tags of a cluster's objects in Incus. bake changes or removes only objects with the cluster's tag.

Instances and custom volumes have the tag in their configuration, in the keys `user.bake.*`. Every member of a project
can read the configuration, so a tag has no secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from generator.errors import BakeError
from generator.plan import domain_name

DATA_SUFFIX = ".data"  # of the volume with etcd's data
_PREFIX = "user.bake."


@dataclass(frozen=True, kw_only=True)
class Tag:
    """The cluster and the node of an object, and for an instance, what it was made from.

    `image`: digest of bake's image. `built`: when bake built the image. `root`: the values from which the root disk was
    made. `seed`: digest of the seed that was inserted last.
    """

    cluster: str
    id: str
    node: str = ""
    version: str = ""
    image: str = ""
    built: str = ""
    root: str = ""
    seed: str = ""

    @property
    def config(self) -> dict[str, str]:
        """The keys of an object's configuration."""
        values = {info.name: getattr(self, info.name) for info in fields(self)}
        return {f"{_PREFIX}{name}": value for name, value in values.items() if value}


def read_tag(config: Mapping[str, str]) -> Tag | None:
    """Return the tag in an object's configuration, or None if bake did not make the object."""
    known = {info.name: config.get(f"{_PREFIX}{info.name}", "") for info in fields(Tag)}
    return Tag(**known) if known["cluster"] else None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A cluster's name and id. The id distinguishes clusters with the same name. An empty id matches every id."""

    cluster: str
    cluster_id: str = ""

    def covers(self, tag: Tag | None) -> bool:
        """Return whether a tag belongs to this cluster."""
        return tag is not None and tag.cluster == self.cluster and self.cluster_id in ("", tag.id)

    def refuse(self, tag: Tag | None, what: str) -> BakeError:
        """Return the error for an object that does not belong to this cluster. `what`: the object's name."""
        rule = "was not made by bake"
        if tag is not None:
            other = "another cluster named" if tag.cluster == self.cluster else "the cluster"
            rule = f"belongs to {other} {tag.cluster}"
        hint = "give this cluster another --name, use another incus.project, or rename the existing object"
        return BakeError(f"{what} {rule}", hint=hint)


def instance_name(cluster: str, node: str, generation: int = 1) -> str:
    """Return the name of a node's instance.

    A node that was replaced while its member was off gets an instance of the next generation, because the name of the
    old instance is still in use. Names of nodes have no capital letters, so the name is unambiguous.
    """
    return domain_name(cluster, node) + (f"-R{generation}" if generation > 1 else "")


def generation_of(cluster: str, node: str, name: str) -> int:
    """Return the generation of an instance by its name, or 0 if it is not a name of the node's instances."""
    found = re.fullmatch(rf"{re.escape(domain_name(cluster, node))}(?:-R([0-9]+))?", name)
    return int(found[1] or 1) if found else 0


def location_of(data: Mapping[str, Any]) -> str:
    """Return the member that has an object, or "" without a cluster. `data`: what the API returns of the object."""
    return "" if data.get("location") in (None, "none") else str(data["location"])


def data_volume(instance: str) -> str:
    return instance + DATA_SUFFIX


def seed_volume(instance: str, digest: str) -> str:
    return f"{instance}.seed-{digest[:16]}"


def is_seed_of(instance: str, volume: Mapping[str, Any]) -> bool:
    return str(volume["name"]).startswith(f"{instance}.seed-")
