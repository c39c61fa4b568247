"""Build a configuration of OpenTofu for libvirt, with the provider dmacvicar/libvirt 0.9.

The fields are those of the provider's documentation: docs/resources/volume.md and domain.md of version 0.9.7.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generator.artifact import Artifact
from generator.export.opentofu import NEVER_CHANGE, document, label, literal, terraform
from generator.export.source import GIB, LibvirtSettings, Source, check_libvirt, refuse
from generator.plan import DATA_DISK, NodePlan


def export(source: Source, settings: LibvirtSettings) -> tuple[Artifact, ...]:
    """Return `main.tf.json`. Raise InputError for invalid settings."""
    refuse(check_libvirt(source, settings))
    volumes: dict[str, Any] = {"image": _image(source, settings)}
    domains = {}
    for node in source.plan.nodes:
        volumes |= dict(_volumes(source, settings, node))
        domains[label(node)] = _domain(source, settings, node)
    return document(
        terraform=terraform("libvirt", "dmacvicar/libvirt", "~> 0.9.7"),
        provider={"libvirt": {"uri": literal(settings.connect)}},
        resource={"libvirt_volume": volumes, "libvirt_domain": domains},
    )


def _image(source: Source, settings: LibvirtSettings) -> dict[str, Any]:
    path = settings.image or source.plan.spec.vm.image or ""
    return {
        "name": f"{source.plan.name}.image.qcow2",
        "pool": literal(settings.pool),
        "target": {"format": {"type": "qcow2"}},
        "create": {"content": {"url": literal(path)}},
        "lifecycle": NEVER_CHANGE,
    }


def _volumes(source: Source, settings: LibvirtSettings, node: NodePlan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the volumes of a node. OpenTofu uploads the ISO by its path, so the state contains no key."""
    spec, pool = source.plan.spec.vm, literal(settings.pool)
    qcow2 = {"format": {"type": "qcow2"}}
    backing = {"path": "${libvirt_volume.image.path}", "format": {"type": "qcow2"}}
    yield label(node, "root"), {
        "name": f"{node.domain}.qcow2", "pool": pool, "capacity": spec.disk * GIB, "target": qcow2,
        "backing_store": backing, "lifecycle": NEVER_CHANGE,
    }  # fmt: skip
    if spec.data_disk:
        yield label(node, "data"), {
            "name": f"{node.domain}.data.qcow2", "pool": pool, "capacity": spec.data_disk * GIB, "target": qcow2,
            "lifecycle": NEVER_CHANGE,
        }  # fmt: skip
    yield label(node, "seed"), {
        "name": f"{node.domain}.seed.iso", "pool": pool,
        "create": {"content": {"url": literal(source.iso(node))}},
    }  # fmt: skip


def _domain(source: Source, settings: LibvirtSettings, node: NodePlan) -> dict[str, Any]:
    spec = source.plan.spec.vm
    return {
        "name": node.domain,
        "type": "kvm",
        "memory": spec.memory,
        "memory_unit": "MiB",
        "vcpu": spec.cpus,
        "running": True,
        "cpu": {"mode": "host-passthrough"},
        "features": {"acpi": True, "apic": {}},
        "os": _os(spec.firmware),
        "devices": {
            "disks": list(_disks(source, node)),
            "interfaces": [_interface(source, settings, node)],
            "serials": [{"target": {"type": "isa-serial", "port": 0}}],
            "consoles": [{"target": {"type": "serial", "port": 0}}],
            "rngs": [{"model": "virtio", "backend": {"random": "/dev/urandom"}}],
        },
        "lifecycle": NEVER_CHANGE,
    }


def _os(firmware: str) -> dict[str, Any]:
    system = {"type": "hvm", "type_arch": "x86_64", "type_machine": "q35", "boot_devices": [{"dev": "hd"}]}
    if firmware != "efi":
        return system
    secure_boot = {"enabled": "no", "name": "secure-boot"}  # it refuses boot loaders without Microsoft's signature
    return {**system, "firmware": "efi", "firmware_info": {"features": [secure_boot]}}


def _disks(source: Source, node: NodePlan) -> Iterator[dict[str, Any]]:
    yield _disk(label(node, "root"), "vda", "virtio", driver={"name": "qemu", "type": "qcow2"})
    if source.plan.spec.vm.data_disk:
        driver = {"name": "qemu", "type": "qcow2"}
        yield _disk(label(node, "data"), "vdb", "virtio", driver=driver, serial=DATA_DISK)
    yield _disk(label(node, "seed"), "sda", "sata", device="cdrom", read_only=True)


def _disk(volume: str, target: str, bus: str, **more: Any) -> dict[str, Any]:
    resource = f"libvirt_volume.{volume}"
    place = {"pool": f"${{{resource}.pool}}", "volume": f"${{{resource}.name}}"}
    return {"device": "disk", "source": {"volume": place}, "target": {"dev": target, "bus": bus}, **more}


def _interface(source: Source, settings: LibvirtSettings, node: NodePlan) -> dict[str, Any]:
    kind, name = settings.attachment(source.plan)
    return {"model": {"type": "virtio"}, "mac": {"address": node.mac}, "source": {kind: {kind: literal(name)}}}
