"""The rows of the table of levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generator.config.field_levels import cases
from generator.config.field_levels.row import FieldLevel
from generator.level import Level

_NEW_CLUSTER = "create a new cluster with another --name and copy the keys with `etcdctl make-mirror`"
_DISKS = "the nodes' disks are in the current engine, project or pool"
_ALL_OFF = "run `bake down`, `bake` with the change, then `bake up`; the cluster is off meanwhile"
_OWN_CA = "bake uses its own copy; `bake certs rotate --ca` replaces a CA."
_REISSUED = "Each node gets new certificates."
_RESTARTS = "etcd restarts with the new configuration."
_REBOOTS = "The node reboots with its new seed."
_VM = "The VM is shut down, redefined and started."
_URLS = "members know each other by their URLs"
_NETWORK = "running VMs and containers keep their network"


def _rows() -> Iterator[FieldLevel]:
    yield FieldLevel(field="apiVersion", level=Level.NONE, how="The field has only one valid value.")
    yield FieldLevel(field="name", level=Level.REFUSED, why="another name means another cluster", how=_NEW_CLUSTER)
    yield from _node_rows()
    yield from _network_rows()
    yield from _pki_rows()
    yield from _etcd_rows()
    yield from _service_rows()
    yield from _machine_rows()


ADDED = FieldLevel(field="nodes", case="a node is added", level=Level.LIVE, how="The others open their ports to it.")
REMOVED = FieldLevel(
    field="nodes", case="a node is removed", level=Level.LIVE, how="The others close their ports to it."
)
REORDERED = FieldLevel(field="nodes", case="another order", level=Level.LIVE, how="Only nodes that join use the order.")
RENAMED = FieldLevel(
    field="nodes[].name", level=Level.REFUSED, why="a member keeps its name",
    how="remove the node, then add it under its new name in a second change",
)  # fmt: skip
MOVED = FieldLevel(
    field="nodes[].address", level=Level.REFUSED, why=_URLS,
    how="remove the node, then add it with its new address in a second change; to keep the old address, set it in "
    "`nodes`",
)  # fmt: skip
MAC = FieldLevel(field="nodes[].mac", level=Level.REBOOT, how=_VM)
_NEW_HOST = "The node gets a new VM on the other host, and joins again."
REHOSTED = FieldLevel(field="nodes[].host", level=Level.REPLACE, how=_NEW_HOST)
HOST_ADDED = FieldLevel(field="hosts", case="a host is added", level=Level.NONE, how="New nodes can get the host.")
HOST_REMOVED = FieldLevel(
    field="hosts", case="a host without nodes is removed", level=Level.NONE, how="bake no longer connects to it."
)
HOST_LEFT = FieldLevel(
    field="hosts", case="a host with nodes is removed", level=Level.REFUSED, why="nodes have their VMs on this host",
    how="give these nodes another host with `nodes[].host` and run `bake apply`, then remove the host",
)  # fmt: skip
ETCD_VERSION = FieldLevel(field="etcd.version", level=Level.REPLACE, how="The new image contains the new etcd.")


def _node_rows() -> Iterator[FieldLevel]:
    yield from (ADDED, REMOVED, REORDERED, RENAMED, MOVED, MAC, REHOSTED, HOST_ADDED, HOST_REMOVED, HOST_LEFT)
    for name in ("engine", "incus.project", "incus.pool"):
        yield FieldLevel(field=name, level=Level.REFUSED, why=_DISKS, how=_NEW_CLUSTER)
    for name in ("remote", "addresses", "group", "profile"):
        yield FieldLevel(field=f"incus.{name}", level=Level.NONE, how="Running containers stay as they are.")
    yield FieldLevel(field="hosts[].uri", level=Level.NONE, how="bake connects to the new URI; the VMs stay.")
    for name in ("failureDomain", "offline"):
        yield FieldLevel(field=f"hosts[].{name}", level=Level.NONE, how="It decides only which host a node gets.")
    yield FieldLevel(field="hosts[].pool", level=Level.NONE, how="Only a new storage pool uses it.")
    yield _with_all_off("hosts[].bridge")


def _with_all_off(field: str, **more: Any) -> FieldLevel:
    return FieldLevel(field=field, level=Level.REFUSED, why=_NETWORK, how=_ALL_OFF, is_written=True, **more)


def _network_rows() -> Iterator[FieldLevel]:
    yield FieldLevel(field="network.subnet", level=Level.REFUSED, why=_URLS, how=_NEW_CLUSTER)
    yield FieldLevel(field="network.firstIp", level=Level.NONE, how="Only new nodes get addresses from it.")
    yield FieldLevel(
        field="network.gateway", case="to the same address", level=Level.NONE, how="Nothing changes.",
        applies=cases.same_gateway,
    )  # fmt: skip
    yield _with_all_off("network.gateway")
    yield _with_all_off("network.dns", case="if the gateway becomes a DNS server", applies=cases.starts_dns_server)
    yield FieldLevel(field="network.dns", level=Level.REBOOT, how=_REBOOTS)
    for name in ("network.mode", "network.bridge", "network.vlan", "network.name", "incus.nic"):
        yield _with_all_off(name)


def _pki_rows() -> Iterator[FieldLevel]:
    yield FieldLevel(field="pki.caDays", level=Level.NONE, how="The next CA is valid for this time.")
    yield FieldLevel(
        field="pki.nameConstraints", level=Level.NONE, how="The next CA gets the new name constraints.",
        note="the existing CA keeps its name constraints; to replace the CA, run `bake certs rotate --ca`",
    )  # fmt: skip
    for name in ("keyType", "leafDays", "extensions", "singleLabelNames", "subject.*"):
        yield FieldLevel(field=f"pki.{name}", level=Level.LIVE, how=_REISSUED)
    yield FieldLevel(
        field="pki.certificates", case="while `pki.peerName` is `required`", level=Level.REFUSED,
        why="the nodes accept only peer certificates of the current kind",
        how="first set pki.peerName to `stated`", applies=cases.requires_peer_name,
    )  # fmt: skip
    yield FieldLevel(
        field="pki.certificates", case="to `per-node` with auth", level=Level.LIVE, how=_REISSUED,
        note="first add each node to etcd: `bake etcdctl user add NODE --no-password`, "
        "`bake etcdctl user grant-role NODE root`", applies=cases.creates_node_users,
    )  # fmt: skip
    yield FieldLevel(field="pki.certificates", level=Level.LIVE, how=_REISSUED)
    yield FieldLevel(field="pki.permissions", level=Level.REBOOT, how=_REBOOTS)
    yield FieldLevel(
        field="pki.domain", case="to the same domain", level=Level.NONE, how="Nothing changes.",
        applies=cases.same_domain,
    )  # fmt: skip
    yield FieldLevel(
        field="pki.domain", case="with a CA of bake, or if `pki.peerName` is `required`", level=Level.REFUSED,
        why="the CA or the peers accept only names in the old domain", how=_NEW_CLUSTER,
        applies=cases.is_bound_to_domain,
    )  # fmt: skip
    yield FieldLevel(field="pki.domain", level=Level.REBOOT, how=_REBOOTS)
    yield FieldLevel(
        field="pki.peerName", case="between `none` and `required`", level=Level.REFUSED,
        why="members with the peer name and members without it refuse each other",
        how="first set pki.peerName to `stated`, and wait until every node serves its new certificate",
        applies=cases.skips_stated,
    )  # fmt: skip
    yield FieldLevel(
        field="pki.peerName", case="to `required`", level=Level.RESTART, how=_RESTARTS,
        note="run `bake certs rotate`; do not restart a node before `bake certs` shows that every node serves its new "
        "certificate", applies=cases.begins_to_require,
    )  # fmt: skip
    yield FieldLevel(
        field="pki.peerName", case="from `required`", level=Level.RESTART, how=_RESTARTS,
        applies=cases.requires_peer_name,
    )  # fmt: skip
    yield FieldLevel(field="pki.peerName", level=Level.LIVE, how=_REISSUED)
    for section in ("ca", "peerCa"):
        for name in ("certificate", "key"):
            yield FieldLevel(field=f"pki.{section}.{name}", level=Level.NONE, how=_OWN_CA)
    yield FieldLevel(
        field="pki.peerCa.separate", level=Level.REFUSED, why="members with different peer CAs refuse each other",
        how=_NEW_CLUSTER,
    )  # fmt: skip


def _etcd_rows() -> Iterator[FieldLevel]:
    yield FieldLevel(
        field="etcd.version", case="to an older version", level=Level.REFUSED,
        why="an older etcd cannot read the data of a newer etcd",
        how=f"while a member still runs the older version, use `bake upgrade --to IMAGE`; otherwise, {_NEW_CLUSTER}",
        applies=cases.is_older,
    )  # fmt: skip
    yield ETCD_VERSION
    for name in ("clientPort", "peerPort"):
        yield FieldLevel(field=f"etcd.{name}", level=Level.REFUSED, why=_URLS, how=_NEW_CLUSTER)
    yield FieldLevel(
        field="etcd.dataDir", level=Level.REFUSED, why="a member looks for its data only in this folder",
        how=_NEW_CLUSTER,
    )  # fmt: skip
    yield FieldLevel(field="etcd.token", level=Level.LIVE, how="Only etcd's first start uses the token.")
    for name in ("tlsMinVersion", "cipherSuites", "options.*"):
        yield FieldLevel(field=f"etcd.{name}", level=Level.RESTART, how=_RESTARTS)


def _service_rows() -> Iterator[FieldLevel]:
    yield FieldLevel(
        field="firewall.kind", case="from `firewalld`", level=Level.REPLACE,
        how="firewalld keeps its old rules on the old disk.", applies=cases.leaves_firewalld,
    )  # fmt: skip
    yield FieldLevel(field="firewall.kind", level=Level.REBOOT, how=_REBOOTS)
    yield FieldLevel(field="firewall.clientCidrs", level=Level.LIVE, how="The node sets its firewall rules again.")
    yield FieldLevel(field="join", level=Level.LIVE, how="Nodes that join later join in this way.")
    yield FieldLevel(
        field="auth.enabled", case="to `false`", level=Level.REFUSED,
        why="a node does not disable etcd's authentication",
        how="run `bake` with the change, restart every node with its new seed, then run `etcdctl auth disable`",
        is_written=True, applies=cases.disables_auth,
    )  # fmt: skip
    yield FieldLevel(
        field="auth.enabled", level=Level.RESTART,
        how="etcd restarts. A node creates users and roles, then enables auth.",
    )
    yield FieldLevel(field="auth.users", level=Level.LIVE, how="A node adds users and roles, and removes none.")
    yield FieldLevel(field="auth.roles", level=Level.LIVE, how="A node adds roles and permissions, and removes none.")
    yield FieldLevel(
        field="access.sshKeys", case="other keys", level=Level.LIVE, how="sshd reads the keys at each login.",
        applies=cases.keeps_ssh,
    )  # fmt: skip
    for name in ("sshKeys", "rootShell"):
        yield FieldLevel(field=f"access.{name}", level=Level.REBOOT, how=_REBOOTS)
    yield FieldLevel(field="access.readers", level=Level.LIVE, how="The node sets the ACLs of its keys again.")


def _machine_rows() -> Iterator[FieldLevel]:
    yield FieldLevel(field="install.method", level=Level.REPLACE, how="The new disk has only the new etcd.")
    yield FieldLevel(field="install.packages", level=Level.REBOOT, how="The node reboots, and installs new packages.")
    yield FieldLevel(field="install.archive", level=Level.NONE, how="The sha256 decides which tarball nodes get.")
    yield FieldLevel(field="install.sha256", level=Level.REPLACE, how="The new disk gets etcd from the new tarball.")
    for name in ("memory", "cpus"):
        yield FieldLevel(field=f"vm.{name}", level=Level.REBOOT, how=_VM)
    yield FieldLevel(field="vm.disk", level=Level.REPLACE, how="The new disk has the new size.")
    replaced = "The node is replaced, and gets its data from the other members."
    yield FieldLevel(field="vm.dataDisk", level=Level.REPLACE, how=replaced)
    for name in ("image", "sha256"):
        yield FieldLevel(field=f"vm.{name}", level=Level.REPLACE, how="The new disk is made from the new image.")
    yield FieldLevel(field="vm.firmware", level=Level.REPLACE, how="The VM boots its new disk with the new firmware.")


ROWS = tuple(_rows())
