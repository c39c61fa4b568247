#!/bin/sh
# Creates the VMs of an etcd cluster on this host of Proxmox VE (8 or later). Run the script as root.
# `bake export proxmox` wrote this script.
# Usage: sh create-vms.sh [FOLDER]. FOLDER is a copy of the cluster's folder with the ISOs.
# The script changes no existing VM and overwrites no existing file.
set -eu

image=/images/debian-13.qcow2
storage=local-lvm
iso_storage=local
bridge=vmbr0
folder=/clusters/etcd
disk=8
data_disk=8
serial=etcd-data
firmware=bios
memory=1024
cpus=1

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

trap 'exit 130' INT
trap 'exit 143' HUP TERM

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

create_node etcd1 etcd-etcd1 900 279df364-8ec3-5f1e-bf41-ea17d4d31b32 52:54:00:C3:8C:BE
create_node etcd2 etcd-etcd2 901 5a3d149b-3380-5446-9dd9-70964dca492f 52:54:00:C3:8C:BF
create_node etcd3 etcd-etcd3 902 8e54b56a-5a27-53b7-aac9-b94c9ca93598 52:54:00:C3:8C:C0
