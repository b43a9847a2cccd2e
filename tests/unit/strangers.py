"""Strangers who have got the number of an ended process: the next pid is chosen, until nobody else was quicker."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kinfolk.processes.process import Process
from tests.conformance.peers import state, until

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@contextlib.contextmanager
def strangers_group(start: Callable[[], Process]) -> Iterator[tuple[Process, int]]:
    """A process that has ended, and one in a group and session of the same number, whose leader has ended too."""
    if os.geteuid() != 0 or not os.access(_LAST_PID, os.W_OK):
        pytest.skip("needs CAP_CHECKPOINT_RESTORE to choose the next pid (ns_last_pid)")
    for _ in range(50):
        process = start()
        process.wait()
        until(lambda pid=process.pid: state(pid) == "X", "it is reaped")  # type: ignore[misc]
        _LAST_PID.write_text(str(process.pid - 1))
        if (stranger := _orphan(process.pid)) is not None:
            try:
                yield process, stranger
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stranger, signal.SIGKILL)
                until(lambda: state(stranger) in "XZ", "the stranger has ended")
            return
    pytest.skip("other processes took the number each time")


def _orphan(number: int) -> int | None:
    """One in the session of a child that had this number; None when that has got another one."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        if os.getpid() == number:
            os.setsid()
            if os.fork() == 0:
                os.write(writer, str(os.getpid()).encode())
                os.execvp("sleep", ["sleep", "1000"])
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader) as file:  # to its end: it has become the program, which inherits nothing
        said = file.read()
    return int(said) if said else None
