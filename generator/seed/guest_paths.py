"""Absolute paths of files and folders in the guest."""

from __future__ import annotations

from pathlib import PurePosixPath

PKI_DIR = PurePosixPath("/etc/etcd/pki")
CONF = PurePosixPath("/etc/etcd/etcd.conf")
ENV = PurePosixPath("/etc/etcd/bake.env")
AUTH = PurePosixPath("/etc/etcd/auth.json")
SSH_KEYS = PurePosixPath("/etc/etcd/ssh/authorized_keys")
SSHD_CONF = PurePosixPath("/etc/ssh/sshd_config.d/50-bake.conf")
# SELinux's policy labels files in /usr/libexec as executable, but not files in /usr/local/libexec.
LIBEXEC = PurePosixPath("/usr/libexec/bake")
UNITS = PurePosixPath("/etc/systemd/system")
UDEV_RULES = PurePosixPath("/etc/udev/rules.d")
RUNTIME_PERMIT = PurePosixPath("/run/bake/bootstrap-permit")  # /run is in memory, not on the node's disk
DATA_MOUNT = "var-lib-etcd.mount"  # the unit that mounts the data disk at /var/lib/etcd
ROOT_SHELL = "root-shell.service"
RESTART = PurePosixPath("/run/bake/restart-etcd")
# The first node's copy of the snapshot that it restores. A snapshot can be too large for a file system in memory.
SNAPSHOT = PurePosixPath("/var/lib/bake/snapshot.db")
SNAPSHOT_RECORD = PurePosixPath("/var/lib/bake/snapshot.json")
