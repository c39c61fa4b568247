"""Manage a cluster's VMs, seed drives and serial consoles under libvirt. Call `connect` before any other function."""

from generator.vm.connection import connect
from generator.vm.engine import LibvirtEngine
from generator.vm.lifecycle import LibvirtHosts

__all__ = ["LibvirtEngine", "LibvirtHosts", "connect"]
