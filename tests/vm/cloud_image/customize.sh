#!/bin/sh
# Customize hook of mmdebstrap: adds the packages that nodes may install, and the files of a cloud image.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# Downloads the packages with mmdebstrap's apt, which reads the root's package lists. mmdebstrap sets
# MMDEBSTRAP_APT_CONFIG.
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

# Builds a package `etcd`, which the profile classic installs. Debian 13 has only etcd-server and etcd-client.
offer_etcd() {
    mkdir -p "$1/etcd/DEBIAN"
    printf '%s\n' 'Package: etcd' 'Version: 1' 'Architecture: all' 'Depends: etcd-server, etcd-client' \
        'Maintainer: bake <bake@localhost>' 'Description: etcd-server and etcd-client under one name' \
        >"$1/etcd/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$1/etcd" "$1/etcd_1_all.deb"
    rm -rf -- "$1/etcd"
}

# Removes the conflict of Debian's cloud-init with firewalld from the installed and the offered packages. With the
# conflict, a node that installs firewalld would lose cloud-init during its first boot. Enterprise Linux has no such
# conflict, and the tests use this image in place of an image of Enterprise Linux.
forget_conflict() {
    sed -i '/^Conflicts: cloud-init-/s/, firewalld$//' "$@"
    if grep -n '^Conflicts:.*\<firewalld\>' "$@"; then exit 1; fi
}

# Enforces the SELinux policy in the root. The kernel reports all denials on the console without a rate limit. The
# console has a root shell, in which a test can run commands.
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
