"""Build libvirt's XML for a cluster's pool and volumes, without calling libvirt."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from generator.vm.domain_xml import child, pool_name, pool_uuid, to_text


def pool_xml(cluster: str, folder: str) -> str:
    """Return a pool's XML. In a folder with the mode 0711, QEMU's user can open volumes, but not list them."""
    root = Element("pool", type="dir")
    child(root, "name", pool_name(cluster))
    child(root, "uuid", pool_uuid(cluster))
    target = child(root, "target")
    child(target, "path", folder)
    child(child(target, "permissions"), "mode", "0711")
    return to_text(root)


def volume_xml(name: str, size: int) -> str:
    """Return the XML of a volume for an upload of `size` bytes. libvirt detects the format after the upload."""
    return to_text(_volume(name, size, "raw"))


def overlay_xml(name: str, size: int, base: str, base_format: str) -> str:
    """Return the XML of a node's disk, a qcow2 overlay over the base image.

    The XML names the format of the base image, because QEMU must not guess the format.
    """
    root = _volume(name, size, "qcow2")
    backing = child(root, "backingStore")
    child(backing, "path", base)
    child(backing, "format", type=base_format)
    return to_text(root)


def data_xml(name: str, size: int) -> str:
    """Return the XML of a node's data disk, an empty qcow2 volume."""
    return to_text(_volume(name, size, "qcow2"))


def _volume(name: str, size: int, kind: str) -> Element:
    root = Element("volume", type="file")
    child(root, "name", name)
    child(root, "capacity", size, unit="bytes")
    child(root, "allocation", 0, unit="bytes")
    target = child(root, "target")
    child(target, "format", type=kind)
    child(child(target, "permissions"), "mode", "0600")  # seeds contain private keys, and disks contain etcd's data
    return root
