#!/bin/sh
# Customize hook of both variants. Makes the changes that every node needs to boot correctly.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

main() {
    root=$1
    cp -R "$HERE/files/." "$root/"
    # Debian's package starts an etcd without TLS at every boot. Its unit is disabled and not masked, because cloud-init
    # writes a unit of the same name to /etc/systemd/system.
    chroot "$root" systemctl disable etcd.service
    chroot "$root" systemctl enable systemd-networkd.service
    # All nodes would have the same host keys.
    rm -f -- "$root"/etc/ssh/ssh_host_*
    rm -rf -- "$root/var/lib/etcd" "$root/etc/default/etcd"
    install -d -m 0700 -o 2380 -g 2380 "$root/var/lib/etcd"
    # These files are from the build machine; each node creates them at its first boot.
    : >"$root/etc/machine-id"
    rm -f -- "$root/etc/resolv.conf"
    : >"$root/etc/resolv.conf"
    printf 'localhost\n' >"$root/etc/hostname"
    chmod 0644 "$root/etc/hostname" "$root/etc/resolv.conf"
}

main "$@"
