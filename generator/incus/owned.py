"""Find and remove everything of a cluster in Incus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from generator.engine import Owned, State
from generator.errors import BakeError
from generator.incus.client import Incus
from generator.incus.image import list_images, remove_images
from generator.incus.instances import Instance, list_instances
from generator.incus.members import list_members, removed_unless_off
from generator.incus.tags import Claim, location_of, read_tag
from generator.incus.volumes import Volumes
from generator.plan import domain_name
from generator.progress import Report


@dataclass(frozen=True, kw_only=True)
class IncusHosts:
    """Implements `generator.engine.Hosts` for a project of an Incus server or cluster. `pool`: its storage pool."""

    incus: Incus
    pool: str
    report: Report

    def owned(self, cluster: str, *, cluster_id: str = "") -> tuple[Owned, ...]:
        claim = Claim(cluster=cluster, cluster_id=cluster_id)
        found = [("instance", one.name, one.tag.id) for one in self._instances(claim) if one.tag is not None]
        for volume in self._volumes(claim).list():
            tag = read_tag(volume["config"])
            found.append(("volume", str(volume["name"]), tag.id if tag else ""))
        found += [("image", name[:12], tag.id) for name, tag in list_images(self.incus, claim).items()]
        return tuple(Owned(kind=kind, name=name, cluster_id=tag) for kind, name, tag in found)

    def destroy(self, cluster: str, *, cluster_id: str = "") -> tuple[str, ...]:
        """Remove the instances and volumes of the members that answer, then the images.

        Raise BakeError if a member is off. Incus removes no image then.
        """
        claim, off = Claim(cluster=cluster, cluster_id=cluster_id), self._offline()
        removed: list[str] = []
        for one in self._instances(claim):
            if one.tag is not None:
                removed += removed_unless_off(self.incus, one.location, off, partial(remove_instance, self.incus, one))
        volumes = self._volumes(claim)
        for volume in volumes.list():
            removed += removed_unless_off(self.incus, location_of(volume), off, partial(volumes.remove, volume))
        if off:
            text = f"host {', '.join(sorted(off))} does not answer, so instances or volumes of {cluster} can be left"
            done = ", ".join(dict.fromkeys(removed)) or "nothing"
            raise BakeError(text, hint=f"when the host is on again, run the same command; removed so far: {done}")
        removed += remove_images(self.incus, claim)
        return tuple(dict.fromkeys(removed))

    def used_images(self) -> set[str]:
        found = [read_tag(one.get("config") or {}) for one in self.incus.get("instances", recursion="1")]
        return {tag.image for tag in found if tag is not None and tag.image}

    def _offline(self) -> set[str]:
        return {one.name for one in list_members(self.incus) if not one.online}

    def _instances(self, claim: Claim) -> list[Instance]:
        found = list_instances(self.incus, claim, (), self._offline())
        return [one for one in found if one.state is not State.FOREIGN]

    def _volumes(self, claim: Claim) -> Volumes:
        return Volumes(incus=self.incus, pool=self.pool, claim=claim)


def remove_instance(incus: Incus, instance: Instance) -> tuple[str, ...]:
    """Switch an instance off, and remove it with its root disk. Return its names: its own, and its node's."""
    stop_now(incus, instance)
    incus.delete("instances", instance.name)
    base = domain_name(instance.tag.cluster, instance.node) if instance.tag else instance.name
    return tuple(dict.fromkeys((instance.name, base)))


def stop_now(incus: Incus, instance: Instance) -> None:
    if instance.state in (State.RUNNING, State.PAUSED):
        set_state(incus, instance.name, "stop", force=True)


def set_state(incus: Incus, name: str, action: str, *, timeout: float = -1, force: bool = False) -> None:
    """Start, stop or unfreeze an instance. `timeout`: seconds, or -1 to wait as long as necessary."""
    incus.put("instances", name, "state", body={"action": action, "timeout": int(timeout), "force": force})
