#!/bin/sh
# Essential hook. Creates the user etcd with a fixed id. Otherwise the package would create it with the next free id.
set -eu

main() {
    root=$1
    # The package `passwd`, which has useradd, is not installed yet. When it is, it moves passwords to the shadow file.
    printf 'etcd:*:2380:2380:etcd:/var/lib/etcd:/usr/sbin/nologin\n' >>"$root/etc/passwd"
    printf 'etcd:*:2380:\n' >>"$root/etc/group"
}

main "$@"
