"""Build Kubernetes objects that run the nodes as VMs of KubeVirt.

A Secret per node has the files of the node's seed. KubeVirt makes an ISO with the label `cidata` from it, so the node
reads the same files as from bake's ISO, and the bootstrap permit can be removed from the Secret.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from generator.artifact import Artifact
from generator.config import yaml12
from generator.config.fields import shown_value
from generator.errors import Problem
from generator.export.source import MIB, Source, check_files_fit, check_image, refuse
from generator.plan import DATA_DISK, NodePlan
from generator.seed.iso import ISO_LABEL

SECRETS, OBJECTS = PurePosixPath("secrets.yaml"), PurePosixPath("cluster.yaml")
MAX_SECRET = MIB  # bytes of a Secret's values (k8s.io/api/core/v1, MaxSecretSize)
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_NETWORK = re.compile(rf"({_LABEL}/)?{_LABEL}(\.{_LABEL})*")
_CLASS = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_SOURCES = {"https://": "http", "http://": "http", "docker://": "registry"}  # of a DataVolume, by the URL's scheme


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`network`: a NetworkAttachmentDefinition. `image`: a URL that CDI imports. `storage_class`: of all disks."""

    image: str | None = None
    network: str = ""
    namespace: str = "default"
    storage_class: str | None = None


def export(source: Source, settings: Settings) -> tuple[Artifact, ...]:
    """Return the Secrets in one file, and all other objects in another file. Raise InputError for invalid settings."""
    refuse(_problems(source, settings))
    secrets = [_secret(source, settings, node) for node in source.plan.nodes]
    objects = [_service(source, settings), _endpoints(source, settings), _budget(source, settings)]
    objects += [_vm(source, settings, node) for node in source.plan.nodes]
    comment = "# Private keys of the nodes: keep the mode 0600.\n"
    return (
        Artifact(SECRETS, comment.encode() + _dump(secrets), mode=0o600, secret=True),
        Artifact(OBJECTS, _dump(objects)),
    )


def _dump(objects: list[dict[str, Any]]) -> bytes:
    return "".join(f"---\n{yaml12.dump(one)}" for one in objects).encode()


def _problems(source: Source, settings: Settings) -> Iterator[Problem]:
    yield from check_image(source.plan, settings.image)
    image = settings.image or source.plan.spec.vm.image or "https://"
    if not image.startswith(tuple(_SOURCES)):
        rule = f"is not a URL that begins with {', '.join(_SOURCES)}"
        yield Problem("--image", f"{shown_value(image)} {rule}", "give a URL from which CDI can import the image")
    if not _NETWORK.fullmatch(settings.network):
        rule = "is not the name of a NetworkAttachmentDefinition, such as lan or kube-system/lan"
        hint = "give the network that gives the VMs their fixed addresses; list with `kubectl get net-attach-def -A`"
        yield Problem("--network", f"{shown_value(settings.network)} {rule}", hint)
    if not _NAMESPACE.fullmatch(settings.namespace):
        rule = "is not the name of a namespace: 1 to 63 of a-z, 0-9 and '-' (RFC 1123)"
        hint = "list the namespaces with `kubectl get namespaces`"
        yield Problem("--namespace", f"{shown_value(settings.namespace)} {rule}", hint)
    if settings.storage_class is not None and not _CLASS.fullmatch(settings.storage_class):
        rule = "is not the name of a StorageClass"
        hint = "list the classes with `kubectl get storageclass`"
        yield Problem("--storage-class", f"{shown_value(settings.storage_class)} {rule}", hint)
    if source.plan.name[0].isdigit():
        rule = f"{source.plan.name!r} begins with a digit, which the name of a Service must not (RFC 1035)"
        yield Problem("name", rule, "bake a cluster with another name")
    for node in source.plan.nodes:
        if len(node.domain) > 63:
            rule = f"{node.domain!r} has {len(node.domain)} characters; a VM's name has at most 63"
            yield Problem(f"nodes: {node.name}", rule, "use shorter names for the cluster or its nodes")
        size = sum(map(len, source.seeds[node.name].values()))
        if size > MAX_SECRET:
            rule = f"the seed has {size} bytes; a Secret has at most {MAX_SECRET} (Kubernetes, MaxSecretSize)"
            yield Problem(node.name, rule, "remove options from the cluster file, or use another target")
    yield from check_files_fit(source, "a Secret")


def _meta(source: Source, settings: Settings, name: str, **labels: str) -> dict[str, Any]:
    return {"name": name, "namespace": settings.namespace, "labels": _labels(source) | labels}


def _labels(source: Source) -> dict[str, str]:
    return {"app.kubernetes.io/name": "etcd", "app.kubernetes.io/instance": source.plan.name}


def _seed_name(node: NodePlan) -> str:
    return f"{node.domain}-seed"


def _secret(source: Source, settings: Settings, node: NodePlan) -> dict[str, Any]:
    files = source.seeds[node.name]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _meta(source, settings, _seed_name(node)),
        "type": "Opaque",
        "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
    }


def _ports(source: Source) -> Iterator[dict[str, Any]]:
    for name, port in (("client", source.plan.spec.etcd.client_port), ("peer", source.plan.spec.etcd.peer_port)):
        yield {"name": name, "port": port, "protocol": "TCP"}


def _service(source: Source, settings: Settings) -> dict[str, Any]:
    """Return a headless Service without a selector: the nodes' addresses are not the addresses of their pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(source, settings, source.plan.name),
        "spec": {"clusterIP": "None", "ports": list(_ports(source))},
    }


def _endpoints(source: Source, settings: Settings) -> dict[str, Any]:
    service = {"kubernetes.io/service-name": source.plan.name}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _meta(source, settings, source.plan.name, **service),
        "addressType": f"IPv{source.plan.network.subnet.version}",
        "endpoints": [{"addresses": [str(node.address)], "hostname": node.name} for node in source.plan.nodes],
        "ports": list(_ports(source)),
    }


def _budget(source: Source, settings: Settings) -> dict[str, Any]:
    """Return a budget that lets Kubernetes evict a VM only while the cluster keeps its quorum."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(source, settings, source.plan.name),
        "spec": {
            "maxUnavailable": 1 if len(source.plan.nodes) > 2 else 0,
            "selector": {"matchLabels": _labels(source)},
        },
    }


def _vm(source: Source, settings: Settings, node: NodePlan) -> dict[str, Any]:
    spec = source.plan.spec.vm
    disks = [{"name": "root", "disk": {"bus": "virtio"}, "bootOrder": 1}]
    volumes: list[dict[str, Any]] = [{"name": "root", "dataVolume": {"name": f"{node.domain}-root"}}]
    image = settings.image or spec.image or ""
    kind = next(kind for scheme, kind in _SOURCES.items() if image.startswith(scheme))
    templates = [_disk(settings, f"{node.domain}-root", spec.disk, {kind: {"url": image}})]
    if spec.data_disk:
        disks.append({"name": "data", "disk": {"bus": "virtio"}, "serial": DATA_DISK})
        volumes.append({"name": "data", "dataVolume": {"name": f"{node.domain}-data"}})
        templates.append(_disk(settings, f"{node.domain}-data", spec.data_disk, {"blank": {}}))
    disks.append({"name": "seed", "cdrom": {"bus": "sata", "readonly": True}})
    volumes.append({"name": "seed", "secret": {"secretName": _seed_name(node), "volumeLabel": ISO_LABEL}})
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": _meta(source, settings, node.domain),
        "spec": {
            "runStrategy": "Always",
            "dataVolumeTemplates": templates,
            "template": {
                "metadata": {"labels": _labels(source)},
                "spec": {
                    # With another strategy, KubeVirt makes a budget of its own, and a pod must not have two budgets.
                    "evictionStrategy": "None",
                    "terminationGracePeriodSeconds": 120,
                    "affinity": {"podAntiAffinity": _apart(source)},
                    "domain": {
                        "cpu": {"cores": spec.cpus},
                        "memory": {"guest": f"{spec.memory}Mi"},
                        "machine": {"type": "q35"},
                        "firmware": {"uuid": str(node.uuid), "bootloader": _bootloader(spec.firmware)},
                        "devices": {
                            "disks": disks,
                            "interfaces": [
                                {"name": "lan", "bridge": {}, "model": "virtio", "macAddress": node.mac}
                            ],
                            "rng": {},
                            "autoattachGraphicsDevice": False,
                        },
                    },
                    "networks": [{"name": "lan", "multus": {"networkName": settings.network}}],
                    "volumes": volumes,
                },
            },
        },
    }


def _bootloader(firmware: str) -> dict[str, Any]:
    return {"efi": {"secureBoot": False}} if firmware == "efi" else {"bios": {}}


def _apart(source: Source) -> dict[str, Any]:
    """Return the rule that no two nodes of the cluster run on one host."""
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": _labels(source)}}
    return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}


def _disk(settings: Settings, name: str, gib: int, origin: dict[str, Any]) -> dict[str, Any]:
    storage: dict[str, Any] = {"resources": {"requests": {"storage": f"{gib}Gi"}}}
    if settings.storage_class is not None:
        storage["storageClassName"] = settings.storage_class
    return {"metadata": {"name": name}, "spec": {"source": origin, "storage": storage}}
