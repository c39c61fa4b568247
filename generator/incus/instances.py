"""The instances of a cluster's nodes: what Incus says about them, and what bake asks Incus to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from generator.config.spec import NetworkMode
from generator.engine import State
from generator.incus.client import Incus
from generator.incus.image import DRIVE, NETWORK
from generator.incus.tags import Claim, Tag, data_volume, generation_of, location_of, read_tag
from generator.plan import ClusterPlan, NodePlan, root_disk

DATA, SEED = "data", "seed"  # the names of the devices
_STATES = {"Running": State.RUNNING, "Stopped": State.STOPPED, "Frozen": State.PAUSED, "Error": State.CRASHED}
_KEPT = ("architecture", "config", "description", "devices", "ephemeral", "profiles", "stateful")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An instance with a name of a node's instances.

    `location`: its member, or "" without a cluster. `tag`: None if bake did not make the instance, or if its member is
    off, because Incus then returns only the name. `data`: what the API returns.
    """

    node: str
    name: str
    generation: int
    location: str
    state: State
    tag: Tag | None
    data: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, str]:
        return self.data.get("config") or {}

    @property
    def devices(self) -> Mapping[str, Mapping[str, str]]:
        return self.data.get("devices") or {}

    @property
    def seed_volume(self) -> str:
        """The volume in the drive, or "" if the drive is empty."""
        return self.devices.get(SEED, {}).get("source", "")


def list_instances(incus: Incus, claim: Claim, nodes: Iterable[str], offline: Iterable[str]) -> list[Instance]:
    """Return the instances of the planned nodes and of the cluster, the newest of a node first.

    `offline`: the members that are off. Their instances have the state `unknown`.
    """
    planned, silent = tuple(nodes), frozenset(offline)
    found = []
    for data in incus.get("instances", recursion="1"):
        tag, location = read_tag(data.get("config") or {}), location_of(data)
        is_silent = location in silent or (data["status"] == "Error" and not data.get("config"))
        names = [tag.node] if tag is not None and claim.covers(tag) else planned
        for node in names:
            generation = generation_of(claim.cluster, node, data["name"])
            if generation:
                state = State.UNKNOWN if is_silent else _STATES.get(data["status"], State.RUNNING)
                if not is_silent and not claim.covers(tag):
                    state = State.FOREIGN
                one = Instance(
                    node=node, name=data["name"], generation=generation, location=location, state=state, tag=tag,
                    data=data,
                )  # fmt: skip
                found.append(one)
    return sorted(found, key=lambda one: (one.node, -one.generation))


# --- what bake asks for ---------------------------------------------------------------------------------------


def definition(plan: ClusterPlan, node: NodePlan, tag: Tag) -> dict[str, Any]:
    """Return the configuration, devices and profiles of a node's instance, without data volume and seed.

    No key and no device has a secret. `boot.autostart`: after the failure of its member, an instance must not start,
    because the node may have been replaced meanwhile. `cluster.evacuate`: an instance does not leave its data volume.
    """
    spec = plan.spec
    return {
        "description": f"bake: {node.name} of the etcd cluster {plan.name}",
        "profiles": [spec.incus.profile] if spec.incus.profile else [],
        "config": {
            "limits.cpu": str(spec.vm.cpus),
            "limits.memory": f"{spec.vm.memory}MiB",
            "boot.autostart": "false",
            "cluster.evacuate": "stop",
            NETWORK: network_file(plan, node),
            **tag.config,
        },
        "devices": {
            "root": {"type": "disk", "path": "/", "pool": spec.incus.pool, "size": f"{spec.vm.disk}GiB"},
            "eth0": nic(plan, node),
        },
    }


def nic(plan: ClusterPlan, node: NodePlan) -> dict[str, str]:
    spec, common = plan.spec, {"type": "nic", "name": "eth0", "hwaddr": node.mac}
    if spec.network.mode is NetworkMode.NETWORK:
        return {**common, "network": plan.network.name}
    vlan = {} if spec.network.vlan is None else {"vlan": str(spec.network.vlan)}
    return {**common, "nictype": spec.incus.nic, "parent": plan.network.bridge, **vlan}


def network_file(plan: ClusterPlan, node: NodePlan) -> str:
    """Return the file for systemd-networkd with the node's address."""
    network = plan.network
    lines = ["[Match]", "Name=eth0", "[Network]", f"Address={node.address}/{network.subnet.prefixlen}"]
    lines += [f"Gateway={network.gateway}", *(f"DNS={server}" for server in network.dns), "IPv6AcceptRA=no"]
    return "\n".join(lines)


def volume_device(pool: str, volume: str, path: str, *, readonly: bool) -> dict[str, str]:
    common = {"type": "disk", "pool": pool, "source": volume, "path": path}
    return {**common, "readonly": "true"} if readonly else common


def changed(
    instance: Instance, *, config: Mapping[str, str] | None = None, devices: Mapping[str, Mapping[str, str] | None]
) -> dict[str, Any]:
    """Return the whole instance with other keys and devices, as Incus wants it. A device that is None is removed."""
    body = {key: instance.data[key] for key in _KEPT if key in instance.data}
    merged = {**instance.devices, **devices}
    return {
        **body,
        "config": {**instance.config, **(config or {})},
        "devices": {name: device for name, device in merged.items() if device is not None},
    }


def redefined(instance: Instance, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the whole instance as wanted, or None if it is as wanted. Data volume and seed stay."""
    body = changed(instance, config=wanted["config"], devices=wanted["devices"])
    body |= {"description": wanted["description"], "profiles": wanted["profiles"]}
    same = all(body[key] == instance.data.get(key) for key in ("config", "devices", "description", "profiles"))
    return None if same else body


def with_data(instance: Instance, pool: str) -> dict[str, Mapping[str, str] | None]:
    device = volume_device(pool, data_volume(instance.name), "/var/lib/etcd", readonly=False)
    return {} if instance.devices.get(DATA) == device else {DATA: device}


def seed_device(pool: str, volume: str) -> dict[str, str]:
    return volume_device(pool, volume, DRIVE, readonly=True)


# --- what differs ---------------------------------------------------------------------------------------------


def root_text(plan: ClusterPlan) -> str:
    """Return the values from which a new root disk is made, for an instance's tag."""
    return " ".join(f"{name}={value}" for name, value in root_disk(plan.spec).items())


def find_rebuilds(instance: Instance, plan: ClusterPlan, *, data_size: int) -> tuple[str, ...]:
    """Return the fields whose values differ from those from which an instance's disks were made."""
    made = dict(part.partition("=")[::2] for part in (instance.tag.root if instance.tag else "").split())
    differing = [name for name, value in root_disk(plan.spec).items() if made.get(name, value) != value]
    return (*differing, *(["vm.dataDisk"] if data_size != plan.spec.vm.data_disk << 30 else []))


def find_outdated(instance: Instance, plan: ClusterPlan, node: NodePlan) -> tuple[str, ...]:
    """Return in which of `memory`, `cpus` and `mac` an instance differs from the plan."""
    wanted = definition(plan, node, Tag(cluster="", id=""))
    keys = {"memory": "limits.memory", "cpus": "limits.cpu"}
    found = [name for name, key in keys.items() if instance.config.get(key) != wanted["config"][key]]
    same = instance.devices.get("eth0", {}).get("hwaddr") == node.mac
    return tuple(found if same else [*found, "mac"])
