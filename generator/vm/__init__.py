"""Manage a cluster's VMs, seed drives and serial consoles under libvirt. Call `connect` before any other function."""

from generator.engine import State
from generator.vm.boot import boot
from generator.vm.connection import connect
from generator.vm.console import ConsoleLog, attach_console, console_logs, follow_console
from generator.vm.engine import LibvirtEngine
from generator.vm.lifecycle import Owned, VmStatus, destroy, down, list_owned, status
from generator.vm.seed_drive import remove_seed, replace_seed

__all__ = [
    "ConsoleLog",
    "LibvirtEngine",
    "Owned",
    "State",
    "VmStatus",
    "attach_console",
    "boot",
    "connect",
    "console_logs",
    "destroy",
    "down",
    "follow_console",
    "list_owned",
    "remove_seed",
    "replace_seed",
    "status",
]
