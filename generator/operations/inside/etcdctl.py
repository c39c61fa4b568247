"""`bake etcdctl`: run etcdctl with the cluster's endpoints and the operator's certificate."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from generator.errors import BakeError
from generator.etcd.dial import forwarded
from generator.etcd.relay import relay
from generator.image.base import cached_images
from generator.operations.baked_cluster import Cluster, client_files
from generator.plan import NodePlan


def run_etcdctl(cluster: Cluster, words: Sequence[str], *, cache: Path, environment: Mapping[str, str]) -> int:
    """Run etcdctl and return its exit code. It uses the terminal's input and output.

    `cache`: the folder with images. `environment`: the variables of the process; a variable whose name begins with
    ETCDCTL_ has no effect, because etcdctl would use another cluster. Raise BakeError if there is no etcdctl.
    """
    program = find_etcdctl(cache, environment.get("PATH", os.defpath))
    with _endpoints(cluster) as endpoints:
        kept = {name: value for name, value in environment.items() if not name.startswith("ETCDCTL_")}
        return subprocess.run([program, *words], env={**kept, **_settings(cluster, endpoints)}, check=False).returncode


def find_etcdctl(cache: Path, path: str) -> Path:
    """Return etcdctl of the newest image in the cache, which the nodes run, else of this machine."""
    for image in cached_images(cache):
        if image.bin_dir and os.access(image.bin_dir / "etcdctl", os.X_OK):
            return image.bin_dir / "etcdctl"
    if found := shutil.which("etcdctl", path=path):
        return Path(found)
    text = "this machine has no etcdctl, and the cache has no base image, which contains it"
    raise BakeError(text, hint="build the base image: bake image; or install etcd-client")


def _settings(cluster: Cluster, endpoints: Sequence[str]) -> dict[str, str]:
    files = client_files(cluster.store.folder)
    return {
        "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(endpoints), "ETCDCTL_CACERT": str(files.ca),
        "ETCDCTL_CERT": str(files.cert), "ETCDCTL_KEY": str(files.key),
    }  # fmt: skip


@contextmanager
def _endpoints(cluster: Cluster) -> Iterator[list[str]]:
    """Yield a URL for each node: the node's own, or a local port that leads to the node through its host."""
    port = cluster.plan.spec.etcd.client_port

    def url(stack: ExitStack, node: NodePlan) -> str:
        if forwarded(str(node.address), port) is None:
            return node.client_url
        return "https://{}:{}".format(*stack.enter_context(relay(str(node.address), port)))

    with ExitStack() as stack:
        yield [url(stack, node) for node in cluster.plan.nodes]
