"""The fields that engines document for what `bake export` writes, and their types. A name with `!` is required.

A new field of an export needs an entry here, from the engine's own documentation:

- Kubernetes 1.34 and KubeVirt (main, 2026-08): OpenAPI of KubeVirt, types of k8s.io/api
- the provider dmacvicar/libvirt 0.9.7: docs/resources/volume.md and domain.md
- the provider bpg/proxmox 0.99.0: docs/resources/virtual_environment_file.md and virtual_environment_vm.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TEXTS = {"*": str}  # any keys
LIFECYCLE = {"ignore_changes": str}

_META = {"name!": str, "namespace": str, "labels": TEXTS}
_SELECTOR = {"matchLabels": TEXTS}
_PORT = {"name": str, "port": int, "protocol": str}
_STORAGE = {"resources": {"requests": TEXTS}, "storageClassName": str}
_ORIGIN = {"blank": {}, "http": {"url!": str}, "registry": {"url": str}}
_APART = {"topologyKey!": str, "labelSelector": _SELECTOR}
_DEVICES = {
    "disks": [
        {
            "name!": str, "disk": {"bus": str}, "cdrom": {"bus": str, "readonly": bool}, "serial": str,
            "bootOrder": int,
        }
    ],
    "interfaces": [{"name!": str, "bridge": {}, "model": str, "macAddress": str}],
    "rng": {},
    "autoattachGraphicsDevice": bool,
}  # fmt: skip
_DOMAIN = {
    "cpu": {"cores": int},
    "memory": {"guest": str},
    "machine": {"type": str},
    "firmware": {"uuid": str, "bootloader": {"bios": {}, "efi": {"secureBoot": bool}}},
    "devices!": _DEVICES,
}
_VOLUME = {
    "name!": str, "dataVolume": {"name!": str}, "secret": {"secretName": str, "volumeLabel": str, "optional": bool}
}  # fmt: skip
_VMI = {
    "evictionStrategy": str,
    "terminationGracePeriodSeconds": int,
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [_APART]}},
    "domain!": _DOMAIN,
    "networks": [{"name!": str, "multus": {"networkName!": str}}],
    "volumes": [_VOLUME],
}
_VM_SPEC = {
    "runStrategy": str,
    "dataVolumeTemplates": [{"metadata": _META, "spec!": {"source": _ORIGIN, "storage": _STORAGE}}],
    "template!": {"metadata": {"labels": TEXTS}, "spec": _VMI},
}
_OBJECT = {"apiVersion!": str, "kind!": str, "metadata!": _META}
KUBERNETES: dict[tuple[str, str], Any] = {
    ("v1", "Secret"): _OBJECT | {"type": str, "data": TEXTS},
    ("v1", "Service"): _OBJECT | {"spec": {"clusterIP": str, "ports": [_PORT]}},
    ("discovery.k8s.io/v1", "EndpointSlice"): _OBJECT
    | {"addressType!": str, "endpoints!": [{"addresses!": [str], "hostname": str}], "ports!": [_PORT]},
    ("policy/v1", "PodDisruptionBudget"): _OBJECT | {"spec": {"maxUnavailable": int, "selector": _SELECTOR}},
    ("kubevirt.io/v1", "VirtualMachine"): _OBJECT | {"spec!": _VM_SPEC},
}

_FORMAT = {"format": {"type!": str}}
_DISK = {
    "device": str,
    "driver": {"name": str, "type": str},
    "read_only": bool,
    "serial": str,
    "source": {"volume": {"pool": str, "volume": str}},
    "target": {"bus": str, "dev": str},
}
_LIBVIRT_DEVICES = {
    "disks": [_DISK],
    "interfaces": [
        {
            "model": {"type": str}, "mac": {"address": str},
            "source": {"network": {"network": str}, "bridge": {"bridge": str}},
        }
    ],
    "serials": [{"target": {"type": str, "port": int}}],
    "consoles": [{"target": {"type": str, "port": int}}],
    "rngs": [{"model!": str, "backend": {"random": str}}],
}  # fmt: skip
_OS = {
    "type": str, "type_arch": str, "type_machine": str, "boot_devices": [{"dev": str}], "firmware": str,
    "firmware_info": {"features": [{"enabled": str, "name": str}]},
}  # fmt: skip
OPENTOFU: dict[str, Any] = {
    "libvirt_volume": {
        "name!": str, "pool!": str, "capacity": int, "target": _FORMAT, "lifecycle": LIFECYCLE,
        "backing_store": {"path!": str, **_FORMAT}, "create": {"content!": {"url!": str}},
    },
    "libvirt_domain": {
        "name!": str, "type!": str, "memory": int, "memory_unit": str, "vcpu": int, "running": bool,
        "cpu": {"mode": str}, "features": {"acpi": bool, "apic": {}}, "os": _OS, "devices": _LIBVIRT_DEVICES,
        "lifecycle": LIFECYCLE,
    },
    "proxmox_virtual_environment_file": {
        "content_type": str, "datastore_id!": str, "node_name!": str, "lifecycle": LIFECYCLE,
        "source_file": {"path!": str, "file_name": str, "checksum": str},
    },
    "proxmox_virtual_environment_vm": {
        "name": str, "vm_id": int, "node_name!": str, "machine": str, "bios": str, "boot_order": [str],
        "efi_disk": {"datastore_id": str, "type": str}, "operating_system": {"type": str},
        "cpu": {"cores": int, "type": str}, "memory": {"dedicated": int},
        "disk": [
            {
                "interface!": str, "datastore_id": str, "size": int, "serial": str, "import_from": str,
                "discard": str,
            }
        ],
        "cdrom": {"file_id": str, "interface": str},
        "network_device": {"bridge": str, "mac_address": str, "model": str},
        "serial_device": {}, "vga": {"type": str}, "smbios": {"uuid": str}, "stop_on_destroy": bool,
        "depends_on": [str], "lifecycle": LIFECYCLE,
    },
}  # fmt: skip


def wrong(value: Any, table: Any, where: str = "") -> Iterator[str]:
    """Yield each field that is unknown, missing or of another type."""
    if isinstance(table, list):
        if not isinstance(value, list):
            yield f"{where}: not a list"
            return
        for number, item in enumerate(value):
            yield from wrong(item, table[0], f"{where}[{number}]")
    elif isinstance(table, dict):
        if not isinstance(value, dict):
            yield f"{where}: not an object"
            return
        known = {name.rstrip("!"): kind for name, kind in table.items()}
        for name, item in value.items():
            kind = known.get(name, known.get("*"))
            yield from [f"{where}.{name}: unknown"] if kind is None else wrong(item, kind, f"{where}.{name}")
        for name in table:
            if name.endswith("!") and name[:-1] not in value:
                yield f"{where}.{name[:-1]}: missing"
    elif type(value) is not table:
        yield f"{where}: not {table.__name__}"
