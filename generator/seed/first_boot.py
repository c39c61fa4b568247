"""The document's steps in the document's order, as the commands that cloud-init runs on a node's first boot."""

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
    """`bootcmd`: before anything is written, on every boot."""
    return [guest_source(PurePosixPath("/bootcmd")).decode()]


def first_boot_commands(plan: ClusterPlan) -> Iterator[str]:
    """`runcmd`: a line per step of the document. Each may run again without harm; one that fails stops the rest."""
    yield "set -e"
    if plan.spec.firewall.kind is not FirewallKind.NONE:
        if plan.spec.firewall.kind is FirewallKind.FIREWALLD:
            # Just installed it is not running yet, and only a running one takes rules.
            yield "systemctl enable --now firewalld.service"
        # etcd.service starts it; one reload below serves both.
        yield "systemctl --no-reload enable etcd-firewall"
    if plan.spec.install.method is InstallMethod.ARCHIVE:
        yield f"sh -ac '. {ENV} && {LIBEXEC}/etcd-install'"
    # A package may have made the user already.
    yield f"getent passwd etcd >/dev/null || useradd -r -u {ETCD_UID} -d {HOME} -s /sbin/nologin etcd"
    yield from _key_permissions(plan.spec)
    yield f"mkdir -p {HOME} && chown etcd: {HOME} && chmod 0700 {HOME}"
    labelled = f"/etc/etcd {LIBEXEC} {HOME} {UNITS} {UDEV_RULES}"
    # SELinux stays enforcing; what was written before the policy's labels were known gets them now.
    yield f"if command -v restorecon >/dev/null; then restorecon -RF {labelled}; fi"
    yield "systemctl daemon-reload"
    yield "systemctl --no-reload enable etcd"
    yield "systemctl --no-reload enable report-boot"
    # From here on a power cut costs nothing: the unit is enabled, and its condition holds.
    yield f"{LIBEXEC}/first-boot-done"
    # Never wait here: a node that joins would hold cloud-init's final stage until the others are there.
    yield "systemctl start --no-block etcd"


def _key_permissions(spec: ClusterSpec) -> Iterator[str]:
    """Only root can enter the folder before this (bootcmd); each line lets in etcd and the readers at most."""
    keys = " ".join(f"{role}.key" for role in NODE_ROLES)
    if spec.pki.permissions is Permissions.OWNER:
        yield f"cd {PKI_DIR} && chown etcd: {keys} *.pem && chmod 0400 {keys} *.pem"
        yield f"chmod 0755 {PKI_DIR.parent} && chown root:root {PKI_DIR}"
    yield from access_commands(spec)
