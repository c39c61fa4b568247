"""VMs under libvirt: `connect`, then `boot`, `status`, `down`, `destroy`, and what their consoles say."""

from generator.host.hypervisor.boot import boot
from generator.host.hypervisor.connection import connect
from generator.host.hypervisor.firewall import Refusal, find_refusal
from generator.host.hypervisor.lifecycle import NodeStatus, Owned, State, destroy, down, list_owned, status
from generator.host.hypervisor.medium import insert_seed, remove_seed, replace_seed
from generator.host.hypervisor.terminal import ConsoleLog, attach_console, console_logs, follow_console

__all__ = [
    "ConsoleLog",
    "NodeStatus",
    "Owned",
    "Refusal",
    "State",
    "attach_console",
    "boot",
    "connect",
    "console_logs",
    "destroy",
    "down",
    "find_refusal",
    "follow_console",
    "insert_seed",
    "list_owned",
    "remove_seed",
    "replace_seed",
    "status",
]
