"""The paths of files in `out/<cluster>/`, relative to that folder."""

from __future__ import annotations

from pathlib import PurePosixPath

SPEC = PurePosixPath("cluster.yaml")  # every field of the cluster with its value
INPUT = PurePosixPath("input.yaml")  # the fields that the user set, and the profile
MANIFEST = PurePosixPath("manifest.json")  # every file that bake wrote, with its sha256 and mode
IDENTITY = PurePosixPath("identity")  # 32 or more hexadecimal digits, unique to the cluster
PERMIT_COPY = PurePosixPath("pki/bootstrap-permit")  # the same bootstrap permit as on the first node's ISO
SEALED = PurePosixPath("sealed")  # if the file `sealed` exists, bake puts no bootstrap permit on an ISO
CHANGE = PurePosixPath("ca-change")  # the current phase of a CA change
SEED_HISTORY = PurePosixPath("seed-history.json")  # the seeds that bake has made for each node
EVENTS = PurePosixPath("events.ndjson")  # the console records of the nodes, with the time at which bake read them
LAST_BAKE = PurePosixPath("last-bake.json")  # when the last bake changed the folder, and what it changed
REPORT = PurePosixPath("report.html")  # the report of the cluster
CHOSEN_IMAGE = PurePosixPath("image.txt")  # the digest of the image that the user chose with `bake upgrade --to`
SEED_ISO = PurePosixPath("seed.iso")  # the name of the ISO in each node's folder
REQUESTS = PurePosixPath("requests")  # certificate signing requests for an external CA
CLIENTS = PurePosixPath("clients")  # a folder for each application, with its certificate and its configuration
OPERATOR, SHARED = "operator", "shared"  # certificate owners other than nodes
# A node must not have a name from FOLDER_NAMES, because files or folders of the cluster have these names. Each node has
# a folder with the node's name. Older versions of bake wrote a file `lock`.
_PATHS = (SPEC, INPUT, MANIFEST, IDENTITY, PERMIT_COPY, SEALED, CHANGE, SEED_HISTORY, REQUESTS, CLIENTS)
FOLDER_NAMES = frozenset({OPERATOR, "lock", *(path.parts[0].partition(".")[0] for path in _PATHS)})


def pem_path(stem: str) -> PurePosixPath:
    """Return the path of a certificate. `stem`: the file name without suffix, such as `etcd-ca`."""
    return PurePosixPath("pki", f"{stem}.pem")


def key_path(stem: str) -> PurePosixPath:
    """Return the path of a private key. `stem`: the file name without suffix, such as `etcd-ca`."""
    return PurePosixPath("pki", f"{stem}.key")
