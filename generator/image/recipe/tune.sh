#!/bin/sh
# Customize hook, the default variant: everything a node does not need on its way to a running etcd is off.
# Nothing is uninstalled, so `systemctl unmask` brings each of these back.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

words_of() { sed -e 's/#.*//' "$HERE/$1"; }

main() {
    root=$1
    cp -R "$HERE/tuned/." "$root/"
    for unit in $(words_of masked-units); do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit"
    done
    mkdir -p "$root/etc/systemd/system-generators" "$root/etc/udev/rules.d"
    for generator in $(words_of masked-generators); do
        ln -sfn /dev/null "$root/etc/systemd/system-generators/$generator"
    done
    for rules in $(words_of masked-udev-rules); do
        ln -sfn /dev/null "$root/etc/udev/rules.d/$rules"
    done
    mkdir -p "$root/etc/tmpfiles.d"
    for entry in $(words_of masked-tmpfiles); do
        ln -sfn /dev/null "$root/etc/tmpfiles.d/$entry"
    done
    ln -sfn /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    # Beside a unit of the same name it only makes `systemctl enable etcd` run Perl for seconds.
    rm -f -- "$root/etc/init.d/etcd"
    # Comments only; each would start a unit that finds nothing to do.
    rm -f -- "$root/etc/fstab" "$root/etc/modules-load.d/modules.conf"
    # What cloud-init's generator would have decided at every boot.
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sfn /usr/lib/systemd/system/cloud-init.target \
        "$root/etc/systemd/system/multi-user.target.wants/cloud-init.target"
    mkdir -p "$root/etc/systemd/system/cloud-init.target.wants"
    ln -sfn ../power-button.service "$root/etc/systemd/system/cloud-init.target.wants/power-button.service"
    # The caches of ld.so, hwdb, the journal's catalog and sysusers are as new as /usr: no first boot has to check.
    touch -r "$root/usr" "$root/etc/.updated" "$root/var/.updated"
}

main "$@"
