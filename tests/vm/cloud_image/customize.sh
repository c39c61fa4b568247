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
    offer_etcd "$root/opt/packages"
    chroot "$root" sh -c 'cd /opt/packages && apt-ftparchive packages . >Packages'
    forget_conflict "$root/var/lib/dpkg/status" "$root/opt/packages/Packages"
    rm -f -- "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
    echo 'deb [trusted=yes] file:/opt/packages ./' >"$root/etc/apt/sources.list"
}

# The profile classic installs a package `etcd`, the name in the repositories that the manual procedure used. Debian 13
# has only the two parts.
offer_etcd() {
    mkdir -p "$1/etcd/DEBIAN"
    printf '%s\n' 'Package: etcd' 'Version: 1' 'Architecture: all' 'Depends: etcd-server, etcd-client' \
        'Maintainer: bake <bake@localhost>' 'Description: etcd-server and etcd-client under one name' \
        >"$1/etcd/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$1/etcd" "$1/etcd_1_all.deb"
    rm -rf -- "$1/etcd"
}

# Debian's cloud-init declares a conflict with firewalld, so a node that installs firewalld would lose cloud-init in the
# middle of its first boot. Enterprise Linux's declares none. For these tests, and nowhere else, the declaration goes,
# from what is installed and from what is offered: the image then stands for one of Enterprise Linux.
forget_conflict() {
    sed -i '/^Conflicts: cloud-init-/s/, firewalld$//' "$@"
    if grep -n '^Conflicts:.*\<firewalld\>' "$@"; then exit 1; fi
}

# With a policy in the root it is enforced, and a test hears of all that it denies: on the console, unlimited. There it
# may ask, too, as a person who is logged in.
enforce_policy() {
    cp "$HERE/selinux.cil" "$1/cloud-image.cil"
    chroot "$1" semodule -n -i /cloud-image.cil
    rm -f -- "$1/cloud-image.cil"
    sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$1/etc/selinux/config"
    sed -i '/^linux /s/$/ security=selinux enforcing=1 sysctl.kernel.printk_ratelimit=0/' "$1/boot/grub/grub.cfg"
    mkdir "$1/etc/systemd/system/serial-getty@.service.d"
    printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %%I vt220\n' \
        >"$1/etc/systemd/system/serial-getty@.service.d/autologin.conf"
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
    [ ! -d "$root/etc/selinux/default" ] || enforce_policy "$root"
}

main "$@"
