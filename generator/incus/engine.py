"""`IncusEngine`: create, change and remove the containers of a cluster under Incus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from generator import __version__
from generator.engine import MachineStatus, State
from generator.errors import BakeError
from generator.image.base import BootImage
from generator.incus import instances
from generator.incus.client import Incus, IncusError
from generator.incus.console import ConsoleLog, JournalLog, attach_console
from generator.incus.image import ContainerImage, remove_images
from generator.incus.instances import DATA, SEED, Instance
from generator.incus.inventory import Inventory
from generator.incus.members import choose_target, removed_unless_off, require_online, require_section
from generator.incus.owned import remove_instance, set_state, stop_now
from generator.incus.tags import Tag, instance_name, location_of, read_tag
from generator.incus.volumes import Volumes
from generator.layout import SEED_ISO
from generator.plan import ClusterPlan, NodePlan
from generator.progress import Report

# Wait until the node has read the seed, so that bake does not remove a seed that the node still reads.
_APPLY = ["timeout", "60", "systemctl", "start", "apply-seed.service"]


@dataclass(kw_only=True)
class IncusEngine:
    """Implements `generator.engine.Engine` for the containers of a cluster in a project of Incus.

    `seeds`: the cluster's folder, which has a folder with the file `seed.iso` for each node. `load_image`: returns the
    image for new disks; the engine calls it only if it makes a disk. `patience`: the seconds within which a container
    must shut down before the engine powers it off. `remedy`: returns the command that goes on after an error.
    """

    incus: Incus
    plan: ClusterPlan
    cluster_id: str
    seeds: Path
    load_image: Callable[[], BootImage]
    report: Report
    patience: float = 90
    remedy: Callable[[], str] = "bake apply".format
    command: Callable[[str], str] = "bake {}".format

    def machines(self) -> dict[str, MachineStatus]:
        return self._inventory.machines()

    def console_logs(self, *names: str) -> dict[str, ConsoleLog]:
        return {name: ConsoleLog(self.incus, self._inventory.finder(name)) for name in names or self.machines()}

    def journals(self, *names: str) -> dict[str, JournalLog]:
        return {name: JournalLog(self.incus, self._inventory.finder(name)) for name in names or self.machines()}

    def attach(self, name: str) -> None:
        one = self._inventory.existing(name)
        if one.state is not State.RUNNING:
            raise BakeError(f"the container of {name} is not running", hint=f"start it: {self.command('up')}")
        attach_console(self.incus, one.name)

    # --- several nodes ----------------------------------------------------------------------------------------

    def check(self, *names: str) -> None:
        require_section(self.incus, self.plan.spec)
        self._checked(names)

    def _checked(self, names: Iterable[str]) -> list[tuple[NodePlan, Instance | None]]:
        """Return the nodes that do not run, with their instances. Raise BakeError if a node cannot start."""
        found = self._inventory.look()
        pairs = [(node, self._inventory.own(node.name, found)) for node in self.plan.select(names)]
        machines = self.machines() if any(one is None for _, one in pairs) else {}
        members = self._inventory.members()
        for node, one in pairs:
            if one is None and machines[node.name].data_size:
                text = f"the container of {node.name} is missing, but its volume with data exists"
                raise BakeError(text, hint=self._inventory.replace(node.name))
            if one is None and node.host:
                require_online(members, node.host, "nodes[].host", f"{node.name}: ")
        return [(node, one) for node, one in pairs if one is None or one.state is not State.RUNNING]

    def create(self, *names: str) -> tuple[str, ...]:
        idle = self._checked(names)
        if any(one is None for _, one in idle):
            require_section(self.incus, self.plan.spec)
            self._image.upload(self.incus, self.report)
        for node, one in idle:
            self._start(node, one or self._make(node))
        return tuple(node.name for node, _ in idle)

    def _start(self, node: NodePlan, one: Instance) -> None:
        if one.state is State.PAUSED:
            set_state(self.incus, one.name, "unfreeze")
            return
        seed = self._complete(node, one)
        set_state(self.incus, one.name, "start")
        self._volumes.remove_old_seeds(one.name, seed)

    def _make(self, node: NodePlan) -> Instance:
        """Make the instance of a node. Until `_complete`, it has no volumes."""
        found, image = self._inventory.look(), self._image
        newest = max((one.generation for one in found.get(node.name, [])), default=0)
        others = [one.name for one in self.plan.nodes if one is not node and one.name in found]
        members, group = tuple(self._inventory.members().values()), self.plan.spec.incus.group
        used = [found[name][0].location for name in others]
        target = choose_target(members, used, pin=node.host, group=group)
        body = {
            "name": instance_name(self.plan.name, node.name, newest + 1), "type": "container",
            "source": {"type": "image", "fingerprint": image.fingerprint},
            **instances.definition(self.plan, node, self._tag(node.name, **self._facts())),
        }  # fmt: skip
        self.incus.post("instances", body=body, **({"target": target} if target else {}))
        return self._inventory.existing(node.name)

    def _complete(self, node: NodePlan, one: Instance) -> str:
        """Give an instance that does not run its volumes, its seed and the planned definition.

        The drive stays empty if the node has applied the seed. Return the volume in the drive.
        """
        tag = one.tag or self._tag(node.name)
        spec, volume = self.plan.spec, one.seed_volume
        if spec.vm.data_disk and DATA not in one.devices:
            self._volumes.make_data(one.name, one.location, spec.vm.data_disk, self._tag(node.name))
        digest = self._digest(node.name)
        if tag.seed != digest or volume:
            volume = self._seed_volume(node.name, one)
        wanted = instances.definition(self.plan, node, replace(tag, seed=digest, version=__version__))
        if spec.vm.data_disk:
            wanted["devices"] |= instances.with_data(one, spec.incus.pool)
        if volume:
            wanted["devices"][SEED] = instances.seed_device(spec.incus.pool, volume)
        if body := instances.redefined(one, wanted):
            self.incus.put("instances", one.name, body=body)
        return volume

    def shut_down(self, *names: str) -> tuple[str, ...]:
        found = self._inventory.look()
        pairs = [(node.name, self._inventory.own(node.name, found)) for node in self.plan.select(names)]
        running = [(name, one) for name, one in pairs if one is not None and one.state is not State.STOPPED]
        for name, one in running:
            self._stop(name, one)
        return tuple(name for name, _ in running)

    def _stop(self, name: str, one: Instance) -> None:
        if one.state is State.PAUSED:
            set_state(self.incus, one.name, "unfreeze")
        try:
            set_state(self.incus, one.name, "stop", timeout=self.patience)
        except IncusError as error:
            if error.code:
                raise
            self.report(f"{name}: did not shut down within {self.patience:.0f} s; powering it off")
            stop_now(self.incus, self._inventory.existing(name))

    # --- one node ---------------------------------------------------------------------------------------------

    def restart(self, name: str) -> None:
        (node,), one = self.plan.select([name]), self._inventory.existing(name)
        if one.state is not State.STOPPED:
            self._stop(name, one)
        self._start(node, self._inventory.existing(name))

    def remove(self, name: str) -> tuple[str, ...]:
        """Remove a node from the members that answer."""
        return self._remove(name, self._inventory.look().get(name, []), with_volumes=True)

    def remove_copies(self, name: str) -> tuple[str, ...]:
        return self._remove(name, self._inventory.look().get(name, [])[1:], with_volumes=False)

    def _remove(self, name: str, found: Sequence[Instance], *, with_volumes: bool) -> tuple[str, ...]:
        """Remove instances and their volumes. `with_volumes`: also the node's volumes that have no instance."""
        removed: list[str] = []
        off = {one.location for one in found if one.state is State.UNKNOWN}
        gone = {one.name for one in found if one.state not in (State.UNKNOWN, State.FOREIGN)}
        for one in found:
            if one.state is State.UNKNOWN:
                self.report(f"warning: host {one.location} does not answer; {one.name} is left there")
            elif one.name in gone:
                removed += remove_instance(self.incus, one)
        for volume in self._inventory.reachable_volumes():
            tag, of_gone = read_tag(volume["config"]), volume["name"].rpartition(".")[0] in gone
            if tag is not None and tag.node == name and (with_volumes or of_gone):
                remove = partial(self._volumes.remove, volume)
                removed += removed_unless_off(self.incus, location_of(volume), off, remove)
        return tuple(dict.fromkeys(removed))

    def replace(self, name: str) -> None:
        (node,) = self.plan.select([name])
        self._seed(name)
        require_section(self.incus, self.plan.spec)
        self._image.upload(self.incus, self.report)
        if node.host:
            require_online(self._inventory.members(), node.host, "nodes[].host")
        self.remove(name)
        self._start(node, self._make(node))

    def reimage(self, name: str) -> None:
        (node,), one, image = self.plan.select([name]), self._inventory.existing(name), self._image
        if DATA not in one.devices:
            text = f"{name} has no data volume, so its data would be lost"
            raise BakeError(text, hint=self._inventory.replace(name))
        image.upload(self.incus, self.report)  # before the shutdown, so that the node is off for less time
        if one.state is not State.STOPPED:
            self._stop(name, one)
        source = {"type": "image", "fingerprint": image.fingerprint}
        self.incus.post("instances", one.name, "rebuild", body={"source": source})
        one = self._inventory.existing(name)
        # Without the digest of a seed, `_start` puts the seed into the drive.
        tag = replace(one.tag or self._tag(name), seed="", **self._facts())
        self._start(node, replace(one, tag=tag))

    def remove_unused_images(self) -> tuple[str, ...]:
        if not all(one.online for one in self._inventory.members().values()):
            return ()  # Incus removes no image while a member is off
        used = {one.config.get("volatile.base_image", "") for group in self._inventory.look().values() for one in group}
        return tuple(remove_images(self.incus, self._inventory.claim, kept=frozenset(used)))

    # --- the seed ---------------------------------------------------------------------------------------------

    def insert_seed(self, name: str, *, again: bool = False) -> bool:
        one = self._inventory.existing(name)
        is_new = self._exchange(name, one, self._seed_volume(name, one))
        if one.state is State.RUNNING and (is_new or again):
            self._apply(one)
        return is_new

    def replace_seed(self, name: str) -> bool | None:
        self.plan.select([name])
        one = self._inventory.own(name)
        if one is None:
            return None
        # The node need not read this seed: only the permit differs.
        return self._exchange(name, one, self._seed_volume(name, one) if one.seed_volume else "")

    def _seed_volume(self, name: str, one: Instance) -> str:
        return self._volumes.make_seed(one.name, one.location, self._seed(name), self._tag(name))

    def _exchange(self, name: str, one: Instance, volume: str) -> bool:
        """Put a volume into the drive, or empty it, and remove the other seeds. Return whether anything changed."""
        digest = self._digest(name)
        differs = one.seed_volume != volume or one.tag is None or one.tag.seed != digest
        if differs:
            device = instances.seed_device(self.plan.spec.incus.pool, volume) if volume else None
            tag = replace(one.tag or self._tag(name), seed=digest)
            body = instances.changed(one, config=tag.config, devices={SEED: device})
            self.incus.put("instances", one.name, body=body)
        return self._volumes.remove_old_seeds(one.name, volume) or differs

    def _apply(self, one: Instance) -> None:
        """Start apply-seed.service in a running container, as udev does in a VM. During a boot, the node starts it."""
        body = {"command": _APPLY, "wait-for-websocket": False, "interactive": False, "record-output": False}
        try:
            self.incus.post("instances", one.name, "exec", body=body)
        except IncusError as error:
            self.report(f"{one.node}: the container applies its seed at its next start ({error.message})")

    def remove_seed(self, name: str) -> bool:
        one = self._inventory.existing(name)
        if one.seed_volume:
            self.incus.put("instances", one.name, body=instances.changed(one, devices={SEED: None}))
        return self._volumes.remove_old_seeds(one.name, "") or bool(one.seed_volume)

    # --- helpers ----------------------------------------------------------------------------------------------

    @cached_property
    def _inventory(self) -> Inventory:
        return Inventory(
            incus=self.incus, plan=self.plan, cluster_id=self.cluster_id, report=self.report, remedy=self.remedy,
            command=self.command,
        )  # fmt: skip

    @cached_property
    def _volumes(self) -> Volumes:
        return self._inventory.volumes

    @cached_property
    def _image(self) -> ContainerImage:
        return ContainerImage(base=self.load_image(), tag=replace(self._tag(""), version=""))

    def _facts(self) -> dict[str, str]:
        """Return the facts about a new root disk, for an instance's tag."""
        base = self._image.base
        return {"image": base.digest, "built": base.built, "root": instances.root_text(self.plan)}

    def _tag(self, node: str, **facts: str) -> Tag:
        return self._inventory.tag(node, **facts)

    def _seed(self, name: str) -> Path:
        path = self.seeds / name / SEED_ISO
        if not path.is_file():
            raise BakeError(f"{path} does not exist", hint="write the seeds again: bake")
        return path

    def _digest(self, name: str) -> str:
        return hashlib.sha256(self._seed(name).read_bytes()).hexdigest()
