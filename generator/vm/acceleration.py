"""Choose KVM if KVM works, else emulation.

The existence of `/dev/kvm` does not prove that KVM works. Under some nested hypervisors, KVM starts VMs, but a guest
crashes at its first privileged instruction, or up to half a minute later while its kernel unpacks itself. bake checks
three things: libvirt offers KVM, the CPU has the flag vmx or svm, and a new VM runs until its console has output.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from generator.errors import BakeError
from generator.image.build import MACHINE
from generator.progress import Report
from generator.vm.connection import Connection, Domain, is_local, libvirt, message_of
from generator.vm.domain_xml import Accel

_CPUINFO = Path("/proc/cpuinfo")
_VIRTUALISES = re.compile(r"^flags\s*:.*\b(vmx|svm)\b", re.MULTILINE)
_WATCH_SECONDS = 5.0
_SILENT_SECONDS = 120.0


def choose_accel(connection: Connection, wish: str, report: Report, cpuinfo: Path = _CPUINFO) -> Accel:
    """Return the acceleration for `wish`, the value of `--accel`.

    Raise BakeError if `wish` is `kvm` and KVM does not work.
    """
    if wish == "tcg":
        return Accel.TCG
    reason = _why_no_kvm(connection, cpuinfo)
    if reason is None:
        return Accel.KVM
    if wish == "kvm":
        raise BakeError(f"KVM does not work here: {reason}", hint="use emulation, which is slower: --accel auto")
    report(f"emulating, which is slow: {reason}")
    return Accel.TCG


def _why_no_kvm(connection: Connection, cpuinfo: Path) -> str | None:
    try:
        connection.getDomainCapabilities(None, MACHINE, "q35", "kvm")
    except libvirt.libvirtError as error:
        return message_of(error)
    if is_local(connection) and not _VIRTUALISES.search(cpuinfo.read_text()):
        return "/dev/kvm exists, but the CPU has neither vmx nor svm"
    return None


def is_kvm_error(error: Any, cluster: str) -> bool:
    """Return whether libvirt's message mentions KVM. Ignore the cluster's name, which may contain `kvm`."""
    return "kvm" in message_of(error).replace(cluster, "").lower()


def has_stopped(error: Any) -> bool:
    """Return whether libvirt cannot resume a VM because KVM failed while it ran. The text is QEMU's."""
    return "Resetting the Virtual Machine is required" in message_of(error)


def find_crashed(
    domains: Iterable[Domain],
    has_output: Callable[[Domain], bool],
    report: Report,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Domain]:
    """Watch VMs that were just started. Return the VMs that stop.

    The function watches a VM for at least 5 seconds, and then until its console has output or 120 seconds have passed.
    `has_output`: returns whether a VM's console has output.
    """
    watched, crashed, is_reported = list(domains), [], False
    start = clock()
    while watched and clock() - start < _SILENT_SECONDS:
        stopped = [domain for domain in watched if domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING]
        crashed += stopped
        watched = [domain for domain in watched if domain not in stopped]
        if clock() - start >= _WATCH_SECONDS:
            watched = [domain for domain in watched if not has_output(domain)]
            if watched and not is_reported:
                names = ", ".join(domain.name() for domain in watched)
                report(f"waiting up to {_SILENT_SECONDS:.0f} s for console output, which shows that KVM works: {names}")
                is_reported = True
        sleep(0.1)
    return crashed
