"""Compare two seeds of a node on the operator's machine, with the same code as on the node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from generator.level import Level
from generator.seed import iso
from generator.seed.guest.usr.libexec.bake import seed_change

META_DATA, NETWORK_CONFIG = "meta-data", "network-config"
SEED_FILES = (str(iso.USER_DATA), META_DATA, NETWORK_CONFIG)
_ID = re.compile(rb"^instance-id: (\S+)$", re.MULTILINE)


class SeedChange(NamedTuple):
    """What a node must do to apply a new seed. `paths`: the files that differ. `units`: the restarted systemd units.

    The level is `refused` if the seed belongs to another node or cluster.
    """

    level: Level
    paths: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


def compare_seeds(old: Mapping[str, bytes], new: Mapping[str, bytes], *, node: str) -> SeedChange:
    """Compare two seeds. `old`, `new`: the content of user-data and network-config by name. Raises InputError."""
    before, after = (_read(seed, f"the {which} seed of {node}") for which, seed in (("old", old), ("new", new)))
    if seed_change.identity(before) != seed_change.identity(after):
        return SeedChange(level=Level.REFUSED)
    found = seed_change.compare(before, after)
    is_moved = old.get(NETWORK_CONFIG) != new.get(NETWORK_CONFIG)
    return SeedChange(level=Level.REBOOT if is_moved else Level(found.level), paths=found.paths, units=found.units)


def instance_id(seed: Mapping[str, bytes]) -> str:
    """Return the instance-id in a seed's meta-data, or "" if there is none."""
    found = _ID.search(seed.get(META_DATA, b""))
    return found[1].decode(errors="replace") if found else ""


def _read(seed: Mapping[str, bytes], where: str) -> seed_change.Seed:
    return iso.read_user_data(seed[str(iso.USER_DATA)], where=where)
