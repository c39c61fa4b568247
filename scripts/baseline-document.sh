#!/bin/sh
# Makes the seeds of three nodes with openssl and cloud-localds, as in the manual procedure. All nodes have the same
# certificates, with RSA-4096 keys. scripts/bench compares the time of bake with the time of this script.
#   scripts/baseline-document.sh FOLDER
set -eu

DOCUMENT=$(CDPATH='' cd -- "$(dirname -- "$0")/../tests/document" && pwd)
# shellcheck source=scripts/baseline-seed.sh
. "${0%/*}/baseline-seed.sh"

main() {
    mkdir -p "$1"
    cd -- "$1"
    umask 077
    cp "$DOCUMENT"/*.cnf .
    sh "$DOCUMENT/issue.sh" 2>/dev/null
    members='' state=new
    for number in 1 2 3; do
        members="etcd$number=https://192.168.20.3$number:2380${members:+,$members}"
        make_seed "etcd$number" "192.168.20.3$number" . "$state" "$members"
        state=existing
    done
}

main "$@"
