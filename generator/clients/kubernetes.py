"""The configuration of a kube-apiserver, and of kubeadm with an external etcd.

The kube-apiserver asks etcd to delete old revisions (a compaction). With authentication, newer versions of etcd permit
compactions only to the role root (seen with 3.5.30; 3.5.16 permits them to each user). So with authentication, etcd
compacts automatically (the option auto-compaction-retention), and the kube-apiserver does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generator.clients.application import CA, CERTIFICATE, KEY, Application, Configuration, text_file
from generator.config import yaml12

FOLDER = "/etc/kubernetes/pki/etcd"


_NO_COMPACTION = "etcd-compaction-interval"


def configuration(app: Application) -> Configuration:
    """Return the flags of the kube-apiserver, and a ClusterConfiguration of kubeadm."""
    files = {"caFile": CA, "certFile": CERTIFICATE, "keyFile": KEY}
    external = {"endpoints": app.endpoints, **{name: app.path(file) for name, file in files.items()}}
    kubeadm: dict[str, Any] = {
        "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "etcd": {"external": external},
    }  # fmt: skip
    flags = {
        "etcd-servers": ",".join(app.endpoints), "etcd-cafile": app.path(CA), "etcd-certfile": app.path(CERTIFICATE),
        "etcd-keyfile": app.path(KEY),
    }  # fmt: skip
    compaction: tuple[str, ...] = ()
    if app.auth:
        flags[_NO_COMPACTION] = "0"
        kubeadm["apiServer"] = {"extraArgs": [{"name": _NO_COMPACTION, "value": "0"}]}
        if not compacts(app.plan.spec.etcd.options):
            compaction = (
                "let etcd delete old revisions, which the kube-apiserver may not do: set the etcd options "
                "auto-compaction-mode and auto-compaction-retention in the cluster file",
            )
    return Configuration(
        shown=(
            text_file("kube-apiserver.flags", "".join(f"--{name}={value}\n" for name, value in flags.items())),
            text_file("kubeadm.yaml", yaml12.dump(kubeadm)),
        ),
        steps=(
            *compaction,
            f"copy {CA}, {CERTIFICATE} and {KEY} to {app.folder} on each machine with a kube-apiserver",
            "add the flags to the kube-apiserver, or run kubeadm init --config kubeadm.yaml",
        ),
    )


def compacts(options: Mapping[str, Any]) -> bool:
    """Return whether etcd deletes old revisions automatically. `options`: the field `etcd.options`."""
    return str(options.get("auto-compaction-retention", "0")) not in ("0", "0s", "0m", "0h")
