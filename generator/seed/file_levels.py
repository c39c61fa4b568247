"""What a running node must do to apply a changed file of its seed: one table for nodes, bake, tests and docs.

The table goes into every seed as file-levels.json. `guest/…/seed_change.py` compares two seeds with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import NamedTuple

from generator.level import Level
from generator.pki import Role
from generator.seed.guest.usr.libexec.bake import seed_change
from generator.seed.guest_paths import AUTH, CONF, ENV, LIBEXEC, PKI_DIR, SSH_KEYS, UDEV_RULES, UNITS

TABLE = PurePosixPath(seed_change.TABLE)
_FIREWALL, _PROMOTE, _ACCESS, _TIMER = (
    f"etcd-{name}" for name in ("firewall.service", "promote.service", "access.service", "audit.timer")
)


class Rule(NamedTuple):
    """The level of a change.

    `match`: a pattern for a path or for the name of a variable, as in the module `fnmatch`. `restart`: the systemd
    units that the node restarts at once.
    """

    match: str
    level: Level
    restart: tuple[str, ...] = ()


# The first rule that matches counts. The level of every other path is reboot.
FILES = (
    Rule(f"{PKI_DIR}/{Role.CA}.pem", Level.RESTART),  # etcd reads its CAs only when it starts
    Rule(f"{PKI_DIR}/{Role.PEER_CA}.pem", Level.RESTART),
    Rule(f"{PKI_DIR}/etcd-*.pem", Level.LIVE),
    Rule(f"{PKI_DIR}/etcd-*.key", Level.LIVE),
    Rule(str(AUTH), Level.LIVE, (_PROMOTE,)),  # etcd-promote.service runs etcd-auth
    Rule(str(SSH_KEYS), Level.LIVE),  # sshd reads the keys at each login
    Rule(f"{LIBEXEC}/etcd-start", Level.RESTART),
    Rule(f"{LIBEXEC}/etcd-firewall", Level.LIVE, (_FIREWALL,)),
    Rule(f"{LIBEXEC}/*", Level.LIVE),  # a script's next start uses the new file
    Rule(f"{UNITS}/etcd.service", Level.RESTART),
    Rule(f"{UNITS}/{_ACCESS}", Level.LIVE, (_ACCESS,)),
    Rule(f"{UNITS}/{_FIREWALL}", Level.LIVE, (_FIREWALL,)),
    Rule(f"{UNITS}/{_TIMER}", Level.LIVE, (_TIMER,)),
    Rule(f"{UNITS}/*.service", Level.LIVE),
    Rule(f"{UNITS}/*.mount", Level.LIVE),
    Rule(f"{UDEV_RULES}/*.rules", Level.LIVE),  # udev reads changed rules without a reload
)
# In these files, the changed variables decide. The level of every other variable is reboot: for example, another kind
# of firewall leaves rules behind, and another etcd must be installed.
VARIABLES: Mapping[PurePosixPath, tuple[Rule, ...]] = {
    ENV: (
        Rule("BAKE_CLIENT_CIDRS", Level.LIVE, (_FIREWALL,)),
        Rule("BAKE_PEER_CIDRS", Level.LIVE, (_FIREWALL,)),
        Rule("BAKE_AUTH", Level.RESTART),
        # When etcd starts, its gateway connects to it with the server certificate, and keeps that certificate's rights.
        Rule("BAKE_SERVER_NAME", Level.RESTART),
        # Only a node that joins uses these variables.
        Rule("BAKE_MEMBERS", Level.LIVE),
        Rule("BAKE_CLIENT_URLS", Level.LIVE),
        Rule("BAKE_BOOTSTRAP", Level.LIVE),
        Rule("BAKE_TOKEN", Level.LIVE),
        Rule("BAKE_PERMIT_SHA256", Level.LIVE),
        Rule("BAKE_SNAPSHOT", Level.LIVE),
        Rule("BAKE_JOIN", Level.LIVE),
    ),
    CONF: (
        Rule("ETCD_INITIAL_CLUSTER*", Level.LIVE),  # a member ignores these options after its first start
        Rule("ETCD_INITIAL_ADVERTISE_PEER_URLS", Level.REBOOT),
        Rule("ETCD_NAME", Level.REBOOT),
        Rule("ETCD_DATA_DIR", Level.REBOOT),
        Rule("ETCD_LISTEN_PEER_URLS", Level.REBOOT),
        Rule("ETCD_LISTEN_CLIENT_URLS", Level.REBOOT),
        Rule("ETCD_ADVERTISE_CLIENT_URLS", Level.REBOOT),
        Rule("ETCD_*", Level.RESTART),
    ),
}


@cache
def level_table() -> bytes:
    """Return the table as JSON, with one rule per line."""
    variables = ",\n".join(f'    "{path}": {_rules(rules, "      ")}' for path, rules in VARIABLES.items())
    text = f'{{\n  "format": {seed_change.FORMAT},\n  "files": {_rules(FILES, "    ")},\n'
    return f'{text}  "variables": {{\n{variables}\n  }}\n}}\n'.encode()


def _rules(rules: Iterable[Rule], indent: str) -> str:
    return "[\n" + ",\n".join(f"{indent}{json.dumps(_fields(rule))}" for rule in rules) + f"\n{indent[2:]}]"


def _fields(rule: Rule) -> dict[str, object]:
    fields: dict[str, object] = {"match": rule.match, "level": str(rule.level)}
    return {**fields, "restart": list(rule.restart)} if rule.restart else fields
