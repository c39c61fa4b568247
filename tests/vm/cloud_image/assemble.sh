#!/bin/sh
# Creates a disk that BIOS and UEFI can boot from the root's tarball, with an MBR, an EFI partition and the root.
#   assemble.sh ROOT.tar FOLDER      creates FOLDER/disk.raw
set -eu

EFI_START=1 EFI_SIZE=16 ROOT_START=17 ROOT_SIZE=2500 # MiB

boot_loader() { # FORMAT OUTPUT MODULE...
    format=$1 output=$2
    shift 2
    chroot "$root" grub-mkimage -O "$format" -o /grub.img -p '(hd0,msdos2)/boot/grub' \
        part_msdos ext2 linux normal configfile boot "$@"
    mv "$root/grub.img" "$output"
}

# Sets SELinux labels. The kernel of this machine does not need SELinux, because labels are ordinary file attributes.
label() {
    chroot "$root" setfiles -m -F /etc/selinux/default/contexts/files/file_contexts /
}

main() {
    folder=$2 root=$2/root disk=$2/disk.raw
    mkdir "$root"
    tar -C "$root" --numeric-owner -xf "$1"
    boot_loader i386-pc "$folder/core.img" biosdisk
    boot_loader x86_64-efi "$folder/bootx64.efi"
    truncate -s "$((ROOT_START + ROOT_SIZE))M" "$disk"
    printf 'start=%sMiB, size=%sMiB, type=ef\nstart=%sMiB, type=83, bootable\n' \
        "$EFI_START" "$EFI_SIZE" "$ROOT_START" | sfdisk -q --label dos "$disk"
    # By default, GRUB reads its image from the sectors after the MBR.
    head -c 440 "$root/usr/lib/grub/i386-pc/boot.img" | dd of="$disk" conv=notrunc status=none
    dd if="$folder/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
    mformat -i "$disk@@${EFI_START}M" -T "$((EFI_SIZE * 2048))" -v EFI ::
    mmd -i "$disk@@${EFI_START}M" ::/EFI ::/EFI/BOOT
    mcopy -i "$disk@@${EFI_START}M" "$folder/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
    [ ! -d "$root/etc/selinux/default" ] || label
    # GRUB does not support these two features, which newer versions of mke2fs enable by default.
    mke2fs -q -t ext4 -L root -m 0 -O ^metadata_csum_seed,^orphan_file \
        -E "offset=$((ROOT_START * 1048576)),lazy_itable_init=1" -d "$root" "$disk" "${ROOT_SIZE}M"
    rm -rf -- "$root"
}

main "$@"
