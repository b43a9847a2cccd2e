"""How much of the kernel's time goes into copying, by perf(1): samples of the CPU clock, by the
routine that was running.

    python -m kinfolk.bench.claims.sampled LOAD        moves TOTAL bytes; run under perf record

Rules:
1. Only where perf is there, and may look at the kernel; a virtual machine without counters has the
   clock all the same.
2. A routine copies if its name says so (where the CPU copies by one instruction, it stands in the
   routine around it: _copy_to_iter, load_msg). Time that a load spends in those, by byte, is set
   against the same time of pwrite(2) and pread(2), which copy each byte once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile

import posix_ipc
import sysv_ipc

#: Bytes that a load moves, in messages of so many.
TOTAL, _MESSAGE = 800_000_000, 8000

_COPIES = re.compile(r"copy|rep_movs|memcpy|__memmove|load_msg|store_msg")
_LINE = re.compile(r"^\s*([\d.]+)%\s+\[k\]\s+(\S+)")
_EVENTS = re.compile(r"Event count \(approx\.\): (\d+)")

#: Seconds.
_PATIENCE = 30


def copying_time(load: str) -> float | None:
    """Nanoseconds in routines that copy, for each byte of a load; None where perf can't say."""
    perf = shutil.which("perf")
    if perf is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kfb") as directory:
        file = os.path.join(directory, "perf.data")
        words = [sys.executable, "-P", "-m", "kinfolk.bench.claims.sampled", load]
        record = [perf, "record", "-q", "-o", file, "-e", "cpu-clock:k", "-F", "4000", "--", *words]
        report = [perf, "report", "-i", file, "--stdio", "--no-children", "-F", "overhead,sym"]
        try:
            subprocess.run(record, check=True, capture_output=True, timeout=_PATIENCE)
            told = subprocess.run(
                report, check=True, capture_output=True, timeout=_PATIENCE, text=True
            ).stdout
        except (subprocess.SubprocessError, OSError):
            return None
    return time_in_copies(told)


def time_in_copies(report: str) -> float | None:
    """The same, of what perf report says."""
    events = _EVENTS.search(report)
    lines = [found for line in report.splitlines() if (found := _LINE.match(line))]
    if events is None or not lines:
        return None
    share = sum(float(found[1]) for found in lines if _COPIES.search(found[2])) / 100
    return share * int(events[1]) / TOTAL or None


def _move(load: str) -> None:
    data = bytes(_MESSAGE)
    match load:
        case "POSIX":
            name = f"/kfb{os.getpid():x}"
            posix = posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_message_size=8192)
            posix.unlink()
            for _ in range(TOTAL // _MESSAGE):
                posix.send(data)
                posix.receive()
        case "System V":
            sysv = sysv_ipc.MessageQueue(None, sysv_ipc.IPC_CREX, max_message_size=8192)
            try:
                for _ in range(TOTAL // _MESSAGE):
                    sysv.send(data)
                    sysv.receive()
            finally:
                sysv.remove()
        case _:  # each byte is copied once: half of them in, half of them out
            fd, room = os.memfd_create("kinfolk-copy"), [bytearray(_MESSAGE)]
            for _ in range(TOTAL // _MESSAGE // 2):
                os.pwrite(fd, data, 0)
                os.preadv(fd, room, 0)


if __name__ == "__main__":
    _move(sys.argv[1])
