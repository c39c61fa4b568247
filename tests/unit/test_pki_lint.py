"""Strict certificates: pkilint finds no problem, and GnuTLS and OpenSSL accept them.

    BAKE_LINT_SPECS=2000 scripts/test tests/unit/test_pki_lint.py -s     tests 2,000 specs
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pkilint import loader, validation
from pkilint.bin import lint_pkix_signer_signee_cert_chain as chain
from pkilint.pkix import certificate, extension, name
from pyasn1_alt_modules import rfc5280  # noqa: F401  imported here so that no test's time includes the import

from generator import pki
from generator.config.pki import KeyType
from generator.pki import Credential, Role
from generator.plan import ClusterPlan

SPECS = int(os.environ.get("BAKE_LINT_SPECS", "20"))
LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
# pkilint refuses top-level domains of one letter, which do not exist.
UPPER_DOMAINS = st.sampled_from(["internal", "test", "example.com", "corp.example.org"])
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64).filter(str.strip)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


CLUSTERS = some(
    name=LABELS,
    nodes=st.integers(1, 7) | st.lists(LABELS.map(lambda n: {"name": n}), min_size=1, max_size=3, unique_by=str),
    network=some(
        subnet=st.sampled_from(["10.0.0.0/8", "172.16.5.0/24", "192.168.20.0/28", "fd00:20::/64", "2001:db8::/48"])
    ),
    pki=some(
        keyType=st.sampled_from(list(KeyType)).map(str),
        caDays=st.integers(3650, 36500),
        leafDays=st.integers(2, 3650),
        certificates=st.sampled_from(["per-node", "shared"]),
        domain=st.tuples(LABELS, UPPER_DOMAINS).map(".".join),
        subject=some(
            country=st.sampled_from(["CN", "DE", "US"]), state=TEXT, locality=TEXT, organization=TEXT,
            clientOrganization=TEXT,
        ),
    ),
)  # fmt: skip


@cache
def one_key(key_type: KeyType) -> pki.PrivateKey:
    """Return the same key each time, because linters accept that and generating RSA keys takes long."""
    return pki.generate_key(key_type)


@cache
def linter() -> Any:
    decoders = certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS)
    parts = [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ]
    return certificate.create_pkix_certificate_validator_container(decoders, parts)


def _findings(results: Any) -> Iterator[str]:
    for result in results:
        for found in result.finding_descriptions:
            if found.finding.severity is not validation.ValidationFindingSeverity.INFO:
                yield f"{found.finding.severity.name} {found.finding.code} {found.message or ''}"


def lint(made: Credential) -> list[str]:
    document = loader.load_certificate(made.cert_pem, "certificate")
    return list(_findings(linter().validate(document.root)))


def lint_chain(authority: Credential, made: Credential) -> list[str]:
    documents: dict[str, Any] = {}
    for each, title in ((authority, "issuer"), (made, "subject")):
        documents[title] = loader.load_certificate(each.cert_pem, title, title, documents)
    for document in documents.values():
        chain.create_decoder_validation_container().validate(document.root)
    issuer = chain.create_issuer_validation_container().validate(documents["issuer"].root)
    subject = chain.create_subject_validation_container().validate(documents["subject"].root)
    return [*_findings(issuer), *_findings(subject)]


def issued(plan: ClusterPlan, now: datetime) -> list[tuple[Credential, list[Credential]]]:
    """Return both CAs and their certificates."""
    authority, peers = (pki.create_authority(plan, role, now=now, new_key=one_key) for role in (Role.CA, Role.PEER_CA))
    node = next(pki.issue_nodes(plan, authority, peer_authority=peers, now=now, new_key=one_key))
    operator, user = (pki.issue_client(plan, authority, user=name, now=now, new_key=one_key) for name in (None, "app1"))
    return [(authority, [node[Role.SERVER], node[Role.CLIENT], operator, user]), (peers, [node[Role.PEER]])]


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    print("\npkilint:", ", ".join(f"{count} {what}" for what, count in counted.items()))


@given(fields=CLUSTERS)
@settings(max_examples=SPECS, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_pkilint_accepts_the_certificates_of_every_spec(
    fields: dict[str, Any], plan: Callable[..., ClusterPlan], now: datetime, tally: Counter[str]
) -> None:
    found = []
    for authority, leaves in issued(plan(**fields), now):
        found += [*lint(authority), *(finding for leaf in leaves for finding in lint(leaf))]
        found += [finding for leaf in leaves[::2] for finding in lint_chain(authority, leaf)]
        tally.update(certificates=1 + len(leaves))
    tally.update(specs=1, findings=len(found))
    assert found == []


@pytest.mark.parametrize("fields", [{"extensions": "document"}, {"singleLabelNames": True}], ids=str)
def test_pkilint_refuses_certificates_that_are_not_strict(
    fields: dict[str, Any], plan: Callable[..., ClusterPlan], now: datetime
) -> None:
    authority, leaves = issued(plan(pki=fields), now)[0]
    assert [*lint(authority), *(finding for leaf in leaves for finding in lint(leaf))] != []


# ── verifiers ───────────────────────────────────────────────────────────────────────────────────────────────


FOREIGN = x509.IPAddress(ip_address("203.0.113.9"))


def outside(authority: Credential, now: datetime, name: x509.GeneralName = FOREIGN) -> Credential:
    """Return a certificate of the cluster's CA for a foreign machine, as a thief of the CA key could issue it."""
    key = pki.generate_key(KeyType.ECDSA_P256)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "outside")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
    )
    return Credential(builder.sign(authority.key, hashes.SHA256()), key)


def verdicts(verify: list[str], folder: Path, leaves: list[Credential]) -> list[bool]:
    def accepted(leaf: Credential) -> bool:
        (folder / "leaf.pem").write_bytes(leaf.cert_pem)
        return subprocess.run([*verify, "leaf.pem"], cwd=folder, capture_output=True, check=False).returncode == 0

    return [accepted(leaf) for leaf in leaves]


@pytest.mark.parametrize("subnet", ["192.168.20.0/24", "fd00:20::/64"])
@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048"])
def test_gnutls_and_openssl_enforce_the_name_constraints(
    plan: Callable[..., ClusterPlan], tmp_path: Path, tool: Callable[[str], str], subnet: str, key_type: str
) -> None:
    now = datetime.now(UTC)  # certtool of Debian 12 cannot use another time
    made = issued(plan(network={"subnet": subnet}, pki={"keyType": key_type, "nameConstraints": "all"}), now)
    openssl = [tool("openssl"), "verify", "-x509_strict", "-CAfile", "ca.pem"]
    certtool = [tool("certtool"), "--verify", "--load-ca-certificate", "ca.pem", "--infile"]
    for authority, leaves in made:
        (tmp_path / "ca.pem").write_bytes(authority.cert_pem)
        asked = [*leaves, outside(authority, now)]
        for verify in (openssl, certtool):
            assert verdicts(verify, tmp_path, asked) == [True] * len(leaves) + [False], verify
    free = pki.create_authority(plan(pki={"extensions": "document"}), now=now)
    (tmp_path / "ca.pem").write_bytes(free.cert_pem)
    assert verdicts(openssl, tmp_path, [outside(free, now)]) == [True], "valid without name constraints"
    names = pki.create_authority(plan(), now=now)
    (tmp_path / "ca.pem").write_bytes(names.cert_pem)
    assert verdicts(openssl, tmp_path, [outside(names, now)]) == [True], "only names are limited"
    assert verdicts(openssl, tmp_path, [outside(names, now, x509.DNSName("etcd1.other.test"))]) == [False]
