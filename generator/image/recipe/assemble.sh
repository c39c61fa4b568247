#!/bin/sh
# Creates disk.raw, vmlinux, initrd.img, and etcd's programs for use on this machine from the root's tarball.
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

# Unpacks the kernel's ELF file, which QEMU can start directly (PVH). This saves more than a second on an emulated CPU.
# Offsets: Linux, Documentation/arch/x86/boot.rst, setup_sects and payload_*. The last four bytes of the payload are
# the length of the unpacked kernel.
unpack_kernel() {
    sectors=$(od -An -tu1 -j 497 -N 1 "$1")
    start=$(od -An -tu4 -j 584 -N 4 "$1")
    length=$(od -An -tu4 -j 588 -N 4 "$1")
    start=$(((sectors + 1) * 512 + start))
    tail -c "+$((start + 1))" "$1" | head -c "$((length - 4))" | zstd -q -dc >"$2"
    [ "$(head -c 4 "$2" | tail -c 3)" = ELF ]
}

main() {
    tarball=$1 output=$2 size=$3 variant=$4
    root=$output/root
    mkdir "$root" "$output/bin"
    tar -C "$root" --numeric-owner -xf "$tarball"
    cp "$root"/usr/bin/etcd "$root"/usr/bin/etcdctl "$root"/usr/bin/etcdutl "$output/bin/"
    # shellcheck disable=SC2016
    chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' >"$output/packages"
    case $variant in
        tuned)
            pack_initrd "$root" "$output"
            unpack_kernel "$root"/boot/vmlinuz-* "$output/vmlinux" || cp "$root"/boot/vmlinuz-* "$output/vmlinux"
            ;;
        *)
            cp "$root"/boot/initrd.img-* "$output/initrd.img"
            cp "$root"/boot/vmlinuz-* "$output/vmlinux"
            ;;
    esac
    rm -f -- "$root"/boot/initrd.img-* "$root"/boot/vmlinuz-*
    mke2fs -q -t ext4 -L root -m 0 -E lazy_itable_init=1,lazy_journal_init=1 -d "$root" "$output/disk.raw" "$size"
    rm -rf -- "$root"
}

main "$@"
