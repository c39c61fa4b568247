"""The cluster's CAs, and the phases in which they are replaced.

etcd reads the CAs it trusts when it starts, and its own certificates at each handshake. So a CA is changed in phases.
In every phase, updated and not yet updated nodes trust each other. Pure.
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
    """How far the change of a CA has come."""

    TRUST = "trust"  # the old one issues, the next one is trusted too
    REISSUE = "reissue"  # the next one issues, the old one is still trusted
    DROP = "drop"  # the old one is trusted no more


@dataclass(frozen=True)
class Authority:
    """A CA, and its key as the folder has it or is to have it: perhaps encrypted; None where it is elsewhere."""

    credential: Issuer
    key_file: bytes | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Authorities:
    """Those that issue, by role; and while they are being changed, `others`: the next ones in the first phase, then the
    old ones. What is missing is still to be made."""

    issuing: Mapping[Role, Authority]
    others: Mapping[Role, Authority]
    phase: Phase | None

    @property
    def issuers(self) -> dict[Role, Issuer]:
        return {role: one.credential for role, one in self.issuing.items()}

    def advanced(self, following: Mapping[Role, Authority] | None = None) -> Authorities:
        """The next phase. `following`: where a change begins, the CAs that are there already."""
        if self.phase is None:
            return replace(self, phase=Phase.TRUST, others=following or {})
        if self.phase is Phase.TRUST:
            return Authorities(issuing=self.others, others=self.issuing, phase=Phase.REISSUE)
        if self.phase is Phase.REISSUE:
            return replace(self, phase=Phase.DROP)
        return replace(self, phase=None, others={})

    def completed(self, plan: ClusterPlan, make: Callable[[Role], Authority]) -> Authorities:
        """With a new CA wherever one is missing."""
        roles = authority_roles(plan.spec.pki)
        issuing = {role: self.issuing.get(role) or make(role) for role in roles}
        others = {role: self.others.get(role) or make(role) for role in roles} if self.phase else {}
        return replace(self, issuing=issuing, others=others)

    def trusted(self, role: Role) -> bytes | None:
        """The CAs that the nodes trust for a role, as one PEM file; None where there is no such role.

        The older one first: so the second phase changes nothing in it, and no node restarts its etcd for that.
        """
        found = self._trusted(role)
        return b"".join(reversed(found) if self.phase is Phase.REISSUE else found) or None

    def _trusted(self, role: Role) -> list[bytes]:
        """The one that issues first."""
        both = self.phase in (Phase.TRUST, Phase.REISSUE)
        places = (self.issuing, self.others) if both else (self.issuing,)
        return [place[role].credential.cert_pem for place in places if role in place]

    def files(self) -> Iterator[Artifact]:
        """What the folder keeps of them."""
        for role, one in self.issuing.items():
            yield Artifact(pem_path(role), b"".join(self._trusted(role)))
            if one.key_file is not None:
                yield Artifact(key_path(role), one.key_file, mode=0o600, secret=True)
        if self.phase:
            for role, one in self.others.items():
                stem = f"{role}-{other_cas(self.phase)}"
                yield Artifact(pem_path(stem), one.credential.cert_pem)
                if one.key_file is not None:
                    yield Artifact(key_path(stem), one.key_file, mode=0o600, secret=True)
            record = {"format_version": "1.0", "phase": str(self.phase)}
            yield Artifact(CHANGE, json.dumps(record, indent=1).encode() + b"\n")


def other_cas(phase: Phase) -> str:
    """What the CAs beside those that issue are."""
    return "next" if phase is Phase.TRUST else "old"


def kept_authority(credential: Credential, passphrase: bytes | None, *, file: bytes | None = None) -> Authority:
    """A CA with its key as it is to be kept. `file`: as it is kept now; what is encrypted already stays as it is."""
    if passphrase is None:
        return Authority(credential, credential.key_pem)
    if file and is_encrypted(file):
        return Authority(credential, file)
    return Authority(credential, encrypt_key(credential.key, passphrase))
