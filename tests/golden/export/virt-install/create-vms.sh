#!/bin/sh
# Creates the VMs of an etcd cluster with virt-install. `bake export virt-install` wrote this script.
# Usage: sh create-vms.sh [FOLDER]. FOLDER is the cluster's folder with the ISOs, if you have moved it.
# The script changes no existing VM and overwrites no existing volume.
set -eu

uri=qemu:///system
pool=default
network=network=default
image=/images/debian-13.qcow2
image_volume=etcd.image-39bab901.qcow2
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

libvirt() { virsh --quiet --connect "$uri" "$@"; }

has_volume() { libvirt vol-info "$1" --pool "$pool" >/dev/null 2>&1; }

# Deletes the volumes in $made, which belong to a VM or an upload that is not finished.
clean_up() {
    if [ -n "$vm" ] && libvirt dominfo "$vm" >/dev/null 2>&1; then return; fi
    for volume in $made; do libvirt vol-delete "$volume" --pool "$pool" >/dev/null || true; done
}
trap clean_up EXIT

# upload VOLUME FILE FORMAT
upload() {
    [ -r "$2" ] || die "cannot read $2"
    libvirt vol-create-as "$pool" "$1" "$(($(wc -c <"$2")))" --format "$3" >/dev/null
    made="$made $1"
    libvirt vol-upload "$1" "$2" --pool "$pool"
}

# make_disk VOLUME GIB [BACKING_VOLUME]
make_disk() {
    if [ $# -eq 3 ]; then
        libvirt vol-create-as "$pool" "$1" "$2G" --format qcow2 --backing-vol "$3" --backing-vol-format qcow2 >/dev/null
    else
        libvirt vol-create-as "$pool" "$1" "$2G" --format qcow2 >/dev/null
    fi
    made="$made $1"
}

prepare() {
    command -v virt-install >/dev/null || die "virt-install is not installed"
    libvirt version >/dev/null || die "cannot connect to libvirt at $uri"
    libvirt pool-refresh "$pool" >/dev/null || die "there is no active storage pool $pool"
    if has_volume "$image_volume"; then
        say "using the volume $image_volume, which exists already"
    else
        say "uploading the image"
        upload "$image_volume" "$image" qcow2
        made=''
    fi
}

# create_node NODE VM UUID MAC
create_node() {
    if libvirt dominfo "$2" >/dev/null 2>&1; then
        say "$2 exists already; nothing was changed"
        return
    fi
    for volume in "$2.qcow2" "$2.data.qcow2" "$2.seed.iso"; do
        if has_volume "$volume"; then die "the volume $volume exists, but the VM $2 does not; delete the volume"; fi
    done
    upload "$2.seed.iso" "$folder/$1/seed.iso" raw
    make_disk "$2.qcow2" "$disk" "$image_volume"
    set -- "$2" "$3" "$4"
    if [ "$data_disk" -gt 0 ]; then
        make_disk "$1.data.qcow2" "$data_disk"
        set -- "$@" --disk "vol=$pool/$1.data.qcow2,bus=virtio,serial=$serial"
    fi
    if [ "$firmware" = efi ]; then
        set -- "$@" --boot firmware=efi,firmware.feature0.name=secure-boot,firmware.feature0.enabled=no
    fi
    vm=$1 uuid=$2 mac=$3
    shift 3
    virt-install --connect "$uri" --name "$vm" --uuid "$uuid" --memory "$memory" --vcpus "$cpus" \
        --machine q35 --import --disk "vol=$pool/$vm.qcow2,bus=virtio" "$@" \
        --disk "vol=$pool/$vm.seed.iso,device=cdrom,bus=sata" \
        --network "$network,model=virtio,mac=$mac" --rng /dev/urandom \
        --osinfo detect=on,require=off --graphics none --noautoconsole
    say "$vm is running"
    made='' vm=''
}

made='' vm=''
[ $# -eq 0 ] || folder=$1
prepare

create_node etcd1 etcd-etcd1 279df364-8ec3-5f1e-bf41-ea17d4d31b32 52:54:00:c3:8c:be
create_node etcd2 etcd-etcd2 5a3d149b-3380-5446-9dd9-70964dca492f 52:54:00:c3:8c:bf
create_node etcd3 etcd-etcd3 8e54b56a-5a27-53b7-aac9-b94c9ca93598 52:54:00:c3:8c:c0
