"""KVM where it truly works, emulation elsewhere.

`/dev/kvm` proves little: under some nested hypervisors it opens and makes VMs, libvirt lists it, and a guest
dies at its first privileged instruction all the same. So the CPU must say it can, and a guest must survive.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from generator.domain import Accel
from generator.errors import BakeError
from generator.host.hypervisor.connection import Connection, Domain, is_local, libvirt, message_of

Report = Callable[[str], None]

_CPUINFO = Path("/proc/cpuinfo")
_VIRTUALISES = re.compile(r"^flags\s*:.*\b(vmx|svm)\b", re.MULTILINE)
_PROBATION_SECONDS = 5.0


def choose_accel(connection: Connection, wish: str, report: Report, cpuinfo: Path = _CPUINFO) -> Accel:
    """What `--accel` (auto, kvm or tcg) means on this libvirt."""
    if wish == "tcg":
        return Accel.TCG
    reason = _why_no_kvm(connection, cpuinfo)
    if reason is None:
        return Accel.KVM
    if wish == "kvm":
        raise BakeError(f"KVM does not work here: {reason}", hint="--accel auto emulates instead (slower)")
    report(f"emulating, which is slow: {reason}")
    return Accel.TCG


def _why_no_kvm(connection: Connection, cpuinfo: Path) -> str | None:
    try:
        connection.getDomainCapabilities(None, "x86_64", "q35", "kvm")
    except libvirt.libvirtError as error:
        return message_of(error)
    if is_local(connection) and not _VIRTUALISES.search(cpuinfo.read_text()):
        return "/dev/kvm is there, but the CPU has neither vmx nor svm"
    return None


def lives(domain: Domain, *, seconds: float = _PROBATION_SECONDS) -> bool:
    """Whether a VM that was just started is still running after its first seconds."""
    end = time.monotonic() + seconds
    while domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
        if time.monotonic() >= end:
            return True
        time.sleep(0.1)
    return False
