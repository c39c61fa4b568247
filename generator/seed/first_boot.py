"""The commands that cloud-init runs on a node's first boot, in the order of the manual procedure."""

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
    """Return `bootcmd`, the commands that cloud-init runs on every boot before it writes files."""
    return [guest_source(PurePosixPath("/bootcmd")).decode()]


def first_boot_commands(plan: ClusterPlan) -> Iterator[str]:
    """Yield `runcmd`, one shell line per step. Each line can run twice. After a failed line, no other runs."""
    yield "set -e"
    if plan.spec.firewall.kind is not FirewallKind.NONE:
        if plan.spec.firewall.kind is FirewallKind.FIREWALLD:
            # A new firewalld is not running yet, but rules need a running firewalld.
            yield "systemctl enable --now firewalld.service"
        # etcd.service starts etcd-firewall. The daemon-reload below makes systemd read both units.
        yield "systemctl --no-reload enable etcd-firewall"
    if plan.spec.install.method is InstallMethod.ARCHIVE:
        yield f"sh -ac '. {ENV} && {LIBEXEC}/etcd-install'"
    # A package may have created the user etcd already.
    yield f"getent passwd etcd >/dev/null || useradd -r -u {ETCD_UID} -d {HOME} -s /sbin/nologin etcd"
    yield from _key_permissions(plan.spec)
    yield f"mkdir -p {HOME} && chown etcd: {HOME} && chmod 0700 {HOME}"
    labelled = f"/etc/etcd {LIBEXEC} {HOME} {UNITS} {UDEV_RULES}"
    # SELinux stays enforcing, so files that were written before the policy was complete need labels.
    yield f"if command -v restorecon >/dev/null; then restorecon -RF {labelled}; fi"
    yield "systemctl daemon-reload"
    yield "systemctl --no-reload enable etcd"
    yield "systemctl --no-reload enable report-boot"
    # After this line, a power cut is harmless, because systemd starts etcd.service at the next boot.
    yield f"{LIBEXEC}/first-boot-done"
    # Do not wait for etcd, because cloud-init's final stage would then wait for the other nodes.
    yield "systemctl start --no-block etcd"


def _key_permissions(spec: ClusterSpec) -> Iterator[str]:
    """Yield commands that give etcd and access.readers access to the keys' folder, which bootcmd has closed."""
    keys = " ".join(f"{role}.key" for role in NODE_ROLES)
    if spec.pki.permissions is Permissions.OWNER:
        yield f"cd {PKI_DIR} && chown etcd: {keys} *.pem && chmod 0400 {keys} *.pem"
        yield f"chmod 0755 {PKI_DIR.parent} && chown root:root {PKI_DIR}"
    yield from access_commands(spec)
