"""The configuration of a kube-apiserver, and of kubeadm with an external etcd."""

from __future__ import annotations

from generator.clients.application import CA, CERTIFICATE, KEY, Application, Configuration, text_file
from generator.config import yaml12

FOLDER = "/etc/kubernetes/pki/etcd"


def configuration(app: Application) -> Configuration:
    """Return the flags of the kube-apiserver, and a ClusterConfiguration of kubeadm."""
    files = {"caFile": CA, "certFile": CERTIFICATE, "keyFile": KEY}
    external = {"endpoints": app.endpoints, **{name: app.path(file) for name, file in files.items()}}
    kubeadm = {
        "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "etcd": {"external": external},
    }  # fmt: skip
    flags = {
        "servers": ",".join(app.endpoints), "cafile": app.path(CA), "certfile": app.path(CERTIFICATE),
        "keyfile": app.path(KEY),
    }  # fmt: skip
    return Configuration(
        shown=(
            text_file("kube-apiserver.flags", "".join(f"--etcd-{name}={value}\n" for name, value in flags.items())),
            text_file("kubeadm.yaml", yaml12.dump(kubeadm)),
        ),
        steps=(
            f"copy {CA}, {CERTIFICATE} and {KEY} to {app.folder} on each machine with a kube-apiserver",
            "add the flags to the kube-apiserver, or run kubeadm init --config kubeadm.yaml",
        ),
    )
