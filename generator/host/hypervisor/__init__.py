"""VMs under libvirt: `connect`, then `boot`, `status`, `down`, `destroy`, and what their consoles say."""

from generator.host.hypervisor.boot import boot
from generator.host.hypervisor.connection import connect
from generator.host.hypervisor.lifecycle import NodeStatus, State, destroy, down, status

__all__ = ["NodeStatus", "State", "boot", "connect", "destroy", "down", "status"]
