"""Certificates: content, validity and renewal, checked with OpenSSL and TLS handshakes."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from generator import pki
from generator.config.pki import KeyType
from generator.errors import InputError
from generator.pki import Credential, Role
from generator.plan import ClusterPlan

Plan = Callable[..., ClusterPlan]
RENEWED = {Role.SERVER, Role.PEER, Role.CLIENT}


@pytest.fixture(scope="module")
def authority(plan: Plan, now: datetime) -> Credential:
    return pki.create_authority(plan(), now=now)


@pytest.fixture(scope="module")
def nodes(plan: Plan, authority: Credential, now: datetime) -> list[pki.NodePki]:
    return list(pki.issue_nodes(plan(), authority, now=now))


def extension(credential: Credential, kind: type[Any]) -> Any:
    return credential.certificate.extensions.get_extension_for_class(kind)


def usages(credential: Credential) -> set[str]:
    """Return the key usages of a certificate."""
    usage = extension(credential, x509.KeyUsage)
    assert usage.critical
    return {name.removeprefix("_") for name, value in vars(usage.value).items() if value}


# ── content ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_ca_certificate_can_only_sign(authority: Credential) -> None:
    constraints = extension(authority, x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert usages(authority) == {"key_cert_sign", "crl_sign"}


def constraints_of(credential: Credential) -> list[str]:
    found = extension(credential, x509.NameConstraints)
    assert found.critical
    assert found.value.excluded_subtrees is None
    return [str(name.value) for name in found.value.permitted_subtrees]


def test_name_constraints_limit_a_ca_to_the_cluster(plan: Plan, now: datetime) -> None:
    loopback, everything = ["127.0.0.0/8", "::1/128"], {"nameConstraints": "all"}
    ipv6 = {"network": {"subnet": "fd00:20::/64"}, "pki": {"domain": "a.test", **everything}}
    for fields, expected in (
        ({}, ["etcd.internal"]),
        ({"pki": {"nameConstraints": "names", "domain": "a.test"}}, ["a.test"]),
        ({"pki": everything}, ["etcd.internal", "192.168.20.0/24", *loopback]),
        (ipv6, ["a.test", "fd00:20::/64", *loopback]),
        ({"pki": {"singleLabelNames": True, **everything}}, ["192.168.20.0/24", *loopback]),
    ):
        for role in (Role.CA, Role.PEER_CA):
            authority = pki.create_authority(plan(**fields), role, now=now)
            assert constraints_of(authority) == expected
            assert pki.check_names(authority, plan(**fields), role, where="") == []


@pytest.mark.parametrize(
    "fields",
    [
        {"nameConstraints": "none"},
        {"extensions": "document", "nameConstraints": "all"},  # as in the manual procedure
        {"singleLabelNames": True},  # an extension that permits nothing and excludes nothing is invalid
    ],
    ids=str,
)
def test_a_ca_can_have_no_name_constraints(plan: Plan, now: datetime, fields: dict[str, Any]) -> None:
    authority = pki.create_authority(plan(pki=fields), now=now)
    with pytest.raises(x509.ExtensionNotFound):
        extension(authority, x509.NameConstraints)


DNS, IP = x509.DNSName, x509.IPAddress
ADMITTED: dict[str, tuple[x509.NameConstraints, list[str]]] = {
    "a domain above": (x509.NameConstraints([DNS("internal")], None), []),
    "a domain with a dot": (x509.NameConstraints([DNS(".etcd.internal")], None), []),
    "the very name": (x509.NameConstraints([DNS("etcd1.etcd.internal")], None), []),
    "a name that only ends the same": (x509.NameConstraints([DNS("cd.internal")], None), ["etcd1.etcd.internal"]),
    "no domain": (x509.NameConstraints(None, [DNS("")]), ["etcd1.etcd.internal"]),
    "an excluded domain": (x509.NameConstraints(None, [DNS("etcd.internal")]), ["etcd1.etcd.internal"]),
    "an excluded network": (x509.NameConstraints(None, [IP(ip_network("192.168.0.0/16"))]), ["192.168.20.31"]),
    "one family": (x509.NameConstraints([IP(ip_network("0.0.0.0/0"))], None), ["::1"]),
    "without loopback": (x509.NameConstraints([IP(ip_network("192.168.20.0/24"))], None), ["127.0.0.1", "::1"]),
    "names of people": (x509.NameConstraints([x509.RFC822Name("a@b.test")], None), []),
}


@pytest.mark.parametrize(("constraints", "refused"), ADMITTED.values(), ids=ADMITTED)
def test_forbidden_names_are_reported(
    plan: Plan, now: datetime, constraints: x509.NameConstraints, refused: list[str]
) -> None:
    authority = authority_with(now, constraints=CA, names=constraints)
    problems = pki.check_names(authority, plan(nodes=1), Role.CA, where="ca.pem")
    assert [problem.message.split(":")[0] for problem in problems] == (
        [f"may not issue certificates for {', '.join(refused)}".split(":")[0]] if refused else []
    )


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (Role.SERVER, {Usage.CLIENT_AUTH, Usage.SERVER_AUTH}),  # etcd's gRPC gateway uses the certificate as a client
        (Role.PEER, {Usage.CLIENT_AUTH, Usage.SERVER_AUTH}),
        (Role.CLIENT, {Usage.CLIENT_AUTH}),
    ],
)
def test_a_node_certificate_has_the_usages_of_its_role(
    nodes: list[pki.NodePki], role: Role, expected: set[Any]
) -> None:
    credential = nodes[0][role]
    assert set(extension(credential, x509.ExtendedKeyUsage).value) == expected
    constraints = extension(credential, x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert usages(credential) == {"digital_signature"}


@pytest.mark.parametrize("role", pki.NODE_ROLES)
def test_a_node_certificate_names_only_its_node(nodes: list[pki.NodePki], role: Role) -> None:
    names = extension(nodes[1][role], x509.SubjectAlternativeName).value
    peers = ["etcd.peers.etcd.internal"] if role is Role.PEER else []
    assert names.get_values_for_type(x509.DNSName) == ["etcd2.etcd.internal", *peers]
    assert names.get_values_for_type(x509.IPAddress) == [
        *map(ip_address, ("192.168.20.32", "127.0.0.1", "::1"))
    ]


def test_the_operator_certificate_names_no_node(plan: Plan, authority: Credential, now: datetime) -> None:
    client = pki.issue_client(plan(), authority, now=now)
    assert set(extension(client, x509.ExtendedKeyUsage).value) == {Usage.CLIENT_AUTH}
    with pytest.raises(x509.ExtensionNotFound):
        extension(client, x509.SubjectAlternativeName)


@pytest.mark.parametrize("kept", [False, True])
def test_a_user_certificate_has_only_client_auth(
    plan: Plan, authority: Credential, now: datetime, kept: bool
) -> None:
    """With serverAuth, an application could impersonate a member, so such a certificate is renewed."""
    found = next(pki.issue_nodes(plan(), authority, now=now))[Role.PEER] if kept else None
    user = pki.issue_client(plan(), authority, now=now, user="app1", kept=found)
    assert set(extension(user, x509.ExtendedKeyUsage).value) == {Usage.CLIENT_AUTH}


def test_single_label_names_are_added_on_request(
    plan: Plan, authority: Credential, now: datetime
) -> None:
    asked = plan(nodes=1, pki={"singleLabelNames": True})
    server = next(pki.issue_nodes(asked, authority, now=now))[Role.SERVER]
    names = extension(server, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["etcd1.etcd.internal", "etcd1", "localhost"]


def test_shared_certificates_name_every_node(plan: Plan, authority: Credential, now: datetime) -> None:
    first, second, _ = pki.issue_nodes(plan(pki={"certificates": "shared"}), authority, now=now)
    assert first is second
    addresses = extension(first[Role.PEER], x509.SubjectAlternativeName).value.get_values_for_type(
        x509.IPAddress
    )
    assert {ip_address(f"192.168.20.{last}") for last in (31, 32, 33)} <= set(addresses)


def test_serial_numbers_and_keys_are_unique(nodes: list[pki.NodePki]) -> None:
    every = [node[role] for node in nodes for role in node]
    assert len({each.certificate.serial_number for each in every}) == len(every)
    assert len({each.key_pem for each in every}) == len(every)
    assert max(each.certificate.serial_number for each in every).bit_length() > 64


@pytest.mark.parametrize("key_type", KeyType)
def test_keys_have_the_configured_type(plan: Plan, now: datetime, key_type: KeyType) -> None:
    authority = pki.create_authority(plan(pki={"keyType": key_type}), now=now)
    kind, size = key_type.split("-")
    assert isinstance(authority.key, rsa.RSAPrivateKey if kind == "rsa" else ec.EllipticCurvePrivateKey)
    assert str(authority.key.key_size) == size.removeprefix("p")
    expected = hashes.SHA384 if key_type is KeyType.ECDSA_P384 else hashes.SHA256
    assert isinstance(authority.certificate.signature_hash_algorithm, expected)
    assert pki.is_issued_by(authority.certificate, authority.certificate)


def test_only_rsa_certificates_have_key_encipherment(plan: Plan, now: datetime) -> None:
    of_rsa = plan(nodes=1, pki={"keyType": "rsa-2048"})
    server = next(pki.issue_nodes(of_rsa, pki.create_authority(of_rsa, now=now), now=now))[Role.SERVER]
    assert usages(server) == {"digital_signature", "key_encipherment"}


def test_repr_shows_no_secret(authority: Credential) -> None:
    assert authority.key_pem.decode() not in f"{authority!r} {[authority]!r} {authority!s}"
    assert repr(authority) == "Credential()"


# ── validity ────────────────────────────────────────────────────────────────────────────────────────────────


def test_certificates_are_backdated_by_a_day(
    plan: Plan, authority: Credential, nodes: list[pki.NodePki], now: datetime
) -> None:
    for credential, days in ((authority, 3650), (nodes[0][Role.PEER], 365)):
        start, end = credential.certificate.not_valid_before_utc, credential.certificate.not_valid_after_utc
        assert start == now - timedelta(days=1)
        assert end - start == timedelta(days=days)


def test_the_shortest_validity_is_valid_now(plan: Plan, now: datetime) -> None:
    short = plan(pki={"leafDays": 2, "caDays": 2})
    authority = pki.create_authority(short, now=now)
    pki.check_authority(authority, short, now=now + timedelta(hours=23), where="")
    assert pki.issue_client(short, authority, now=now).certificate.not_valid_after_utc == now + timedelta(
        days=1
    )


def test_no_certificate_expires_after_its_ca(plan: Plan, authority: Credential, now: datetime) -> None:
    late = now + timedelta(days=3600)
    client = pki.issue_client(plan(), authority, now=late)
    assert client.certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert pki.issue_client(plan(), authority, now=late, kept=client) is client


def test_validity_can_end_after_2050(plan: Plan, now: datetime) -> None:
    long = plan(pki={"caDays": 36500})
    end = now - pki.BACKDATE + timedelta(days=36500)
    assert pki.create_authority(long, now=now).certificate.not_valid_after_utc == end
    assert end.year > 2050


def test_validity_can_begin_at_the_epoch(plan: Plan) -> None:
    assert (
        pki.create_authority(
            plan(), now=datetime(1970, 1, 1, tzinfo=UTC)
        ).certificate.not_valid_before_utc.year
        == 1969
    )


# ── renewal ─────────────────────────────────────────────────────────────────────────────────────────────────


def no_key(_: KeyType) -> pki.PrivateKey:
    pytest.fail("a key was generated although none was needed")


def test_valid_certificates_are_kept(
    plan: Plan, authority: Credential, nodes: list[pki.NodePki], now: datetime
) -> None:
    later = now + timedelta(days=300)
    again = list(pki.issue_nodes(plan(), authority, now=later, kept=nodes, new_key=no_key))
    assert [dict(node) for node in again] == [dict(node) for node in nodes]


def test_a_certificate_of_a_new_user_provided_ca_is_kept(plan: Plan, now: datetime) -> None:
    fresh = pki.create_authority(plan(), now=now + pki.BACKDATE)  # the CA is valid from `now` on
    client = pki.issue_client(plan(), fresh, now=now)
    assert pki.issue_client(plan(), fresh, now=now, kept=client, new_key=no_key) is client


WRONG: dict[str, tuple[dict[str, Any], timedelta, set[Role]]] = {
    "another address": ({"network": {"firstIp": "192.168.20.41"}}, timedelta(), RENEWED),
    "another domain": ({"pki": {"domain": "example.test"}}, timedelta(), RENEWED),
    "another subject": ({"pki": {"subject": {"organization": "other"}}}, timedelta(), RENEWED),
    "another subject of clients": (
        {"pki": {"subject": {"clientOrganization": "other"}}},
        timedelta(),
        {Role.CLIENT},
    ),
    "another validity": ({"pki": {"leafDays": 364}}, timedelta(), RENEWED),
    "another key type": ({"pki": {"keyType": "ecdsa-p384"}}, timedelta(), RENEWED),
    "other extensions": ({"pki": {"extensions": "document"}}, timedelta(), RENEWED),
    "expired": ({}, timedelta(days=365), RENEWED),
    "not yet valid": ({}, timedelta(days=-2), RENEWED),
}


@pytest.mark.parametrize(("fields", "passed", "renewed"), WRONG.values(), ids=WRONG)
def test_wrong_certificates_are_renewed(
    plan: Plan,
    authority: Credential,
    nodes: list[pki.NodePki],
    now: datetime,
    fields: Mapping[str, Any],
    passed: timedelta,
    renewed: set[Role],
) -> None:
    again = next(pki.issue_nodes(plan(**fields), authority, now=now + passed, kept=nodes))
    assert {role for role in again if again[role] is not nodes[0][role]} == renewed


def test_certificates_of_another_ca_are_renewed(
    plan: Plan, nodes: list[pki.NodePki], now: datetime
) -> None:
    other = pki.create_authority(plan(), now=now)
    again = next(pki.issue_nodes(plan(), other, now=now, kept=nodes))
    assert {role for role in again if again[role] is not nodes[0][role]} == RENEWED
    assert all(pki.is_issued_by(credential.certificate, other.certificate) for credential in again.values())


def test_a_certificate_of_another_role_or_node_is_renewed(
    plan: Plan, authority: Credential, nodes: list[pki.NodePki], now: datetime
) -> None:
    swapped = {
        Role.SERVER: nodes[0][Role.PEER],
        Role.PEER: nodes[0][Role.SERVER],
        Role.CLIENT: nodes[1][Role.CLIENT],
    }
    again = next(pki.issue_nodes(plan(), authority, now=now, kept=[swapped]))
    assert {role for role in again if again[role] is not swapped[role]} == RENEWED


def _missing(
    plan: ClusterPlan,
    authorities: dict[Role, Credential],
    now: datetime,
    kept: Iterable[pki.NodePki] = (),
    client: Credential | None = None,
) -> int:
    planned = pki.planned_certificates(plan, client, kept)
    return len(pki.missing_certificates(plan, authorities, planned, now=now))


def test_certificates_without_a_valid_existing_one_are_missing(
    plan: Plan, authority: Credential, nodes: list[pki.NodePki], now: datetime
) -> None:
    def missing(
        authority: Credential | None, kept: list[pki.NodePki], client: Credential | None = None
    ) -> int:
        return _missing(one, {Role.CA: authority} if authority else {}, now, kept, client)

    one = plan(pki={"peerCa": {"separate": False}})
    client = pki.issue_client(one, authority, now=now)
    assert missing(None, []) == 1 + 3 * len(nodes)
    assert missing(authority, []) == 1 + 3 * len(nodes)
    assert missing(authority, nodes, client) == 0
    assert missing(authority, nodes[1:], client) == 3 * len(nodes), "certificates of other nodes do not count"
    assert _missing(plan(pki={"certificates": "shared"}), {}, now) == 3
    apart = plan(pki={"peerCa": {"separate": True}})
    assert _missing(apart, {}, now) == 1 + 3 * len(nodes)
    both = {role: pki.create_authority(apart, role, now=now) for role in pki.authority_roles(apart.spec.pki)}
    mixed = list(pki.issue_nodes(apart, both[Role.CA], peer_authority=both[Role.PEER_CA], now=now))
    assert _missing(apart, both, now, mixed) == 1
    assert pki.is_issued_by(mixed[0][Role.PEER].certificate, both[Role.PEER_CA].certificate)
    assert pki.is_issued_by(mixed[0][Role.SERVER].certificate, both[Role.CA].certificate)


def test_keys_of_other_types_are_generated_on_demand() -> None:
    asked: list[KeyType] = []

    def new_key(key_type: KeyType) -> pki.PrivateKey:
        asked.append(key_type)
        return pki.generate_key(KeyType.ECDSA_P256)

    with pki.pregenerated_keys(KeyType.RSA_4096, 2, workers=2, new_key=new_key) as take:
        for kind in (KeyType.ECDSA_P384, KeyType.RSA_4096, KeyType.RSA_4096, KeyType.RSA_4096):
            take(kind)
    assert sorted(asked) == [KeyType.ECDSA_P384, *[KeyType.RSA_4096] * 3]


# ── unusable CAs ────────────────────────────────────────────────────────────────────────────────────────────


def authority_with(
    now: datetime,
    *,
    key: Any = None,
    usage: x509.KeyUsage | None = None,
    constraints: x509.BasicConstraints | None = None,
    identifier: bool = True,
    names: x509.NameConstraints | None = None,
) -> Credential:
    """Return a self-signed certificate that bake did not create."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "theirs")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=9))
    if constraints:
        builder = builder.add_extension(constraints, critical=True)
    if names:
        builder = builder.add_extension(names, critical=True)
    if usage:
        builder = builder.add_extension(usage, critical=True)
    if identifier:
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    return Credential(builder.sign(key, hashes.SHA256()), key)


CA = x509.BasicConstraints(ca=True, path_length=None)
SIGNS_CRLS_ONLY = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
SECP256K1 = ec.generate_private_key(ec.SECP256K1())
RSA_1024 = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  too short on purpose
USELESS: dict[str, tuple[dict[str, Any], str]] = {
    "no constraints": ({}, "is not a CA certificate"),
    "no CA": ({"constraints": x509.BasicConstraints(ca=False, path_length=None)}, "is not a CA certificate"),
    "no identifier": ({"constraints": CA, "identifier": False}, "is not a CA certificate"),
    "may not sign": ({"constraints": CA, "usage": SIGNS_CRLS_ONLY}, "may not sign certificates"),
    "a curve Go does not know": ({"constraints": CA, "key": SECP256K1}, "has a secp256k1 key"),
    "a weak key": ({"constraints": CA, "key": RSA_1024}, "has an RSA key of 1024 bits"),
}


@pytest.mark.parametrize(("fields", "rule"), USELESS.values(), ids=USELESS)
def test_an_unusable_ca_is_refused(plan: Plan, now: datetime, fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(InputError) as refused:
        pki.check_authority(authority_with(now, **fields), plan(), now=now, where="ca.pem")
    assert [str(problem).startswith(f"ca.pem: {rule}") for problem in refused.value.problems] == [True]


def test_a_ca_without_key_usage_is_accepted(plan: Plan, now: datetime) -> None:
    pki.check_authority(authority_with(now, constraints=CA), plan(), now=now, where="")


# ── OpenSSL and handshakes ──────────────────────────────────────────────────────────────────────────────────


def save(folder: Path, authority: Credential, **credentials: Credential) -> None:
    (folder / "ca.pem").write_bytes(authority.cert_pem)
    for name, credential in credentials.items():
        (folder / f"{name}.pem").write_bytes(credential.cert_pem + credential.key_pem)


@pytest.mark.parametrize("fields", [{}, {"keyType": "rsa-2048"}, {"certificates": "shared"}], ids=str)
@pytest.mark.parametrize("subnet", ["192.168.20.0/24", "fd00:20::/64"])
def test_openssl_accepts_every_certificate_strictly(
    plan: Plan, now: datetime, tmp_path: Path, tool: Callable[[str], str], fields: dict[str, str], subnet: str
) -> None:
    wanted = plan(nodes=1, pki=fields, network={"subnet": subnet})
    authority = pki.create_authority(wanted, now=now)
    node = next(pki.issue_nodes(wanted, authority, now=now))
    save(
        tmp_path,
        authority,
        operator=pki.issue_client(wanted, authority, now=now),
        **{r.name: node[r] for r in node},
    )
    verify = [
        tool("openssl"),
        "verify",
        "-x509_strict",
        "-attime",
        str(int(now.timestamp())),
        "-CAfile",
        "ca.pem",
    ]
    purposes = {"SERVER": "sslserver", "PEER": "sslserver", "CLIENT": "sslclient", "operator": "sslclient"}
    for name, purpose in (*purposes.items(), ("PEER", "sslclient"), ("SERVER", "sslclient")):
        words = [*verify, "-purpose", purpose, f"{name}.pem"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.stdout == f"{name}.pem: OK\n", done.stderr


def context(side: int, folder: Path, who: str | None) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.load_verify_locations(folder / "ca.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    if who:
        made.load_cert_chain(folder / f"{who}.pem")
    return made


def connect(folder: Path, server: str, client: str | None, address: str) -> None:
    """Do a mutual TLS handshake in memory and send a word. Raises SSLError if a side refuses the other side."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    served = context(ssl.PROTOCOL_TLS_SERVER, folder, server).wrap_bio(up, down, server_side=True)
    asking = context(ssl.PROTOCOL_TLS_CLIENT, folder, client).wrap_bio(down, up, server_hostname=address)
    for _ in range(4):
        for side in (asking, served):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    asking.write(b"ping")
    assert served.read() == b"ping"


@pytest.fixture(scope="module")
def keyring(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ca.pem and currently valid certificates with their keys."""
    folder, now = tmp_path_factory.mktemp("keyring"), datetime.now(UTC)
    authority = pki.create_authority(plan(), now=now)
    operator = pki.issue_client(plan(), authority, now=now)
    foreign = pki.issue_client(plan(), pki.create_authority(plan(), now=now), now=now)
    long_ago = pki.create_authority(plan(), now=now - timedelta(days=500))
    forged = pki.issue_client(plan(), Credential(authority.certificate, long_ago.key), now=now)
    nodes = pki.issue_nodes(plan(), authority, now=now)
    every = {
        f"{role.name.lower()}{number}": node[role] for number, node in enumerate(nodes, 1) for role in node
    }
    save(folder, authority, operator=operator, foreign=foreign, forged=forged, **every)
    return folder


@pytest.mark.parametrize(
    ("server", "client", "address"),
    [
        ("server1", "operator", "192.168.20.31"),
        ("server1", "client2", "192.168.20.31"),
        ("server1", "server1", "127.0.0.1"),  # the gRPC gateway
        ("server1", "operator", "::1"),
        ("server1", "operator", "etcd1.etcd.internal"),
        ("peer1", "peer2", "192.168.20.31"),
        ("peer2", "peer1", "192.168.20.32"),
    ],
)
def test_members_and_clients_of_a_cluster_can_connect(keyring: Path, server: str, client: str, address: str) -> None:
    connect(keyring, server, client, address)


@pytest.mark.parametrize(
    ("server", "client", "address", "reason"),
    [
        ("server2", "operator", "192.168.20.31", "IP address mismatch"),
        ("peer3", "peer2", "192.168.20.31", "IP address mismatch"),
        ("server1", "operator", "etcd2.etcd.internal", "Hostname mismatch"),
        (
            "client1",
            "operator",
            "192.168.20.31",
            "unsuitable certificate purpose|unsupported certificate purpose",
        ),
        ("server1", None, "192.168.20.31", "peer did not return a certificate"),
        (
            "server1",
            "foreign",
            "192.168.20.31",
            "signature failure|unable to get local issuer|self-signed|verify failed",
        ),
        ("server1", "forged", "192.168.20.31", "certificate signature failure|verify failed"),
    ],
)
def test_foreign_certificates_cannot_connect(
    keyring: Path, server: str, client: str | None, address: str, reason: str
) -> None:
    with pytest.raises(ssl.SSLError, match=f"(?i){reason}"):
        connect(keyring, server, client, address)


# ── the names of etcd users ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {Role.SERVER: "etcd1", Role.PEER: "etcd1", Role.CLIENT: "etcd1"}),
        ({"auth": True}, {Role.SERVER: "etcd-server", Role.PEER: "etcd1", Role.CLIENT: "etcd1"}),
    ],
    ids=["without auth", "with auth"],
)
def test_with_auth_a_server_certificate_names_no_user(
    plan: Plan, now: datetime, fields: dict[str, Any], names: dict[Role, str]
) -> None:
    """etcd's gateway uses the server certificate, and the user with the name of a node has all rights."""
    made = plan(nodes=1, **fields)
    (node,) = pki.issue_nodes(made, pki.create_authority(made, now=now), now=now)
    for role, name in names.items():
        assert node[role].certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == name
    server = node[Role.SERVER].certificate
    sans = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sans.get_values_for_type(x509.DNSName) == ["etcd1.etcd.internal"], "clients find the node's name here"


def test_turning_auth_on_replaces_only_the_server_certificates(plan: Plan, now: datetime) -> None:
    authority = pki.create_authority(plan(), now=now)
    (old,) = pki.issue_nodes(plan(nodes=1), authority, now=now)
    (new,) = pki.issue_nodes(plan(nodes=1, auth=True), authority, now=now, kept=[old])
    assert {role for role in new if new[role] != old[role]} == {Role.SERVER}


@pytest.mark.parametrize(
    ("days", "left", "is_near"),
    [
        (365, 30, False), (365, 29, True), (365, -1, True), (90, 30, False), (90, 29, True),
        (7, 6, False), (7, 3, False), (7, 2, True), (2, 1, False), (2, 0, True), (30, 11, False), (30, 9, True),
    ],
)  # fmt: skip
def test_the_end_of_a_validity_is_near_in_its_last_third_and_at_most_30_days(
    now: datetime, days: int, left: int, is_near: bool
) -> None:
    """So a new certificate of the profile `ci`, which is valid for 7 days, does not expire soon."""
    end = now + timedelta(days=left)
    assert pki.is_near_expiry(end - timedelta(days=days), end, now) is is_near
