#!/bin/busybox sh
# The init program of the initrd. Loads the modules, mounts the root, and starts the init of the root.
set -eu

say() { echo "initrd: $*" >/dev/console; }

argument() {
    read -r line </proc/cmdline
    for word in $line; do
        case $word in "$1="*) echo "${word#*=}"; return ;; esac
    done
}

# The disk may appear some time after the driver's module is loaded.
wait_for() {
    tries=200
    while [ ! -b "$1" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { say "$1 did not appear"; exit 1; }
        /bin/busybox sleep 0.05
    done
}

main() {
    /bin/busybox mount -t proc proc /proc
    /bin/busybox mount -t devtmpfs dev /dev
    for module in /modules/*.ko; do /bin/busybox insmod "$module" || say "$module did not load"; done
    root=$(argument root)
    wait_for "$root"
    /bin/busybox mount -t ext4 "$root" /root || { say "cannot mount $root"; exit 1; }
    /bin/busybox mount -o move /dev /root/dev
    /bin/busybox umount /proc
    exec /bin/busybox switch_root /root /sbin/init
}

main "$@"
