"""`Engine`: the interface through which operations reach the machines of a cluster's nodes.

libvirt implements the interface with VMs (`generator.vm.engine`). `EngineOnHosts` implements it with the engines of
several hosts.
"""

from generator.engine.hosts import EngineOnHosts, OnHosts, connect_all
from generator.engine.protocol import Console, Engine, Hosts, MachineStatus, Owned, State

__all__ = ["Console", "Engine", "EngineOnHosts", "Hosts", "MachineStatus", "OnHosts", "Owned", "State", "connect_all"]
