# shellcheck shell=sh
# shellcheck disable=SC2034  # variables set here are read by the two
# What etcd-join and etcd-promote share: reporting, finding who is alive, asking for the member list.
#
# Values come from the environment (/etc/etcd/bake.env); etcdctl finds its certificates in ETCDCTL_*.

: "${BAKE_NAME:?}" "${BAKE_PEER_URL:?}" "${BAKE_CLIENT_URL:?}" "${BAKE_MEMBERS:?}" "${BAKE_CLIENT_URLS:?}"
: "${BAKE_RUN_DIR:?}" "${BAKE_ETCDCTL:?}"

pause=${BAKE_POLL_SECONDS:-0.5}
complaint=$BAKE_RUN_DIR/${0##*/}.err # what etcdctl said last on stderr
last_said=

# One record per line for whoever watches the serial console; the same record twice in a row is said once.
say() { # PHASE [DETAIL]
    record="bake: node=$BAKE_NAME phase=$1"
    [ -z "${2-}" ] || record="$record detail=\"$(printf %s "$2" | tr '"\n' "' ")\""
    [ "$record" = "$last_said" ] || printf '%s\n' "$record"
    last_said=$record
}

die() { # DETAIL
    say failed "$1"
    exit 1
}

need_cmd() {
    for cmd in "$@"; do
        command -v "$cmd" >/dev/null || die "$cmd is not installed"
    done
}

# Prints those of the URLs at which something accepts a TCP connection. All at once, and in one process: silent hosts
# cost two seconds, not two each, and a node that waits leaves the processor to those that start.
# The other side's kernel answers, so a host too busy for a TLS handshake still counts, and a member without quorum
# too: it binds its ports before it has a leader. etcdctl cannot tell: it spends its whole timeout on a refused
# connection as on a silent one. bash is the one tool in every guest that can.
accepting() { # URL...
    [ "$#" -gt 0 ] || return 0
    # shellcheck disable=SC2016  # bash expands it
    timeout 2 bash -c '
        for url do
            address=${url#*://} host=${url#*://}
            host=${host%:*} host=${host#"["}
            (exec 3<>"/dev/tcp/${host%"]"}/${address##*:}" && echo "$url") &
        done
        wait' probe "$@" 2>/dev/null || true
}

# The other nodes' URLs, in join order.
other_client_urls() {
    for url in $BAKE_CLIENT_URLS; do
        [ "$url" = "$BAKE_CLIENT_URL" ] || echo "$url"
    done
}

other_peer_urls() {
    for planned in $BAKE_MEMBERS; do
        [ "${planned#*=}" = "$BAKE_PEER_URL" ] || echo "${planned#*=}"
    done
}

ctl() { # URL ARGUMENT...
    endpoint=$1
    shift
    "$BAKE_ETCDCTL" --endpoints="$endpoint" --dial-timeout=2s --command-timeout=5s "$@" 2>"$complaint"
}

# What etcdctl complained about, without the wrapping. A timeout's cause is only in the log line before "Error:".
complaint() {
    sed -e 's/.*desc = //' -e 's/^Error: //' -e 's/[\\"{}]//g' "$complaint" | head -n 1
}

# Asks one URL after the other for the member list, until one has it: sets `members` and `informant`.
# A learner says "rpc not supported for learner", a member without quorum says nothing: then the next one.
# An answer that is not a member list is no answer; an empty one must never read as "you are not in it".
ask() { # URL...
    for informant in "$@"; do
        members=$(ctl "$informant" member list -w simple) || continue
        printf '%s\n' "$members" | grep -qvE '^[0-9a-f]+, (un)?started, .*, (true|false)$' || return 0
        echo "not a member list" >"$complaint"
    done
    return 1
}

# Looks for this node in `members`: `place` becomes absent, unstarted, learner, voter, renamed (our peer URL under
# another name) or moved (our name at another peer URL); `own_id`, `own_learner`; `other_learner` is somebody else's URL.
find_place() {
    place=absent own_id='' own_learner='' other_learner='' moved_to=''
    while IFS='|' read -r id status name peers _ learner; do
        case ",$peers," in
            *",$BAKE_PEER_URL,"*)
                own_id=$id own_learner=$learner
                case $status,$learner in
                    unstarted,*) place=unstarted ;;
                    *,true) place=learner ;;
                    *) place=voter ;;
                esac
                [ -z "$name" ] || [ "$name" = "$BAKE_NAME" ] || place=renamed
                ;;
            *)
                [ "$name" != "$BAKE_NAME" ] || moved_to=$peers
                [ "$learner" = false ] || other_learner=$peers
                ;;
        esac
    done <<EOF
$(printf '%s\n' "$members" | sed 's/, /|/g')
EOF
    [ -z "$moved_to" ] || place=moved
}
