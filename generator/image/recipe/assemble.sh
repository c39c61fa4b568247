#!/bin/sh
# Creates disk.raw, vmlinuz, initrd.img, and etcd's programs for use on this machine from the root's tarball.
#   assemble.sh ROOT.tar OUTPUT SIZE plain|tuned
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# The cloud kernel contains the drivers for ext4 and virtio's PCI bus. So the initrd needs only the disk's module.
# The other modules in the initrd save time, because the booted system need not decompress its .ko.xz files.
pack_initrd() {
    root=$1 output=$2 tree=$2/initrd
    mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/root" "$tree/modules"
    cp "$root/usr/bin/busybox" "$tree/bin/busybox"
    install -m 0755 "$HERE/initrd-init.sh" "$tree/init"
    number=10
    while read -r module; do
        case $module in '' | '#'*) continue ;; esac
        for file in "$root"/usr/lib/modules/*/kernel/"$module".ko.xz; do
            xz -dc "$file" >"$tree/modules/$number-${module##*/}.ko"
        done
        number=$((number + 1))
    done <"$HERE/initrd-modules"
    (cd "$tree" && find . | LC_ALL=C sort | "$root/usr/bin/busybox" cpio -o -H newc -R 0:0) >"$output/initrd.img"
    rm -rf -- "$tree"
}

main() {
    tarball=$1 output=$2 size=$3 variant=$4
    root=$output/root
    mkdir "$root" "$output/bin"
    tar -C "$root" --numeric-owner -xf "$tarball"
    cp "$root"/usr/bin/etcd "$root"/usr/bin/etcdctl "$root"/usr/bin/etcdutl "$output/bin/"
    # shellcheck disable=SC2016
    chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' >"$output/packages"
    if [ "$variant" = tuned ]; then
        pack_initrd "$root" "$output"
    else
        cp "$root"/boot/initrd.img-* "$output/initrd.img"
    fi
    cp "$root"/boot/vmlinuz-* "$output/vmlinuz"
    rm -f -- "$root"/boot/initrd.img-* "$root"/boot/vmlinuz-*
    mke2fs -q -t ext4 -L root -m 0 -E lazy_itable_init=1,lazy_journal_init=1 -d "$root" "$output/disk.raw" "$size"
    rm -rf -- "$root"
}

main "$@"
