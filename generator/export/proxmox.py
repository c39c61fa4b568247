"""Build a shell script that creates the nodes' VMs on a host of Proxmox VE with `qm`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from generator.artifact import Artifact
from generator.config.fields import shown_value
from generator.errors import Problem
from generator.export.shell import script
from generator.export.source import Source, check_bridge, check_image, check_storage, refuse
from generator.plan import DATA_DISK, ClusterPlan

SCRIPT = "create-vms.sh"
FIRST_ID, LAST_ID = 100, 999_999_999  # the ids that Proxmox VE allows (PVE::JSONSchema, pve-vmid)
_COMMENT = (
    "Creates the VMs of an etcd cluster on this host of Proxmox VE (8 or later). Run the script as root.",
    "`bake export proxmox` wrote this script.",
    "Usage: sh create-vms.sh [FOLDER]. FOLDER is a copy of the cluster's folder with the ISOs.",
    "The script changes no existing VM and overwrites no existing file.",
)
_BODY = r"""
prepare() {
    command -v qm >/dev/null || die "qm is not installed: run this script on a host of Proxmox VE"
    [ -r "$image" ] || die "cannot read the image $image"
}

# copy_seed FILE TARGET. Copies an ISO into the storage with mode 0600.
copy_seed() {
    [ -r "$1" ] || die "cannot read $1"
    if [ -e "$2" ]; then
        cmp -s "$1" "$2" || die "$2 exists with another content; delete it if no VM needs it"
        return
    fi
    mkdir -p "$(dirname "$2")"
    (umask 077 && cp "$1" "$2.new")
    mv "$2.new" "$2"
}

# create_node NODE VM ID UUID MAC
create_node() {
    if name=$(qm config "$3" 2>/dev/null); then
        case $name in
            "name: $2" | "name: $2
"* | *"
name: $2" | *"
name: $2
"*) ;;
            *) die "another VM has the id $3; export again with another --first-id" ;;
        esac
        say "$2 exists already; nothing was changed"
        return
    fi
    copy_seed "$folder/$1/seed.iso" "$(pvesm path "$iso_storage:iso/$2.iso")"
    vm=$2 id=$3 uuid=$4 mac=$5
    set --
    if [ "$firmware" = efi ]; then
        set -- "$@" --bios ovmf --efidisk0 "$storage:1,efitype=4m,pre-enrolled-keys=0"
    fi
    if [ "$data_disk" -gt 0 ]; then set -- "$@" --virtio1 "$storage:$data_disk,serial=$serial"; fi
    qm create "$id" --name "$vm" --ostype l26 --machine q35 --cpu x86-64-v2-AES --cores "$cpus" --memory "$memory" \
        --smbios1 "uuid=$uuid" --net0 "virtio=$mac,bridge=$bridge" \
        --virtio0 "$storage:0,import-from=$image,discard=on" "$@" \
        --ide2 "$iso_storage:iso/$vm.iso,media=cdrom" --boot order=virtio0 \
        --serial0 socket --vga serial0 --onboot 1
    qm disk resize "$id" virtio0 "${disk}G"
    qm start "$id"
    say "$vm is running with the id $id"
}

[ $# -eq 0 ] || folder=$1
prepare
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`image`: a path on the host of Proxmox VE. `storage`: for disks. `iso_storage`: for ISOs."""

    image: str | None = None
    storage: str = "local-lvm"
    iso_storage: str = "local"
    bridge: str = "vmbr0"
    first_id: int = 900


def export(source: Source, settings: Settings) -> tuple[Artifact, ...]:
    """Return the script. Raise InputError for invalid settings."""
    refuse(_problems(source, settings))
    spec = source.plan.spec.vm
    values = {
        "image": settings.image or spec.image,
        "storage": settings.storage,
        "iso_storage": settings.iso_storage,
        "bridge": settings.bridge,
        "folder": source.folder,
        "disk": spec.disk,
        "data_disk": spec.data_disk,
        "serial": DATA_DISK,
        "firmware": spec.firmware,
        "memory": spec.memory,
        "cpus": spec.cpus,
    }
    calls = [
        ("create_node", node.name, node.domain, settings.first_id + number, node.uuid, node.mac.upper())
        for number, node in enumerate(source.plan.nodes)
    ]
    return (script(SCRIPT, _COMMENT, values, _BODY, calls),)


def check_ids(plan: ClusterPlan, first_id: int) -> Iterator[Problem]:
    """Yield a problem if Proxmox VE does not allow the id of a VM."""
    last = LAST_ID - len(plan.nodes) + 1
    if not FIRST_ID <= first_id <= last:
        text = f"{first_id} is not from {FIRST_ID} to {last}; the next VMs get the next ids"
        yield Problem("--first-id", text, f"choose an id that begins {len(plan.nodes)} consecutive free ids")


def _problems(source: Source, settings: Settings) -> Iterator[Problem]:
    yield from check_image(source.plan, settings.image)
    image = settings.image or source.plan.spec.vm.image or "/"
    if not image.startswith("/") or "," in image:
        rule = "is not an absolute path without a comma, which `qm` needs"
        yield Problem("--image", f"{shown_value(image)} {rule}", "give the image's path on the host of Proxmox VE")
    yield from check_storage("--storage", settings.storage)
    yield from check_storage("--iso-storage", settings.iso_storage)
    yield from check_bridge("--bridge", settings.bridge)
    yield from check_ids(source.plan, settings.first_id)
