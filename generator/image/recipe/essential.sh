#!/bin/sh
# Essential hook: the user of etcd with its fixed id, before the package would make one with the next free id.
set -eu

main() {
    root=$1
    # `passwd` is not installed yet. Its set-up moves the password field into the shadow file.
    printf 'etcd:*:2380:2380:etcd:/var/lib/etcd:/usr/sbin/nologin\n' >>"$root/etc/passwd"
    printf 'etcd:*:2380:\n' >>"$root/etc/group"
}

main "$@"
