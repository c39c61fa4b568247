"""Where things are in `out/<cluster>/`: paths relative to that folder."""

from __future__ import annotations

from pathlib import PurePosixPath

SPEC = PurePosixPath("cluster.yaml")  # every field, with its value
INPUT = PurePosixPath("input.yaml")  # the fields that the user set, and the profile
IDENTITY = PurePosixPath("identity")  # 32 or more hexadecimal digits, which no other cluster has
PERMIT_COPY = PurePosixPath("pki/bootstrap-permit")  # the operator's; the first node's seed has the one that counts
SEALED = PurePosixPath("sealed")  # while it exists, no seed that is baked has the bootstrap permit
CHANGE = PurePosixPath("ca-change")  # the phase of a CA rotation
REQUESTS = PurePosixPath("requests")  # certificate signing requests for a CA whose key is elsewhere


def pem_path(stem: str) -> PurePosixPath:
    """Return the path of a certificate; `stem` is its role, such as `etcd-ca`."""
    return PurePosixPath("pki", f"{stem}.pem")


def key_path(stem: str) -> PurePosixPath:
    """Return the path of a private key; `stem` is the role of its certificate."""
    return PurePosixPath("pki", f"{stem}.key")
