#!/bin/sh
# Customize hook, both variants: what the image must have to boot a node correctly.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

main() {
    root=$1
    cp -R "$HERE/files/." "$root/"
    # Debian's package starts an etcd without TLS at install and at every boot. Only its enablement goes: a unit
    # that cloud-init puts to /etc/systemd/system must be free to take the name.
    chroot "$root" systemctl disable etcd.service
    chroot "$root" systemctl enable systemd-networkd.service
    rm -rf -- "$root/var/lib/etcd" "$root/etc/default/etcd"
    install -d -m 0700 -o 2380 -g 2380 "$root/var/lib/etcd"
    # Each is the build machine's; a booted node gets its own.
    : >"$root/etc/machine-id"
    rm -f -- "$root/etc/resolv.conf"
    : >"$root/etc/resolv.conf"
    printf 'localhost\n' >"$root/etc/hostname"
    chmod 0644 "$root/etc/hostname" "$root/etc/resolv.conf"
}

main "$@"
