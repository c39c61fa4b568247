# shellcheck shell=sh
# Shell functions that make NoCloud ISOs for scripts/baseline-*.sh.

# Prints FILE as an entry of write_files in a cloud-config.
entry() { # GUEST-PATH MODE FILE
    printf '  - path: %s\n    permissions: "%s"\n    content: |\n' "$1" "$2"
    sed 's/^/      /' "$3"
}

etcd_conf() { # NAME ADDRESS STATE MEMBERS
    sed -e "s/^ETCD_NAME=.*/ETCD_NAME=$1/" -e "s/192\.168\.20\.31/$2/" -e 's/^\[/#[/' -e '/AUTO_TLS/d' \
        -e "s|^ETCD_INITIAL_CLUSTER=.*|ETCD_INITIAL_CLUSTER=\"$4\"|" \
        -e "s/^ETCD_INITIAL_CLUSTER_STATE=.*/ETCD_INITIAL_CLUSTER_STATE=\"$3\"/" "$DOCUMENT/etcd.conf"
}

user_data() { # NAME PKI-FOLDER CONF
    printf '#cloud-config\nhostname: %s\nwrite_files:\n' "$1"
    for role in etcd-server etcd-peer etcd-client; do
        entry "/etc/etcd/pki/$role.pem" 0644 "$2/$role.pem"
        entry "/etc/etcd/pki/$role.key" 0600 "$2/$role.key"
    done
    entry /etc/etcd/pki/etcd-ca.pem 0644 etcd-ca.pem
    entry /etc/etcd/etcd.conf 0644 "$3"
    entry /etc/systemd/system/etcd.service 0644 "$DOCUMENT/etcd.service"
    cat <<-'END'
	runcmd:
	  - firewall-cmd --zone=public --add-port=2379-2380/tcp --permanent
	  - firewall-cmd --reload
	  - useradd -u 2380 etcd
	  - cd /etc/etcd/pki && setfacl -m u:etcd:r etcd-server.key etcd-peer.key
	  - chown etcd. /var/lib/etcd
	  - systemctl daemon-reload
	  - systemctl start etcd
	END
}

network_config() { # ADDRESS
    printf 'version: 2\nethernets:\n  eth0:\n    addresses: [%s/24]\n' "$1"
}

make_seed() { # NAME ADDRESS PKI-FOLDER STATE MEMBERS
    mkdir -p "$1"
    etcd_conf "$1" "$2" "$4" "$5" >"$1/etcd.conf"
    user_data "$1" "$3" "$1/etcd.conf" >"$1/user-data"
    printf 'instance-id: %s\nlocal-hostname: %s\n' "$1" "$1" >"$1/meta-data"
    network_config "$2" >"$1/network-config"
    cloud-localds --network-config="$1/network-config" "$1/seed.iso" "$1/user-data" "$1/meta-data"
}
