"""The cluster's certificates: `profiles` says what each states, `issue` makes and renews, `authority` judges a CA."""

from generator.pki.authority import (
    check_authority,
    check_names,
)
from generator.pki.credential import (
    NODE_ROLES,
    Credential,
    NewKey,
    NodePki,
    PrivateKey,
    Role,
    generate_key,
    is_encrypted,
    is_issued_by,
    key_type_of,
    parse_certificate,
    parse_credential,
)
from generator.pki.encryption import encrypt_key
from generator.pki.inspection import Facts, describe, digests
from generator.pki.issue import (
    BACKDATE,
    count_missing,
    create_authority,
    is_current,
    issue_client,
    issue_nodes,
    keys_ahead,
)
from generator.pki.profiles import (
    CertProfile,
    authority_roles,
    ca_profile,
    client_profile,
    issuer_of,
    node_profiles,
    shared_profiles,
)

__all__ = [
    "BACKDATE",
    "NODE_ROLES",
    "CertProfile",
    "Credential",
    "Facts",
    "NewKey",
    "NodePki",
    "PrivateKey",
    "Role",
    "authority_roles",
    "ca_profile",
    "check_authority",
    "check_names",
    "client_profile",
    "count_missing",
    "create_authority",
    "describe",
    "digests",
    "encrypt_key",
    "generate_key",
    "is_current",
    "is_encrypted",
    "is_issued_by",
    "issue_client",
    "issue_nodes",
    "issuer_of",
    "key_type_of",
    "keys_ahead",
    "node_profiles",
    "parse_certificate",
    "parse_credential",
    "shared_profiles",
]
