"""The commands that cloud-init runs on a node's first boot: the document's steps in its order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from generator.config.pki import Permissions
from generator.config.spec import ClusterSpec, FirewallKind, InstallMethod
from generator.pki import NODE_ROLES
from generator.plan import ETCD_UID, ClusterPlan
from generator.seed.guest_files import access_commands, guest_source
from generator.seed.guest_paths import ENV, LIBEXEC, PKI_DIR, UDEV_RULES, UNITS

HOME = PurePosixPath("/var/lib/etcd")


def boot_commands() -> list[str]:
    """Return `bootcmd`: runs on every boot, before files are written."""
    return [guest_source(PurePosixPath("/bootcmd")).decode()]


def first_boot_commands(plan: ClusterPlan) -> Iterator[str]:
    """Yield `runcmd`, one line per step of the document. Every line can be repeated; a failure stops the rest."""
    yield "set -e"
    if plan.spec.firewall.kind is not FirewallKind.NONE:
        if plan.spec.firewall.kind is FirewallKind.FIREWALLD:
            # A newly installed firewalld is not running yet, and rules need a running one.
            yield "systemctl enable --now firewalld.service"
        # etcd.service starts it; the reload below covers both.
        yield "systemctl --no-reload enable etcd-firewall"
    if plan.spec.install.method is InstallMethod.ARCHIVE:
        yield f"sh -ac '. {ENV} && {LIBEXEC}/etcd-install'"
    # A package may have created the user already.
    yield f"getent passwd etcd >/dev/null || useradd -r -u {ETCD_UID} -d {HOME} -s /sbin/nologin etcd"
    yield from _key_permissions(plan.spec)
    yield f"mkdir -p {HOME} && chown etcd: {HOME} && chmod 0700 {HOME}"
    labelled = f"/etc/etcd {LIBEXEC} {HOME} {UNITS} {UDEV_RULES}"
    # SELinux stays enforcing: label files that were written before the policy was complete.
    yield f"if command -v restorecon >/dev/null; then restorecon -RF {labelled}; fi"
    yield "systemctl daemon-reload"
    yield "systemctl --no-reload enable etcd"
    yield "systemctl --no-reload enable report-boot"
    # From here on a power cut is harmless: the unit is enabled, and its condition is met.
    yield f"{LIBEXEC}/first-boot-done"
    # Do not wait here: cloud-init's final stage would wait until the other nodes are up.
    yield "systemctl start --no-block etcd"


def _key_permissions(spec: ClusterSpec) -> Iterator[str]:
    """Yield commands that open the keys' folder, closed by bootcmd, to etcd and access.readers only."""
    keys = " ".join(f"{role}.key" for role in NODE_ROLES)
    if spec.pki.permissions is Permissions.OWNER:
        yield f"cd {PKI_DIR} && chown etcd: {keys} *.pem && chmod 0400 {keys} *.pem"
        yield f"chmod 0755 {PKI_DIR.parent} && chown root:root {PKI_DIR}"
    yield from access_commands(spec)
