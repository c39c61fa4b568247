#!/bin/sh
# Customize hook of the default variant. Disables everything that a node does not need to start etcd.
# The units stay installed, so `systemctl unmask` enables them again.
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

words_of() { sed -e 's/#.*//' "$HERE/$1"; }

main() {
    root=$1
    cp -R "$HERE/tuned/." "$root/"
    rm -rf -- "$root/usr/local/lib/base-image/__pycache__" # Python of the build machine may have written it
    for unit in $(words_of masked-units); do
        ln -sfn /dev/null "$root/etc/systemd/system/$unit"
    done
    mkdir -p "$root/etc/systemd/system-generators"
    for generator in $(words_of masked-generators); do
        ln -sfn /dev/null "$root/etc/systemd/system-generators/$generator"
    done
    ln -sfn /usr/lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
    # With this init script, `systemctl enable etcd` runs a Perl program for seconds, although the unit exists.
    rm -f -- "$root/etc/init.d/etcd"
    # Enable cloud-init, as its generator does at every boot; masked-generators disables the generator.
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sfn /usr/lib/systemd/system/cloud-init.target \
        "$root/etc/systemd/system/multi-user.target.wants/cloud-init.target"
    mkdir -p "$root/etc/systemd/system/cloud-init.target.wants"
    ln -sfn ../power-button.service "$root/etc/systemd/system/cloud-init.target.wants/power-button.service"
}

main "$@"
