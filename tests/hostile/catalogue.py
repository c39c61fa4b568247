"""What a user can say wrong, kind by kind: how it is said, and what bake must answer. Data; `unit/test_catalogue` tries it.

Besides these, `unit/test_bake` has what needs a mount of its own (a full or read-only disk), `unit/test_archive` and
`unit/test_image` what a tarball and a cloud image can be, `unit/test_hypervisor` subnets that overlap with a network.
"""
# ruff: noqa: E501  a table reads best with one row on a line

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from generator import RELEASED, pki
from generator.config.spec import read_spec
from generator.pki import Credential
from generator.plan import plan_cluster


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of bad input: the command line, what lies in the working folder, and the answer.

    `clock` is what the machine's clock says, where it matters. Code 0 is for what is accepted, with a warning or
    because it is harmless.
    """

    words: tuple[str, ...] = ("--config", "cluster.yaml")
    file: str | bytes | None = None
    prepare: Callable[[], object] | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    clock: datetime | None = None
    code: int = 2
    says: tuple[str, ...] = ()

    def lay_out(self) -> None:
        """Make the working folder what it has to be."""
        if isinstance(self.file, bytes):
            Path("cluster.yaml").write_bytes(self.file)
        elif self.file is not None:
            Path("cluster.yaml").write_text(self.file)
        if self.prepare:
            self.prepare()


# What a name may not be; each is tried as the cluster's and as a node's.
NAMES = {
    "empty": "",
    "64 characters": "a" * 64,
    "254 characters": "a" * 254,
    "upper case": "Etcd1",
    "underscore": "etcd_1",
    "leading hyphen": "-etcd",
    "trailing hyphen": "etcd-",
    "a flag": "--help",
    "two labels": "etcd.one",
    "dot": ".",
    "parent": "..",
    "path": "../etcd",
    "absolute path": "/etc/passwd",
    "NUL": "etcd\0",
    "newline": "etcd\n",
    "newline and command": "etcd\nruncmd: [id]",
    "carriage return": "etcd\r",
    "tab": "et\tcd",
    "space": "etcd 1",
    "single quote": "etcd'",
    "double quote": 'etcd"',
    "backtick": "`id`",
    "command": "$(id)",
    "variable": "$HOME",
    "semicolon": "etcd;id",
    "pipe": "etcd|id",
    "ampersand": "etcd&",
    "format": "%n",
    "unit specifier": "etcd%i",
    "template": "{{7*7}}",
    "template statement": "{% raw %}",
    "glob": "etcd*",
    "equals sign": "a=b",
    "comma": "a,b",
    "emoji": "etcd😀",
    "homoglyph": "еtcd",
    "right to left": "\u202eetcd",
    "zero width": "et\u200bcd",
    "combining": "etcd\u0301",
    "full-width": "etcd１",
    "only digits": "123",
    "an address": "192.168.20.32",
}

ADDRESSES = {  # a node's, in 192.168.20.0/24 with the gateway .1
    "outside the subnet": ("192.168.21.31", "is outside the subnet 192.168.20.0/24"),
    "network": ("192.168.20.0", "is the subnet's network address"),
    "broadcast": ("192.168.20.255", "is the subnet's broadcast address"),
    "gateway": ("192.168.20.1", "is the gateway's address"),
    "unspecified": ("0.0.0.0", "is not a host address"),  # noqa: S104
    "multicast": ("224.0.0.1", "is not a host address"),
    "limited broadcast": ("255.255.255.255", "is not a host address"),
    "reserved": ("240.0.0.1", "is not a host address"),
    "loopback": ("127.0.0.1", "is a loopback address"),
    "link-local": ("169.254.1.1", "is a link-local address"),
    "other family": ("fd00::31", "is IPv6, but the subnet 192.168.20.0/24 is IPv4"),
    "leading zero": ("192.168.20.010", "is not an IP address"),
    "hexadecimal": ("0xc0a8141f", "is not an IP address"),
    "short": ("127.1", "is not an IP address"),
    "full-width digits": ("192.168.20.３１", "is not an IP address"),
    "prefix length": ("192.168.20.31/24", "is not an IP address"),
    "zone": ("fe80::1%eth0", "is not an IP address"),
    "brackets": ("[fd00::31]", "is not an IP address"),
    "IPv4-mapped": ("::ffff:192.168.20.31", "is an IPv4-mapped IPv6 address"),
    "a name": ("etcd1", "is not an IP address"),
    "a newline": ("192.168.20.31\n", "is not an IP address"),
    "a number": (3232240671, "is not an IP address"),
}

# Cluster file → field, value and rule that the message names.
FILES: dict[str, tuple[str, str, str, str]] = {
    # counts and numbers
    "no members": ("nodes: 0", "nodes", "0", "is not between 1 and 7"),
    "empty list of nodes": ("nodes: []", "nodes", "0", "is not between 1 and 7"),
    "eight members": ("nodes: 8", "nodes", "8", "is not between 1 and 7"),
    "nine members": ("nodes: 9", "nodes", "9", "is not between 1 and 7"),
    "minus one member": ("nodes: -1", "nodes", "-1", "is not between 1 and 7"),
    "a billion members": ("nodes: 1000000000", "nodes", "1000000000", "is not between 1 and 7"),
    "a count of 30 digits": (f"nodes: {'1' * 30}", "nodes", "1" * 30, "is not a valid integer: it has more than 19 digits"),
    "count as text": ('nodes: "3"', "nodes", "'3'", "is not a valid integer; remove the quotes"),
    "count as fraction": ("nodes: 3.0", "nodes", "3.0", "is not a valid integer"),
    "count as bool": ("nodes: true", "nodes", "true", "is not a valid integer"),
    "count missing": ("nodes:", "nodes", "null", "is not a valid integer"),
    "count not a number": ("nodes: .nan", "nodes", "'.nan'", "is not a valid integer"),
    "count infinite": ("nodes: 1e309", "nodes", "inf", "is not a valid integer"),
    "count octal": ("nodes: 0o3", "nodes", "'0o3'", "is not a valid integer"),
    "memory beyond all bounds": ("vm: {memory: 10000000000}", "vm.memory", "10000000000", "is more than"),
    "memory negative": ("vm: {memory: -1}", "vm.memory", "-1", "is less than 256"),
    "disk beyond all bounds": ("vm: {disk: 10000000000}", "vm.disk", "10000000000", "is more than"),
    "no CPU": ("vm: {cpus: 0}", "vm.cpus", "0", "is less than 1"),
    "port 0": ("etcd: {clientPort: 0}", "etcd.clientPort", "0", "is less than 1"),
    "port 65536": ("etcd: {peerPort: 65536}", "etcd.peerPort", "65536", "is more than 65535"),
    "equal ports": ("etcd: {peerPort: 2379}", "etcd.peerPort", "2379", "is also the client port"),
    # nodes
    "duplicate name": ("nodes: [{name: a}, {name: b}, {name: a}]", "nodes[2].name", "'a'", "already the name of nodes[0]"),
    "duplicate address": (
        "nodes: [{name: a, address: 192.168.20.31}, {name: b, address: 192.168.20.31}, {name: c}]",
        "nodes[1].address", "192.168.20.31", "is already the address of nodes[0]",
    ),
    "duplicate address, other notation": (
        "network: {subnet: 'fd00::/64'}\nnodes: [{name: a, address: 'fd00::31'}, {name: b, address: 'fd00:0::0031'}, {name: c}]",
        "nodes[1].address", "fd00::31", "is already the address of nodes[0]",
    ),
    "duplicate MAC": (
        "nodes: [{name: a, mac: '3c:ec:ef:00:00:01'}, {name: b, mac: '3c:ec:ef:00:00:01'}]",
        "nodes[1].mac", "3c:ec:ef:00:00:01", "is already the MAC of nodes[0]",
    ),
    "MAC of a group": (
        "nodes: [{name: a, mac: 'ff:ff:ff:ff:ff:ff'}]", "nodes[0].mac", "'ff:ff:ff:ff:ff:ff'", "is not a unicast address",
    ),
    **{
        f"node named {name}": (f"nodes: [{{name: {name}}}]", "nodes[0].name", f"'{name}'", "is reserved: bake uses this name")
        for name in ("sealed", "identity", "ca-change", "operator", "cluster", "pki", "requests", "manifest")
    },
    "node named as bake's user": ("auth: true\nnodes: [{name: nobody}]", "nodes[0].name", "'nobody'", "is reserved"),
    "node without a name": ("nodes: [{address: 192.168.20.31}]", "nodes[0].name", "", "is missing"),
    "node is text": ("nodes: [etcd1]", "nodes[0]", "'etcd1'", "is not a section of fields"),
    "nodes is a mapping": ("nodes: {a: 1}", "nodes", "{'a': 1}", "is not a valid integer"),
    "names that differ in case": ("nodes: [{name: etcd1}, {name: ETCD1}]", "nodes[1].name", "'ETCD1'", "is not a host name label"),
    # network
    "subnet with host bits": ("network: {subnet: 10.0.0.1/24}", "network.subnet", "'10.0.0.1/24'", "has host bits set"),
    "subnet without prefix": ("network: {subnet: 10.0.0.0}", "network.subnet", "'10.0.0.0'", "is not a network"),
    "subnet too narrow": ("network: {subnet: 10.0.0.0/31}", "network.subnet", "10.0.0.0/31", "has no room"),
    "subnet of one address": ("network: {subnet: 10.0.0.1/32}", "network.subnet", "10.0.0.1/32", "has no room"),
    "the last subnet of one": ("network: {subnet: 255.255.255.255/32}", "network.subnet", "255.255.255.255/32", ""),
    "subnet too small for all": (
        "network: {subnet: 10.0.0.0/30}", "network.subnet", "10.0.0.0/30", "has room for 1 node, not for 3",
    ),
    "subnet too small for seven": (
        "nodes: 7\nnetwork: {subnet: 10.0.0.0/29}", "network.subnet: 10.0.0.0/29", "has room for 5 nodes, not for 7", "use a subnet of size /28 or larger",
    ),
    "subnet too small for listed nodes": (
        "nodes: [{name: a}, {name: b}]\nnetwork: {subnet: 10.0.0.0/30}", "network.subnet", "10.0.0.0/30", "has room for 1 node, not for 2",
    ),
    "subnet with the gateway in the way": (
        "nodes: 5\nnetwork: {subnet: 10.0.0.0/29, gateway: 10.0.0.6}", "network.subnet", "10.0.0.7", "is the subnet's broadcast address",
    ),
    "first address is the gateway's": ("network: {firstIp: 192.168.20.1}", "network.firstIp", "192.168.20.1", "is the gateway's address"),
    "first address is a stated gateway's": (
        "network: {firstIp: 192.168.20.9, gateway: 192.168.20.9}", "network.firstIp", "192.168.20.9", "is the gateway's address",
    ),
    "subnet is everything": ("network: {subnet: 0.0.0.0/0}", "network.subnet", "0.0.0.31", "is not a host address"),
    "subnet is loopback": ("network: {subnet: 127.0.0.0/8}", "network.subnet", "127.0.0.0/8", "is not a network for hosts"),
    "subnet is multicast": ("network: {subnet: 224.0.0.0/24}", "network.subnet", "224.0.0.0/24", "is not a network for hosts"),
    "subnet is link-local": ("network: {subnet: 'fe80::/64'}", "network.subnet", "fe80::1f", "is a link-local address"),
    "first address outside": ("network: {firstIp: 10.0.0.1}", "network.firstIp", "10.0.0.1", "is outside the subnet"),
    "counting beyond the last address": (
        "network: {subnet: 255.255.255.0/24, firstIp: 255.255.255.254}", "network.firstIp", "255.255.255.254", "is not a host address",
    ),
    "counting beyond the last IPv6 address": (
        "network: {subnet: 'fd00::/120', firstIp: 'fd00::ff'}", "network.firstIp", "fd00::100", "is outside the subnet",
    ),
    "gateway outside": ("network: {gateway: 10.0.0.1}", "network.gateway", "10.0.0.1", "is not a host address of"),
    "gateway is the broadcast address": (
        "network: {gateway: 192.168.20.255}", "network.gateway", "192.168.20.255", "is the broadcast address",
    ),
    "gateway of the other family": ("network: {gateway: 'fd00::1'}", "network.gateway", "fd00::1", "is IPv6"),
    "client network of the other family": (
        "firewall: {clientCidrs: ['fd00::/64']}", "firewall.clientCidrs[0]", "fd00::/64", "is IPv6, but the subnet 192.168.20.0/24 is not",
    ),
    "network mode unknown": (
        "network: {mode: macvtap}", "network.mode", "'macvtap'", "is not one of nat, isolated, bridge, network",
    ),
    # hosts
    "host without a URI": ("hosts: [{name: a}]", "hosts[0].uri", "", "is missing"),
    "URI of another driver": (
        "hosts: [{name: a, uri: 'lxc:///system'}]", "hosts[0].uri", "'lxc:///system'", "is not a URI such as qemu",
    ),
    "URI with a password": (
        "hosts: [{name: a, uri: 'qemu+ssh://root:secret@a/system'}]", "hosts[0].uri", "", "is not a URI such as qemu",
    ),
    "two hosts with a URI": (
        "hosts: [{name: a, uri: 'qemu:///system'}, {name: b, uri: 'qemu:///system'}]", "hosts[1].uri",
        "'qemu:///system'", "is already the uri of hosts[0]",
    ),
    "two hosts with a name": (
        "hosts: [{name: a, uri: 'qemu:///system'}, {name: a, uri: 'qemu+ssh://b/system'}]", "hosts[1].name", "'a'",
        "is already the name of hosts[0]",
    ),
    "hosts without a shared network": (
        "hosts: [{name: a, uri: 'qemu:///system'}, {name: b, uri: 'qemu+ssh://b/system'}]", "network.mode", "nat",
        "the VMs of one host cannot reach the VMs of other hosts",
    ),
    "node on an unknown host": ("nodes: [{name: a, host: b}]", "nodes[0].host", "'b'", "there is no host"),
    "pool folder is relative": (
        "hosts: [{name: a, uri: 'qemu:///system', pool: images}]", "hosts[0].pool", "'images'", "is not an absolute",
    ),
    "bridge of a host without the mode": (
        "hosts: [{name: a, uri: 'qemu:///system', bridge: br1}]", "hosts[0].bridge", "", "has no effect with network",
    ),
    "pins without a quorum": (
        "network: {mode: bridge, bridge: br0}\n"
        "nodes: [{name: x, host: a}, {name: y, host: a}, {name: z}]\n"
        "hosts: [{name: a, uri: 'qemu:///system'}, {name: b, uri: 'qemu+ssh://b/system'},"
        " {name: c, uri: 'qemu+ssh://c/system'}]",
        "nodes[1].host", "2 of 3", "are in the failure domain a; without it there is no quorum",
    ),
    "bridge missing": ("network: {mode: bridge}", "network.bridge", "", "is missing, but network.mode is bridge"),
    "bridge of another mode": ("network: {bridge: br0}", "network.bridge", "", "has no effect with network.mode nat"),
    "bridge name too long": (
        "network: {mode: bridge, bridge: abcdefghijklmnop}", "network.bridge", "'abcdefghijklmnop'", "is not 1 to 15",
    ),
    "VLAN too high": ("network: {mode: bridge, bridge: br0, vlan: 4095}", "network.vlan", "4095", "is more than 4094"),
    "VLAN of another mode": ("network: {vlan: 20}", "network.vlan", "", "has no effect with network.mode nat"),
    "network name missing": ("network: {mode: network}", "network.name", "", "is missing, but network.mode is network"),
    "network name of another mode": (
        "network: {mode: bridge, bridge: br0, name: lan}", "network.name", "", "has no effect with network.mode bridge",
    ),
    "network name with a slash": ("network: {mode: network, name: a/b}", "network.name", "'a/b'", "is not 1 to 100"),
    # types and keys
    "unknown key": ("node: 3", "node", "'node'", "there is no field"),
    "unknown key, the remedy": ("node: 3", "node", "", "did you mean nodes?"),
    "unknown key inside": ("pki: {keytype: rsa-2048}", "pki.keytype", "'keytype'", "did you mean keyType?"),
    "duplicate key": ("nodes: 3\nnodes: 5", "cluster.yaml:2:1", "'nodes'", "appears twice"),
    "duplicate key inside": ("vm: {cpus: 1, cpus: 2}", "cluster.yaml:1:15", "'cpus'", "appears twice"),
    "section is text": ("network: nat", "network", "'nat'", "is not a section of fields"),
    "section is empty": ("network:", "network", "null", "is not a section of fields"),
    "section is a list": ("pki: [a]", "pki", "['a']", "is not a section of fields"),
    "list is text": ("network: {dns: 9.9.9.9}", "network.dns", "'9.9.9.9'", "is not a list"),
    "Norway": ("pki: {subject: {country: no}}", "pki.subject.country", "'no'", "is not two capital letters"),
    "country of three": ("pki: {subject: {country: CHN}}", "pki.subject.country", "'CHN'", "is not two capital letters"),
    "sexagesimal": ("nodes: 12:30", "nodes", "'12:30'", "is not a valid integer"),
    "version of the file": ("apiVersion: bake/v2", "apiVersion", "'bake/v2'", "is not bake/v1"),
    "fields of another tool": ("nodes: 3\nsshKeys: [\"ssh-ed25519 AAAA\\nroot\"]", "sshKeys", "'sshKeys'", "there is no field"),
    "a file of another tool": ("kind: Secret\nstringData: {a: b}", "cluster.yaml:1:1", "", "has none of the fields"),
    "a line of a log": ("nodes: 3\nERROR db password=hunter2 refused: x", "cluster.yaml:2:1: …", "'…'", "there is no field"),
    "an endless value": (f"nodes: {'x' * 900_000}", "nodes", "'xxxx", "is not a valid integer"),
    # PKI
    "validity 0": ("pki: {leafDays: 0}", "pki.leafDays", "0", "is less than 2"),
    "validity of the backdated day": ("pki: {leafDays: 1}", "pki.leafDays", "1", "is less than 2"),
    "validity negative": ("pki: {caDays: -1}", "pki.caDays", "-1", "is less than 2"),
    "validity of a million years": ("pki: {caDays: 365000000}", "pki.caDays", "365000000", "is more than 36500"),
    "leaf outlives its CA": ("pki: {caDays: 30, leafDays: 31}", "pki.leafDays", "31", "is more than the CA's 30 days"),
    "key type unknown": ("pki: {keyType: dsa-1024}", "pki.keyType", "'dsa-1024'", "is not one of ecdsa-p256"),
    "domain of one label": ("pki: {domain: internal}", "pki.domain", "'internal'", "is not a domain"),
    "domain with a bad label": ("pki: {domain: a..b}", "pki.domain", "'a..b'", "has a label that is not"),
    "a name too long for DNS": (
        f"pki: {{domain: {'.'.join(['a' * 63] * 3)}}}\nnodes: [{{name: {'b' * 63}}}]",
        "nodes[0].name", "b" * 63, "is longer than 253 characters",
    ),
    "subject with a newline": ('pki: {subject: {organization: "a\\nb"}}', "pki.subject.organization", "'a\\nb'", "printable"),
    "subject too long": (f"pki: {{subject: {{state: {'a' * 65}}}}}", "pki.subject.state", "aaa", "is not 1 to 64"),
    # etcd
    "etcd version": ("etcd: {version: '3.4'}", "etcd.version", "'3.4'", "is not one of 3.5, 3.6"),
    "etcd option unknown": (
        "etcd: {options: {heartbeat-intervall: 100}}", "etcd.options.heartbeat-intervall", "'heartbeat-intervall'", "has no option",
    ),
    "etcd option of the other version": (
        "etcd: {options: {feature-gates: a=true}}", "etcd.options.feature-gates", "'feature-gates'", "has no option",
    ),
    "etcd option that is bake's": ("etcd: {options: {name: x}}", "etcd.options.name", "'name'", "is set by bake"),
    "etcd option of a wrong type": (
        "etcd: {options: {heartbeat-interval: fast}}", "etcd.options.heartbeat-interval", "'fast'", "is not a whole number",
    ),
    "election before five heartbeats": (
        "etcd: {options: {heartbeat-interval: 250}}", "etcd.options.election-timeout", "1000", "too short for the heartbeat-interval of 250 ms",
    ),
    "election never": (
        "etcd: {options: {election-timeout: 50001}}", "etcd.options.election-timeout", "50001", "is longer than 50000 ms",
    ),
    "etcd option with a command": (
        "etcd: {options: {log-level: $(id)}}", "etcd.options.log-level", "'$(id)'", "is not plain text",
    ),
    "etcd option is a list": ("etcd: {options: {cors: [a]}}", "etcd.options.cors", "['a']", "is not a number, true, false or text"),
    "etcd option is empty": ("etcd: {options: {cors: }}", "etcd.options.cors", "null", "is not a number, true, false or text"),
    "etcd option that moves data": (
        "etcd: {options: {wal-dir: /var/lib/etcd/wal}}", "etcd.options.wal-dir", "'wal-dir'", "moves the write-ahead log out of the data folder",
    ),
    "etcd option that opens a port": (
        "etcd: {options: {listen-metrics-urls: 'http://0.0.0.0:2381'}}", "etcd.options.listen-metrics-urls", "'http://0.0.0.0:2381'", "loopback",
    ),
    "etcd option that admits any peer": (
        "etcd: {options: {experimental-peer-skip-client-san-verification: true}}",
        "etcd.options.experimental-peer-skip-client-san-verification", "", "accepts a peer's certificate from any address",
    ),
    "etcd option that names a file": (
        "etcd: {options: {client-crl-file: /etc/shadow}}", "etcd.options.client-crl-file", "'client-crl-file'", "names a certificate revocation list",
    ),
    "etcd option that needs a key": (
        "etcd: {options: {auth-token: 'jwt,pub-key=/a'}}", "etcd.options.auth-token", "'jwt,pub-key=/a'", "no keys to sign",
    ),
    "etcd option, no such word": (
        "etcd: {options: {log-level: verbose}}", "etcd.options.log-level", "'verbose'", "is not one of debug, info",
    ),
    "etcd option, no duration": (
        "etcd: {options: {auto-compaction-retention: 7d}}", "etcd.options.auto-compaction-retention", "'7d'", "nor a duration such as 1h",
    ),
    "etcd option beyond its bounds": ("etcd: {options: {bcrypt-cost: 32}}", "etcd.options.bcrypt-cost", "32", "is not 4 to 31"),
    "etcd option that contradicts another": (
        "etcd: {options: {auto-compaction-mode: revision, auto-compaction-retention: 1h}}",
        "etcd.options.auto-compaction-retention", "'1h'", "auto-compaction-mode 'revision' needs a number",
    ),
    "data outside etcd's home": ("etcd: {dataDir: /}", "etcd.dataDir", "'/'", "is not a path below /var/lib/etcd"),
    "data in a parent": (
        "etcd: {dataDir: /var/lib/etcd/../x}", "etcd.dataDir", "'/var/lib/etcd/../x'", "is not a path below /var/lib/etcd",
    ),
    "TLS 1.1": ("etcd: {tlsMinVersion: 1.1}", "etcd.tlsMinVersion", "'1.1'", "is not one of 1.2, 1.3"),
    "TLS maximum below the minimum": (
        "etcd: {tlsMinVersion: 1.3, options: {tls-max-version: TLS1.2}}", "etcd.options.tls-max-version", "TLS1.2", "is below",
    ),
    "a weak suite": (
        "etcd: {cipherSuites: [TLS_RSA_WITH_AES_128_CBC_SHA]}", "etcd.cipherSuites[0]", "'TLS_RSA_WITH_AES_128_CBC_SHA'", "is not one of TLS_ECDHE_ECDSA",
    ),
    "suites with TLS 1.3": (
        "etcd: {tlsMinVersion: 1.3, cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]}", "etcd.cipherSuites", "1.3", "has no effect",
    ),
    "suites without HTTP/2's": (
        "etcd: {cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]}", "etcd.cipherSuites", "lacks TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "HTTP/2",
    ),
    "suites for keys of another kind": (
        "pki: {keyType: rsa-2048}\netcd: {cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]}",
        "etcd.cipherSuites", "lacks TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "keys of type rsa-2048",
    ),
    "half a CA": ("pki: {ca: {key: ca.key}}", "pki.ca.certificate", "ca.key", "is missing, but"),
    "half a CA for peers": (
        "pki: {peerCa: {separate: true, key: p.key}}", "pki.peerCa.certificate", "p.key", "is missing, but",
    ),
    "a CA for peers that is not wanted": (
        "pki: {peerCa: {separate: false, certificate: p.pem, key: p.key}}", "pki.peerCa.certificate", "has no effect", "separate",
    ),
    "token with quotes": ("etcd: {token: 'a\"b'}", "etcd.token", "'a\"b'", "is not 1 to 64 letters"),
    # installation, firewall, VM
    "join mode": ("join: follower", "join", "'follower'", "is not one of learner, voter"),
    "firewall kind": ("firewall: {kind: pf}", "firewall.kind", "'pf'", "is not one of none, firewalld"),
    "archive without its digest": (
        "install: {method: archive, archive: etcd.tar.gz}", "install.sha256", "", "is missing, but install.method is 'archive'",
    ),
    "archive with another method": ("install: {archive: x.tar.gz}", "install.archive", "", "has no effect with install.method"),
    "a package that is an option": (
        "install: {method: package, packages: ['-oDebug=1']}", "install.packages[0]", "'-oDebug=1'", "is not a package name",
    ),
    "a digest that is none": ("vm: {image: x, sha256: abc}", "vm.sha256", "'abc'", "is not a sha256: 64"),
    "image from afar without a digest": ("vm: {image: 'https://x/y'}", "vm.sha256", "", "is missing, but vm.image is a URL"),
    # YAML
    "list at the top": ("- nodes", "cluster.yaml:1:1", "", "is not a mapping"),
    "text at the top": ("three", "cluster.yaml:1:1", "", "is not a mapping"),
    "empty": ("", "cluster.yaml:1:1", "", "is not a mapping"),
    "not YAML": ("nodes: [", "cluster.yaml", "", "is not YAML"),
    "a tab": ("vm:\n\tcpus: 1", "cluster.yaml:2:1", "", "is not YAML"),
    "anchor": ("vm: &a {cpus: 1}", "cluster.yaml:1:5", "", "uses an anchor or alias"),
    "alias": ("vm: *a", "cluster.yaml:1:5", "", "uses an anchor or alias"),
    "alias as key": ("*a : 1", "cluster.yaml:1:1", "", "is not a plain key"),
    "a merge that multiplies": ("a: &a {b: 1}\nc: {<<: [*a, *a]}", "cluster.yaml:1:4", "", "uses an anchor or alias"),
    "alias to itself": ("vm: &a [*a]", "cluster.yaml:1:5", "", "uses an anchor or alias"),
    "merge key": ("vm: {<<: {cpus: 1}}", "vm.<<", "'<<'", "there is no field"),
    "tag": ("nodes: !!python/object/apply:os.getcwd []", "cluster.yaml:1:8", "python/object/apply:os.getcwd", "uses the tag"),
    "tag on a key": ("!!binary nodes: 3", "cluster.yaml:1:1", "", "is not a plain key"),
    "tag that says nothing": ("nodes: ! 3", "cluster.yaml:1:8", "!", "uses the tag"),
    "binary": ("name: !!binary aGk=", "cluster.yaml:1:7", "tag:yaml.org,2002:binary", "uses the tag"),
    "two documents": ("nodes: 3\n---\nnodes: 5", "cluster.yaml:2:1", "", "begins a second document"),
    "key is a mapping": ("? {a: 1}\n: 2", "cluster.yaml:1:3", "", "is not a plain key"),
    "deep": ("a: " + "[" * 10_000, "cluster.yaml:1:", "", "is nested deeper than 20 levels"),
    "control character": ("name: \x07", "cluster.yaml", "", "is not YAML"),
}  # fmt: skip

BYTES: dict[str, tuple[bytes, str]] = {
    "UTF-16": ("nodes: 3".encode("utf-16"), "is not UTF-8 (byte 0)"),
    "Latin-1": ("name: é".encode("latin-1"), "is not UTF-8 (byte 6)"),
    "huge": (b"#" * (1 << 20) + b"\n", "has 1048577 bytes; a cluster file has at most 1048576"),
    "aliases that multiply": (b"a: &a [x,x]\nb: &b [*a,*a]\n", "uses an anchor or alias"),
}

def _accounts(text: str) -> str:
    return f"auth: {{enabled: true, {text}}}"


ACCOUNTS: dict[str, tuple[str, str, str, str]] = {
    "not a section": ("auth: yes please", "auth", "'yes please'", "is not true, false or a section of fields"),
    "YAML 1.1's yes": ("auth: yes", "auth: 'yes'", "is not true, false or a section of fields", "hint: true, false, or a section with these fields: enabled,"),
    "enabled as text": ('auth: {enabled: "true"}', "auth.enabled", "'true'", "is not true or false"),
    "a typing error": ("auth: {user: []}", "auth.user", "'user'", "there is no field"),
    "users without auth": ("auth: {users: [{name: a}]}", "auth.users", "", "has no effect while auth.enabled is false"),
    "roles, switched off": ("auth: {enabled: false, roles: [{name: a}]}", "auth.roles", "", "has no effect while auth.enabled is false"),
    "a user without a name": (_accounts("users: [{roles: [root]}]"), "auth.users[0]", "", "is missing"),
    "a user's name is a flag": (_accounts("users: [{name: --help}]"), "auth.users[0].name", "'--help'", "beginning with a letter or digit"),
    "a user's name is a path": (_accounts("users: [{name: ../etcd-ca}]"), "auth.users[0].name", "'../etcd-ca'", "beginning with a letter or digit"),
    "a user's name has a slash": (_accounts("users: [{name: a/b}]"), "auth.users[0].name", "'a/b'", "is not 1 to 64 letters"),
    "a user's name has 65 characters": (_accounts(f"users: [{{name: {'a' * 65}}}]"), "auth.users[0].name", "a" * 65, "is not 1 to 64 letters"),
    "a user's name has a newline": (_accounts('users: [{name: "a\\n"}]'), "auth.users[0].name", r"'a\n'", "is not 1 to 64 letters"),
    "two users of one name": (_accounts("users: [{name: a}, {name: a}]"), "auth.users[1].name", "'a'", "is already the name of auth.users[0]"),
    "etcd's own user": (_accounts("users: [{name: root}]"), "auth.users[0].name", "'root'", "is reserved"),
    "the operator": (_accounts("users: [{name: etcd-client}]"), "auth.users[0].name", "'etcd-client'", "is reserved"),
    "nobody": (_accounts("users: [{name: nobody}]"), "auth.users[0].name", "'nobody'", "is reserved"),
    "a node": (_accounts("users: [{name: etcd2}]"), "auth.users[0].name", "'etcd2'", "is the name of a node"),
    "an unknown role": (_accounts("users: [{name: a, roles: [b]}]"), "auth.users[0].roles[0]", "'b'", "there is no role"),
    "roles as text": (_accounts("users: [{name: a, roles: root}]"), "auth.users[0].roles", "'root'", "is not a list"),
    "two roles of one name": (_accounts("roles: [{name: a}, {name: a}]"), "auth.roles[1].name", "'a'", "is already the name of auth.roles[0]"),
    "etcd's own role": (_accounts("roles: [{name: root}]"), "auth.roles[0].name", "'root'", "is etcd's built-in role"),
    "a permission for nothing": (_accounts("roles: [{name: a, permissions: [{access: read}]}]"), "auth.roles[0].permissions[0]", "", "has neither prefix nor key"),
    "a permission for both": (_accounts("roles: [{name: a, permissions: [{prefix: /a, key: /a}]}]"), "auth.roles[0].permissions[0]", "", "has both prefix and key"),
    "an empty prefix": (_accounts('roles: [{name: a, permissions: [{prefix: ""}]}]'), "auth.roles[0].permissions[0].prefix", "''", "is not 1 to 256 letters, digits or"),
    "a prefix that no terminal shows": (_accounts('roles: [{name: a, permissions: [{prefix: "é"}]}]'), "auth.roles[0].permissions[0].prefix", "'é'", "is not 1 to 256 letters, digits or"),
    "an unknown access": (_accounts("roles: [{name: a, permissions: [{access: all, prefix: /a}]}]"), "auth.roles[0].permissions[0].access", "'all'", "is not one of read, write, readwrite"),
}  # fmt: skip

FLAGS: dict[str, tuple[list[str], str, str]] = {
    "count": (["--nodes", "9"], "--nodes: 9", "is not between 1 and 7"),
    "count is text": (["--nodes", "three"], "--nodes", "'three' is not a valid integer"),
    "cluster name": (["--name", "../x"], "--name: '../x'", "is not a host name label"),
    "subnet": (["--subnet", "10.0.0.1/24"], "--subnet: '10.0.0.1/24'", "has host bits set"),
    "subnet too small": (["--subnet", "10.0.0.0/29", "--nodes", "7"], "--subnet: 10.0.0.0/29", "has room for 5 nodes, not for 7"),
    "first address is the gateway's": (["--first-ip", "192.168.20.1"], "--first-ip: 192.168.20.1", "is the gateway's address"),
    "first address": (["--first-ip", "10.9.9.9"], "--first-ip: 10.9.9.9", "is outside the subnet"),
    "TLS version": (["--tls-min-version", "1.4"], "--tls-min-version: '1.4'", "is not one of 1.2, 1.3"),
    "key type": (["--key-type", "md5"], "--key-type: 'md5'", "is not one of ecdsa-p256"),
    "profile": (["--profile", "debain"], "--profile", "there is no profile 'debain'"),
    "profile file": (["--profile", "./none.yaml"], "none.yaml", "cannot be read: No such file"),
    "cluster file": (["--config", "none.yaml"], "none.yaml", "cannot be read: No such file"),
    "a folder as cluster file": (["--config", "/"], "/", "is not a regular file"),
    "a device as cluster file": (["--config", "/dev/zero"], "/dev/zero", "is not a regular file"),
    "unknown flag": (["--node", "3"], "--node", "No such option"),
    "unknown command": (["up3"], "'up3'", "No such command"),
    "flag before the command": (["--nodes", "3", "check"], "put --nodes", "after the command: bake check --nodes"),
    "archive": (
        ["--profile", "rhel", "--archive", "none.tar.gz", "--archive-sha256", "0" * 64], "none.tar.gz", "cannot be read",
    ),
}  # fmt: skip

# ── what lies in the output folder ──────────────────────────────────────────────────────────────────────────────

PKI = Path("out/etcd/pki")


@cache
def _authority(days_ago: int = 0, days: int = 3650) -> Credential:
    plan = plan_cluster(read_spec({"pki": {"caDays": days, "leafDays": min(days, 365)}})[0])
    return pki.create_authority(plan, now=datetime.now(UTC) - timedelta(days=days_ago))


@cache
def _leaf() -> Credential:
    return pki.issue_client(plan_cluster(read_spec({})[0]), _authority(), now=datetime.now(UTC))


def _put(credential: Credential, *, cert: bytes | None = None, key: bytes | None = None) -> None:
    PKI.mkdir(parents=True)
    (PKI / "etcd-ca.pem").write_bytes(cert or credential.cert_pem)
    (PKI / "etcd-ca.key").write_bytes(key or credential.key_pem)


def _encrypted() -> bytes:
    return _authority().key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


def _ed25519() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _lose(name: str) -> None:
    _put(_authority())
    (PKI / name).unlink()


AUTHORITIES: dict[str, tuple[Callable[[], object], str]] = {
    "expired": (lambda: _put(_authority(9, 2)), "etcd-ca.pem: expired on 20"),
    "not yet valid": (lambda: _put(_authority(-9)), "etcd-ca.pem: is not valid before 20"),
    "no CA": (lambda: _put(_leaf()), "etcd-ca.pem: is not a CA certificate"),
    "another's key": (lambda: _put(_authority(), key=_leaf().key_pem), "etcd-ca.key: does not match"),
    "encrypted": (lambda: _put(_authority(), key=_encrypted()), "etcd-ca.key: is encrypted"),
    "Ed25519": (lambda: _put(_authority(), key=_ed25519()), "etcd-ca.key: is neither an RSA nor an EC key"),
    "no certificate": (lambda: _put(_authority(), cert=b"x"), "etcd-ca.pem: is not a PEM certificate"),
    "no key": (lambda: _put(_authority(), key=b"x"), "etcd-ca.key: is not a PEM private key"),
    "a lost key": (lambda: _lose("etcd-ca.key"), "etcd-ca.key: the key is missing"),
    "a lost certificate": (lambda: _lose("etcd-ca.pem"), "etcd-ca.pem: the certificate is missing"),
    "a folder": (lambda: (PKI / "etcd-ca.pem").mkdir(parents=True), "etcd-ca.pem: cannot be read"),
}


def _other_cluster() -> None:
    Path("out/etcd").mkdir(parents=True)
    Path("out/etcd/manifest.json").write_text(json.dumps({"format_version": "1.0", "cluster": "prod", "files": {}}))


def _not_a_manifest() -> None:
    Path("out/etcd").mkdir(parents=True)
    Path("out/etcd/manifest.json").write_text("[" * 100_000)


def _elsewhere() -> None:
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("out/etcd").symlink_to("../elsewhere")


def _occupied() -> None:
    Path("out/etcd").mkdir(parents=True)
    Path("out/etcd/thesis.txt").write_text("mine")


def _cluster_is_a_file() -> None:
    Path("out").mkdir()
    Path("out/etcd").touch()


PLACES: dict[str, tuple[Callable[[], object] | None, tuple[str, ...], str]] = {
    "output is a file": (lambda: Path("out").touch(), ("--nodes", "3"), "out: is not a folder"),
    "output in a file": (lambda: Path("file").touch(), ("--nodes", "3", "--out", "file/out"), "file/out: cannot be written: Not a directory"),
    "output where nothing can be made": (None, ("--nodes", "3", "--out", "/proc/bake"), "/proc/bake: cannot be written: No such file"),
    "output name too long": (None, ("--out", "o" * 300), "cannot be read: File name too long"),
    "cluster's folder is a file": (_cluster_is_a_file, (), "out/etcd: is a symlink or a file, not a folder"),
    "cluster's folder is a link": (_elsewhere, (), "out/etcd: is a symlink, but bake follows no symlinks below --out"),
    "folder of another cluster": (_other_cluster, (), "out/etcd: belongs to the cluster 'prod', not 'etcd'"),
    "folder of somebody else": (_occupied, (), "out/etcd: is not empty, and bake did not create it"),
    "manifest is not one": (_not_a_manifest, (), "out/etcd/manifest.json: is not bake's manifest"),
}  # fmt: skip

CLOCKS: dict[str, tuple[datetime, int, str]] = {
    "never set": (datetime(1970, 1, 1, tzinfo=UTC), 2, "clock: 1970-01-01 is before"),
    "400 days behind": (RELEASED - timedelta(days=400), 2, f"is before {RELEASED:%Y-%m-%d}, the release date of this bake"),
    "just behind": (RELEASED - timedelta(seconds=1), 2, f"is before {RELEASED:%Y-%m-%d}, the release date of this bake"),
    "beyond what certificates can say": (datetime(9990, 1, 1, tzinfo=UTC), 2, "clock: 9990-01-01 is after"),
    "after 2038": (datetime(2038, 1, 20, tzinfo=UTC), 0, "seed.iso"),
    "after 2050, when a certificate's dates are written otherwise": (datetime(2051, 1, 1, tzinfo=UTC), 0, "seed.iso"),
}


def _sparse() -> None:
    Path("cluster.yaml").touch()
    os.truncate("cluster.yaml", 100 << 20)


HARMLESS: dict[str, Kind] = {
    **{
        f"{count} members": Kind(words=("--nodes", str(count)), code=0, says=(f"warning: --nodes: {count} members tolerate only as many failures as {count - 1} member", "hint: "))
        for count in (2, 4, 6)
    },
    "voters at once": Kind(file="join: voter", code=0, says=("warning: ", "join: 'voter' can make the cluster unable", "hint: ")),
    "profiles of etcd's memory": Kind(
        file="etcd: {options: {enable-pprof: true}}", code=0, says=("warning: ", "etcd.options.enable-pprof: true: every client with a certificate", "hint: "),
    ),
    "a byte order mark": Kind(file=b"\xef\xbb\xbfnodes: 1\n", code=0),
    "a version without quotes": Kind(file="etcd: {version: 3.6}", code=0),
    "no HOME, LANG or TZ": Kind(words=("--nodes", "3"), environment={"HOME": None, "LANG": None, "LC_ALL": None, "TZ": None}, code=0),
    "a locale that is not there": Kind(words=("--nodes", "3"), environment={"LC_ALL": "xx_XX.ISO-8859-9"}, code=0),
    "IPv6, which needs brackets in URLs": Kind(file="network: {subnet: 'fd00::/64'}", code=0, says=("fd00::1f",)),
}


def _quoted(text: object) -> str:
    return json.dumps(text, ensure_ascii=False)


def _name(name: str, text: str, where: str) -> Kind:
    shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77]
    return Kind(file=text, says=(f"{where}: {shown}",))


def _address(address: object, rule: str) -> Kind:
    text = f"nodes:\n- {{name: a}}\n- name: b\n  address: {_quoted(address)}\n- {{name: c}}"
    return Kind(file=text, says=("cluster.yaml:4:3: nodes[1].address: ", str(address).strip(), rule))


KINDS: dict[str, Kind] = {
    **{f"cluster name: {kind}": _name(name, f"name: {_quoted(name)}", "cluster.yaml:1:1: name") for kind, name in NAMES.items()},
    **{f"node name: {kind}": _name(name, f"nodes:\n- name: {_quoted(name)}", "cluster.yaml:2:3: nodes[0].name") for kind, name in NAMES.items()},
    **{f"address: {kind}": _address(*row) for kind, row in ADDRESSES.items()},
    **{f"file: {kind}": Kind(file=text, says=(field, value, rule)) for kind, (text, field, value, rule) in FILES.items()},
    **{f"auth: {kind}": Kind(file=text, says=(field, value, rule)) for kind, (text, field, value, rule) in ACCOUNTS.items()},
    **{f"bytes: {kind}": Kind(file=content, says=("cluster.yaml", rule)) for kind, (content, rule) in BYTES.items()},
    "bytes: 100 MiB": Kind(prepare=_sparse, says=("cluster.yaml", "has 104857600 bytes")),
    "bytes: a FIFO": Kind(prepare=lambda: os.mkfifo("cluster.yaml"), says=("cluster.yaml", "is not a regular file")),
    **{f"flag: {kind}": Kind(words=tuple(words), says=(where, rule)) for kind, (words, where, rule) in FLAGS.items()},
    "variable: subnet": Kind(words=(), environment={"BAKE_SUBNET": "10.0.0.1/24"}, says=("--subnet: '10.0.0.1/24'", "has host bits set")),
    **{f"authority: {kind}": Kind(words=(), prepare=prepare, says=(f"out/etcd/pki/{says}",)) for kind, (prepare, says) in AUTHORITIES.items()},
    **{f"folder: {kind}": Kind(words=words, prepare=prepare, says=(says,)) for kind, (prepare, words, says) in PLACES.items()},
    **{f"clock: {kind}": Kind(words=("--nodes", "3"), clock=clock, code=code, says=(says,)) for kind, (clock, code, says) in CLOCKS.items()},
    **{f"accepted: {name}": kind for name, kind in HARMLESS.items()},
}  # fmt: skip
