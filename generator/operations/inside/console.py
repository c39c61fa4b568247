"""`bake console`: connect the terminal to a node's serial console, or follow the console's log."""

from __future__ import annotations

import time
from collections.abc import Iterator

from generator.engine import Engine, MachineStatus, State
from generator.errors import BakeError

_POLL_SECONDS = 0.25


def attach(engine: Engine, node: str, *, up: str = "bake up") -> None:
    """Connect the terminal to a node's console. Return when the user types Ctrl-] or the VM stops."""
    _running(engine, node, up)
    engine.attach(node)


def printed(engine: Engine, node: str, *, up: str = "bake up") -> Iterator[bytes]:
    """Yield what the console has printed until now."""
    _running(engine, node, up)
    log = engine.console_logs(node)[node]
    while data := log.read():
        yield data


def follow(engine: Engine, node: str, *, up: str = "bake up") -> Iterator[bytes]:
    """Yield the console's output from the start of the log until the VM stops."""
    _running(engine, node, up)
    log, runs = engine.console_logs(node)[node], True
    while True:
        data = log.read()
        if data:
            yield data
        elif not runs:
            return
        elif runs := _runs(engine.machines().get(node)):
            time.sleep(_POLL_SECONDS)


def _running(engine: Engine, node: str, up: str) -> None:
    """Raise BakeError if the cluster has no VM of the node, or if the VM does not run. `up`: starts the VMs."""
    known = {name: one for name, one in engine.machines().items() if one.planned and one.state is not State.MISSING}
    if node not in known:
        hint = f"the nodes with a VM are {', '.join(known)}" if known else f"create the VMs: {up}"
        raise BakeError(f"{node} has no VM", hint=hint)
    if known[node].state is State.FOREIGN:
        raise BakeError(f"the VM with the name of {node} does not belong to this cluster")
    if not _runs(known[node]):
        raise BakeError(f"the VM of {node} is not running", hint=f"start the VM: {up}")


def _runs(machine: MachineStatus | None) -> bool:
    return machine is not None and machine.state in (State.RUNNING, State.PAUSED)
