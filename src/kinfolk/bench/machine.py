"""On what it was measured: the figures of two machines, or of two moods of one, have little to do
with each other.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

import kinfolk as kin

#: A hypervisor that does not say which.
_UNNAMED = "unnamed"


class Machine(msgspec.Struct, frozen=True):
    """The machine, and what runs on it. Nothing that names it, or its user."""

    cpu: str
    cpus: int
    cores: int
    memory_bytes: int
    kernel: str
    architecture: str
    libc: str
    python: str
    kinfolk: str
    #: xen …; "unnamed" where only the CPU says that there is one; empty where nothing does
    hypervisor: str = ""
    #: how the clock of the CPUs is governed, where the kernel shows it
    governor: str = ""
    page_bytes: int = 4096
    #: when a page of memory is a large one
    huge_pages: str = ""

    @property
    def sentence(self) -> str:
        """All of it for people."""
        gibibytes = self.memory_bytes / 2**30
        named = f" ({self.hypervisor})" if self.hypervisor not in ("", _UNNAMED) else ""
        where = f", in a virtual machine{named}" if self.hypervisor else ""
        cores = f" on {self.cores} cores" if self.cores != self.cpus else ""
        return (
            f"{self.cpu}, {self.cpus} CPUs{cores}, {gibibytes:.0f} GiB{where}; "
            f"Linux {self.kernel}, {self.libc}, CPython {self.python}, kinfolk {self.kinfolk}"
        )


def describe() -> Machine:
    """This machine, as far as /proc and /sys show it."""
    cpuinfo = _read("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in cpuinfo.splitlines()
        if line.startswith("model name")
    ]
    allowed = sorted(os.sched_getaffinity(0))
    page = os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=models[0] if models else platform.machine(),
        cpus=len(allowed),
        cores=len({core_of(cpu) for cpu in allowed}),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * page,
        kernel=platform.release().partition("-")[0],
        architecture=platform.machine(),
        libc=" ".join(platform.libc_ver()),
        python=platform.python_version(),
        kinfolk=kin.__version__,
        hypervisor=_hypervisor(cpuinfo),
        governor=_read(f"/sys/devices/system/cpu/cpu{allowed[0]}/cpufreq/scaling_governor").strip(),
        page_bytes=page,
        huge_pages=_chosen(_read("/sys/kernel/mm/transparent_hugepage/enabled")),
    )


def core_of(cpu: int) -> tuple[str, str]:
    """Package and core of a CPU: two with the same are two threads of one core."""
    topology = f"/sys/devices/system/cpu/cpu{cpu}/topology"
    core = _read(f"{topology}/core_id").strip()
    return _read(f"{topology}/physical_package_id").strip(), core or str(cpu)


def _hypervisor(cpuinfo: str) -> str:
    named = _read("/sys/hypervisor/type").strip()
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return named or (_UNNAMED if " hypervisor" in flags else "")


def _chosen(text: str) -> str:
    """The word in brackets."""
    return text.partition("[")[2].partition("]")[0]


def _read(path: str) -> str:
    """The text of a file of the kernel's; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


class Clocks(NamedTuple):
    """CPU seconds of this process and its children that ended, those of the whole machine, and the
    time.
    """

    own: float
    busy: float
    elapsed: float

    @classmethod
    def now(cls) -> Clocks:
        """Read them."""
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        usages = [resource.getrusage(kind) for kind in kinds]
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        fields = _read("/proc/stat").split(maxsplit=9)[1:9]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
        ticks = user + nice + system + irq + softirq + steal
        return cls(own, ticks / os.sysconf("SC_CLK_TCK"), time.monotonic())


def used_by_others(since: Clocks, own_children: float = 0.0) -> float:
    """The share of all CPUs that others used since then; ``own_children`` are CPU seconds of ours
    that `Clocks` did not see.
    """
    now = Clocks.now()
    elapsed = (now.elapsed - since.elapsed) * (os.cpu_count() or 1)
    used = (now.busy - since.busy) - (now.own - since.own) - own_children
    return round(max(0.0, used / elapsed), 3) if elapsed > 0 else 0.0
