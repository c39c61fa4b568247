"""The cluster's CAs and the phases of a CA change.

bake replaces a CA in phases, because etcd reads its CA file only when it starts. etcd reads its certificate again at
each TLS handshake. In every phase, a node with new files and a node with old files trust each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from generator.artifact import Artifact
from generator.layout import CHANGE, key_path, pem_path
from generator.pki.key_encryption import encrypt_key
from generator.pki.key_pair import Credential, Issuer, Role, is_encrypted
from generator.pki.templates import authority_roles
from generator.plan import ClusterPlan


class Phase(StrEnum):
    """The phase of a CA change."""

    TRUST = "trust"  # the old CA issues certificates; nodes also trust the next CA
    REISSUE = "reissue"  # the next CA issues certificates; nodes still trust the old CA
    DROP = "drop"  # nodes no longer trust the old CA


@dataclass(frozen=True)
class Authority:
    """A CA with its key file. The key file may be encrypted. bake has no key file of an external CA."""

    credential: Issuer
    key_file: bytes | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Authorities:
    """The cluster's existing CAs by role.

    `issuing`: the CAs that issue certificates. `others`: in the first phase of a CA change, the next CAs; in later
    phases, the old CAs.
    """

    issuing: Mapping[Role, Authority]
    others: Mapping[Role, Authority]
    phase: Phase | None

    @property
    def issuers(self) -> dict[Role, Issuer]:
        return {role: one.credential for role, one in self.issuing.items()}

    def advanced(self, following: Mapping[Role, Authority] | None = None) -> Authorities:
        """Return the CAs of the next phase. `following`: the new CAs that the user gives when a CA change begins."""
        if self.phase is None:
            return replace(self, phase=Phase.TRUST, others=following or {})
        if self.phase is Phase.TRUST:
            return Authorities(issuing=self.others, others=self.issuing, phase=Phase.REISSUE)
        if self.phase is Phase.REISSUE:
            return replace(self, phase=Phase.DROP)
        return replace(self, phase=None, others={})

    def completed(self, plan: ClusterPlan, make: Callable[[Role], Authority]) -> Authorities:
        """Return all CAs that the plan needs. `make`: a function that creates a missing CA."""
        roles = authority_roles(plan.spec.pki)
        issuing = {role: self.issuing.get(role) or make(role) for role in roles}
        others = {role: self.others.get(role) or make(role) for role in roles} if self.phase else {}
        return replace(self, issuing=issuing, others=others)

    def trusted(self, role: Role) -> bytes | None:
        """Return a PEM file with the trusted CAs of a role, or None if the cluster has no CA with this role.

        The older CA always comes first in the file, so that the second phase of a CA change does not change the file.
        A changed file would restart etcd.
        """
        found = self._trusted(role)
        return b"".join(reversed(found) if self.phase is Phase.REISSUE else found) or None

    def _trusted(self, role: Role) -> list[bytes]:
        """Return the trusted CAs of a role, beginning with the CA that issues certificates."""
        both = self.phase in (Phase.TRUST, Phase.REISSUE)
        places = (self.issuing, self.others) if both else (self.issuing,)
        return [place[role].credential.cert_pem for place in places if role in place]

    def files(self) -> Iterator[Artifact]:
        """Yield the CA certificates, the CA keys and the phase of a CA change as files for the cluster's folder."""
        for role, one in self.issuing.items():
            yield from _files(str(role), b"".join(self._trusted(role)), one.key_file)
        if self.phase:
            for role, one in self.others.items():
                yield from _files(f"{role}-{other_cas(self.phase)}", one.credential.cert_pem, one.key_file)
            record = {"format_version": "1.0", "phase": str(self.phase)}
            yield Artifact(CHANGE, json.dumps(record, indent=1).encode() + b"\n")


def _files(stem: str, pem: bytes, key_file: bytes | None) -> Iterator[Artifact]:
    yield Artifact(pem_path(stem), pem)
    if key_file is not None:
        yield Artifact(key_path(stem), key_file, mode=0o600, secret=True)


def other_cas(phase: Phase) -> str:
    """Return `next` in the first phase of a CA change, and `old` in the later phases.

    The names of the CA files in `Authorities.others` contain the returned word.
    """
    return "next" if phase is Phase.TRUST else "old"


def kept_authority(credential: Credential, passphrase: bytes | None, *, file: bytes | None = None) -> Authority:
    """Return a CA with its key file. `file`: the existing key file.

    If the existing key file is encrypted, bake does not encrypt the key again.
    """
    if passphrase is None:
        return Authority(credential, credential.key_pem)
    if file and is_encrypted(file):
        return Authority(credential, file)
    return Authority(credential, encrypt_key(credential.key, passphrase))
