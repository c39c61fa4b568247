"""The commands that cloud-init runs on a node's first boot, in the order of the manual procedure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from generator.config.pki import Permissions
from generator.config.spec import ClusterSpec, FirewallKind, InstallMethod
from generator.pki import NODE_ROLES
from generator.plan import ETCD_UID, ClusterPlan
from generator.seed.guest_files import key_access_commands
from generator.seed.guest_paths import DATA_MOUNT, ENV, LIBEXEC, PKI_DIR, ROOT_SHELL, UDEV_RULES, UNITS
from generator.seed.templates import guest_source

HOME = PurePosixPath("/var/lib/etcd")


def boot_commands() -> list[str]:
    """Return the commands of cloud-init's module `bootcmd`, which runs on every boot before cloud-init writes files."""
    return [guest_source(PurePosixPath("/bootcmd")).decode()]


def first_boot_commands(plan: ClusterPlan) -> Iterator[str]:
    """Yield the shell commands of cloud-init's module `runcmd`.

    Each command is safe to run twice. If a command fails, the next commands do not run.
    """
    yield "set -e"
    # etcd.service starts the copy of the journal. If the first boot fails before, the journal says why.
    yield "trap '[ $? = 0 ] || systemctl --no-block start journal-copy' EXIT"
    if plan.spec.access.root_shell:
        # If a later command fails, a person can look for the reason.
        yield f"systemctl --no-reload enable {ROOT_SHELL} && systemctl --no-block start {ROOT_SHELL} || true"
    if plan.spec.firewall.kind is FirewallKind.FIREWALLD:
        # etcd-firewall needs a running firewalld. If cloud-init has just installed firewalld, nothing has started it.
        yield "systemctl enable --now firewalld.service"
    if plan.spec.install.method is InstallMethod.ARCHIVE:
        yield f"sh -ac '. {ENV} && {LIBEXEC}/etcd-install'"
    # If etcd comes from a package, the package may have created the user etcd.
    yield f"getent passwd etcd >/dev/null || useradd -r -u {ETCD_UID} -d {HOME} -s /sbin/nologin etcd"
    yield from _key_permissions(plan.spec)
    yield from _data_and_units(plan)
    # Do not start etcd-firewall here, because etcd.service starts etcd-firewall later.
    firewall = "etcd-firewall " if plan.spec.firewall.kind is not FirewallKind.NONE else ""
    yield f"systemctl --no-reload enable {firewall}etcd report-boot"
    # A power cut after `first-boot-done` is harmless: at the next boot, systemd starts etcd.service.
    yield f"{LIBEXEC}/first-boot-done"
    # Do not wait until etcd runs: etcd waits for the other nodes, so cloud-init would not finish.
    yield "systemctl start --no-block etcd"


def _data_and_units(plan: ClusterPlan) -> Iterator[str]:
    """Yield commands that make etcd's data directory and load the units.

    The mount of a data disk is one of the units. If the mount fails, the first boot fails, and etcd does not start. A
    data disk that comes from an earlier root disk may have files of another user id. `chown -R` follows no links.
    """
    # SELinux denies access to files with wrong labels, and denies systemd to read units with wrong labels. cloud-init
    # writes files before it installs packages. If a package extends SELinux's policy, files that cloud-init wrote can
    # have wrong labels.
    units = (_restore_labels(f"/etc/etcd {LIBEXEC} {UNITS} {UDEV_RULES}"), "systemctl daemon-reload")
    everything = "-R " if plan.spec.vm.data_disk else ""
    data = f"mkdir -p {HOME} && chown {everything}etcd: {HOME} && chmod 0700 {HOME}"
    if plan.mounts_data_disk:
        yield from (*units, f"systemctl start {DATA_MOUNT}", data)
    else:
        yield from (data, *units)
    yield _restore_labels(HOME)


def _restore_labels(paths: object) -> str:
    return f"if command -v restorecon >/dev/null; then restorecon -RF {paths}; fi"


def _key_permissions(spec: ClusterSpec) -> Iterator[str]:
    """Yield commands that give etcd access to its keys.

    The accounts in access.readers are not in these commands, so that a change of them needs no reboot.
    etcd-access.service gives these accounts access before each start of etcd.
    """
    keys = " ".join(f"{role}.key" for role in NODE_ROLES)
    if spec.pki.permissions is Permissions.OWNER:
        yield f"cd {PKI_DIR} && chown etcd: {keys} *.pem && chmod 0400 {keys} *.pem"
        yield f"chmod 0755 {PKI_DIR.parent} && chown root:root {PKI_DIR}"
    yield from key_access_commands(spec)
