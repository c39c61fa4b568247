#!/bin/sh
# Customize hook of mmdebstrap: the packages that nodes may install, and what makes a root a cloud image.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# With the build's own apt, which reads the root's lists: MMDEBSTRAP_APT_CONFIG is mmdebstrap's.
offer_packages() {
    root=$1
    # shellcheck disable=SC2046
    APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q -y --download-only install $(sed '/^#/d' "$HERE/offered")
    mkdir -p "$root/opt/packages"
    mv "$root"/var/cache/apt/archives/*.deb "$root/opt/packages/"
    chroot "$root" sh -c 'cd /opt/packages && apt-ftparchive packages . >Packages'
    rm -f -- "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
    echo 'deb [trusted=yes] file:/opt/packages ./' >"$root/etc/apt/sources.list"
}

main() {
    root=$1
    offer_packages "$root"
    printf 'apt: {preserve_sources_list: true}\n' >"$root/etc/cloud/cloud.cfg.d/90_offline.cfg"
    printf 'LABEL=root / ext4 defaults 0 1\n' >"$root/etc/fstab"
    : >"$root/etc/machine-id"
    printf 'localhost\n' >"$root/etc/hostname"
    mkdir -p "$root/boot/grub"
    cp "$HERE/grub.cfg" "$root/boot/grub/grub.cfg"
}

main "$@"
