#!/bin/sh
# Makes the seeds of three nodes with the openssl commands of the manual procedure (RSA-4096, one set of certificates
# for all nodes) and with cloud-localds. scripts/bench compares bake's time with this script's.
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
