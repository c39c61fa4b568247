"""Build a configuration of OpenTofu for Proxmox VE, with the provider bpg/proxmox.

The fields are those of the provider's documentation: docs/resources/virtual_environment_file.md and
virtual_environment_vm.md of version 0.99.0. The provider reads its endpoint and credentials from environment variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from generator.artifact import Artifact
from generator.config.fields import shown_value
from generator.errors import Problem
from generator.export.opentofu import NEVER_CHANGE, document, label, literal, terraform
from generator.export.proxmox import check_ids
from generator.export.source import Source, check_bridge, check_image, check_storage, refuse
from generator.plan import DATA_DISK, NodePlan

_FILE = "proxmox_virtual_environment_file"
_VM = "proxmox_virtual_environment_vm"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`pve_node`: the host of Proxmox VE that runs the VMs. `storage`: for disks. `iso_storage`: for files."""

    image: str | None = None
    pve_node: str = "pve"
    storage: str = "local-lvm"
    iso_storage: str = "local"
    bridge: str = "vmbr0"
    first_id: int = 900


def export(source: Source, settings: Settings) -> tuple[Artifact, ...]:
    """Return `main.tf.json`. Raise InputError for invalid settings."""
    refuse(_problems(source, settings))
    files: dict[str, Any] = {"image": _image(source, settings)}
    vms = {}
    for number, node in enumerate(source.plan.nodes):
        files[label(node, "seed")] = _seed(source, settings, node)
        vms[label(node)] = _vm(source, settings, node, settings.first_id + number)
    return document(
        terraform=terraform("proxmox", "bpg/proxmox", "~> 0.99"),
        provider={"proxmox": {}},
        resource={_FILE: files, _VM: vms},
    )


def _problems(source: Source, settings: Settings) -> Iterator[Problem]:
    yield from check_image(source.plan, settings.image)
    if not _HOST.fullmatch(settings.pve_node):
        rule = "is not the name of a host: 1 to 63 of letters, digits and '-'"
        yield Problem("--pve-node", f"{shown_value(settings.pve_node)} {rule}", "list the hosts with: pvesh get /nodes")
    yield from check_storage("--storage", settings.storage)
    yield from check_storage("--iso-storage", settings.iso_storage)
    yield from check_bridge("--bridge", settings.bridge)
    yield from check_ids(source.plan, settings.first_id)


def _image(source: Source, settings: Settings) -> dict[str, Any]:
    spec = source.plan.spec.vm
    path = settings.image or spec.image or ""
    checksum = {"checksum": spec.sha256} if spec.sha256 and path == spec.image else {}
    return {
        "content_type": "import",
        "datastore_id": settings.iso_storage,
        "node_name": settings.pve_node,
        "source_file": {"path": literal(path), "file_name": f"{source.plan.name}.image.qcow2", **checksum},
        "lifecycle": NEVER_CHANGE,
    }


def _seed(source: Source, settings: Settings, node: NodePlan) -> dict[str, Any]:
    """Return the upload of a node's ISO by its path, so that the state contains no key."""
    return {
        "content_type": "iso",
        "datastore_id": settings.iso_storage,
        "node_name": settings.pve_node,
        "source_file": {"path": literal(source.iso(node)), "file_name": f"{node.domain}.iso"},
    }


def _vm(source: Source, settings: Settings, node: NodePlan, number: int) -> dict[str, Any]:
    spec = source.plan.spec.vm
    root = {
        "interface": "virtio0", "datastore_id": settings.storage, "size": spec.disk,
        "import_from": f"${{{_FILE}.image.id}}", "discard": "on",
    }  # fmt: skip
    data = {"interface": "virtio1", "datastore_id": settings.storage, "size": spec.data_disk, "serial": DATA_DISK}
    efi = {"efi_disk": {"datastore_id": settings.storage, "type": "4m"}, "bios": "ovmf"}
    return {
        "name": node.domain,
        "vm_id": number,
        "node_name": settings.pve_node,
        "machine": "q35",
        **(efi if spec.firmware == "efi" else {}),
        "operating_system": {"type": "l26"},
        "cpu": {"cores": spec.cpus, "type": "x86-64-v2-AES"},
        "memory": {"dedicated": spec.memory},
        "disk": [root, data] if spec.data_disk else [root],
        # The id of a file that OpenTofu replaces is unknown in the plan, so the VM names the ISO by a constant.
        "cdrom": {"file_id": f"{settings.iso_storage}:iso/{node.domain}.iso", "interface": "ide2"},
        "boot_order": ["virtio0"],
        "network_device": {"bridge": settings.bridge, "mac_address": node.mac.upper(), "model": "virtio"},
        "serial_device": {},
        "vga": {"type": "serial0"},
        "smbios": {"uuid": str(node.uuid)},
        "stop_on_destroy": True,  # the nodes have no guest agent
        "depends_on": [f"{_FILE}.{label(node, 'seed')}"],
        "lifecycle": NEVER_CHANGE,
    }
