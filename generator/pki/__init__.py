"""Certificates.

The module `templates` defines the content of certificates. The module `issue` issues and renews certificates.
The module `ca_check` checks a CA.
"""

from generator.pki.ca_check import check_authority, check_names
from generator.pki.csr import create_request, is_request_for, mismatches
from generator.pki.inspection import Facts, describe, digests, ends, is_near_expiry
from generator.pki.issue import (
    BACKDATE,
    PlannedCertificate,
    create_authority,
    days_limited_by_ca,
    is_current,
    issue_client,
    issue_nodes,
    issue_profile,
    missing_certificates,
    planned_certificates,
    pregenerated_keys,
    user_stem,
)
from generator.pki.key_encryption import encrypt_key
from generator.pki.key_pair import (
    NODE_ROLES,
    Credential,
    ExternalCa,
    Issuer,
    NewKey,
    NodePki,
    PrivateKey,
    Role,
    generate_key,
    is_encrypted,
    is_issued_by,
    key_pem,
    parse_certificate,
    parse_credential,
    parse_key,
)
from generator.pki.templates import (
    CertProfile,
    application_profile,
    authority_roles,
    has_peer_name,
    issuer_of,
    node_profiles,
    peer_check,
    shared_profiles,
)
