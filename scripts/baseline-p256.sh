#!/bin/sh
# Makes seeds with openssl and cloud-localds, as in the manual procedure. As in bake, the keys are P-256 keys, and each
# node has its own certificates. scripts/bench compares the time of bake with the time of this script.
#   scripts/baseline-p256.sh FOLDER NODES
set -eu

DOCUMENT=$(CDPATH='' cd -- "$(dirname -- "$0")/../tests/document" && pwd)
# shellcheck source=scripts/baseline-seed.sh
. "${0%/*}/baseline-seed.sh"

SUBJECT=/C=CN/ST=Shanghai/L=Shanghai/O=k8s

new_key() { # FILE
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

make_ca() {
    new_key etcd-ca.key
    openssl req -x509 -new -nodes -key etcd-ca.key -days 3650 -out etcd-ca.pem \
        -subj "$SUBJECT/CN=etcd-ca" -config "$DOCUMENT/etcd-ca.cnf" -extensions v3_req
}

issue() { # NODE ADDRESS ROLE
    sed -e "s/^IP.1 .*/IP.1 = $2/" -e '/^IP.[23]/d' "$DOCUMENT/$3.cnf" >"$1/$3.cnf"
    new_key "$1/$3.key"
    openssl req -new -key "$1/$3.key" -out "$1/$3.csr" -subj "$SUBJECT/CN=$1" -config "$1/$3.cnf"
    openssl x509 -req -in "$1/$3.csr" -CA etcd-ca.pem -CAkey etcd-ca.key -CAcreateserial \
        -out "$1/$3.pem" -days 365 -extfile "$1/$3.cnf" -extensions v3_req 2>/dev/null
}

main() {
    mkdir -p "$1"
    cd -- "$1"
    umask 077
    make_ca
    first=https://10.20.0.1:2380 state=new number=1
    while [ "$number" -le "$2" ]; do
        node=etcd$number address=10.20.$((number / 200)).$((number % 200 + 1))
        mkdir -p "$node"
        for role in etcd-server etcd-peer etcd-client; do issue "$node" "$address" "$role"; done
        make_seed "$node" "$address" "$node" "$state" "$node=https://$address:2380,etcd1=$first"
        state=existing number=$((number + 1))
    done
}

main "$@"
