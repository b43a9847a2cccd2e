"""What a process has used between two moments: time, CPU of all its threads, context switches, page
faults, memory.
"""

from __future__ import annotations

import resource
import time

import msgspec


class Usage(msgspec.Struct):
    """Of one process, in one phase."""

    #: CLOCK_MONOTONIC in ns, which all processes share
    begin: int
    end: int
    cpu: int
    switches: int
    faults: int
    #: messages that it sent, took, or had answered
    messages: int = 0
    #: round trips in ns, as 64-bit numbers
    samples: bytes = b""


class Meter:
    """Started before the loop, stopped after it; costs some microseconds, outside of the loop."""

    def __init__(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._switches = usage.ru_nvcsw + usage.ru_nivcsw
        self._faults = usage.ru_minflt + usage.ru_majflt
        self._cpu = time.process_time_ns()
        self._begin = time.monotonic_ns()

    def stop(self, messages: int, samples: bytes = b"", end: int | None = None) -> Usage:
        """What was used; ``end`` when it was over earlier than now."""
        end = time.monotonic_ns() if end is None else end
        cpu = time.process_time_ns() - self._cpu
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Usage(
            begin=self._begin,
            end=end,
            cpu=cpu,
            switches=usage.ru_nvcsw + usage.ru_nivcsw - self._switches,
            faults=usage.ru_minflt + usage.ru_majflt - self._faults,
            messages=messages,
            samples=samples,
        )


def resident_bytes() -> int:
    """Memory of this process, each page shared with others counted by its share; 0 where the kernel
    does not say.
    """
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
