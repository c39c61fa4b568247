"""KVM where it truly works, emulation elsewhere.

`/dev/kvm` proves little: under some nested hypervisors it opens and makes VMs, libvirt lists it, and a guest
dies at its first privileged instruction all the same. So the CPU must say it can, and a guest must survive.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from generator.errors import BakeError
from generator.progress import Report
from generator.vm.connection import Connection, Domain, is_local, libvirt, message_of
from generator.vm.domain_xml import Accel

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


def blames_kvm(error: Any, cluster: str) -> bool:
    """Whether a VM's start failed because of KVM. The cluster's name is part of paths, and says nothing."""
    return "kvm" in message_of(error).replace(cluster, "").lower()


def find_dead(
    domains: Iterable[Domain],
    *,
    seconds: float = _PROBATION_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Domain]:
    """Watch VMs that were just started, all at the same time; return those that stop within their first seconds."""
    alive, dead = list(domains), []
    end = clock() + seconds
    while alive and clock() < end:
        stopped = [domain for domain in alive if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING]
        dead += stopped
        alive = [domain for domain in alive if domain not in stopped]
        sleep(0.1)
    return dead
