"""Read the new CAs that the options of `bake certs rotate --ca` name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from generator.cli.options import parameter


def given_cas(
    cluster: Any,
    ca: bool,
    all_phases: bool,
    names: tuple[str, ...],
    passphrase: bytes | None,
    options: Mapping[str, Any],
) -> dict[Any, Any]:
    """Return the user's new CA for each role (CA or PEER_CA). Raise InputError if options are invalid."""
    from generator.errors import InputError, Problem
    from generator.pki import Role
    from generator.store.cas import read_authority

    found, problems = {}, []
    if ca and names:
        rule = f"renews the certificates of all nodes, not only of {', '.join(names)}"
        problems.append(Problem("--ca", rule, "leave out the names"))
    if all_phases and not ca:
        problems.append(Problem("--all-phases", "needs --ca", "add --ca"))
    for role, prefix in ((Role.CA, "ca"), (Role.PEER_CA, "peer-ca")):
        flags = f"--{prefix}-certificate", f"--{prefix}-key"
        paths = {flag: str(options[parameter(flag)]) for flag in flags if options[parameter(flag)]}
        if not paths:
            continue
        given = next(iter(paths))
        if not ca:
            problems.append(Problem(given, "needs --ca", "add --ca"))
        elif role is Role.PEER_CA and not cluster.plan.spec.pki.peer_ca.separate:
            problems.append(Problem(flags[0], "this cluster has no separate CA for peers", "leave out this option"))
        elif len(paths) == 1:
            missing = flags[1] if given == flags[0] else flags[0]
            problems.append(Problem(missing, f"is missing but {given} is given", "give both, or neither"))
        else:
            found[role] = read_authority(
                cluster.plan, role, *paths.values(), names=flags, now=datetime.now(UTC), passphrase=passphrase
            )
    if problems:
        raise InputError(problems)
    return found
