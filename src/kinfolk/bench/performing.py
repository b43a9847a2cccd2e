"""One turn of a case: a fresh process, what it reports, and what becomes of one that does not.

Rules:
1. A stage leads a session of its own: Ctrl-C on the terminal is for `kin bench` alone, and a kill
   of its process group reaches its participants. What even that misses, the keeper of `kin.spawn`
   ends when `kin bench` does.
2. One that has said nothing for ``timeout`` seconds beyond the longest time that it may take is cut
   off; its failure says in which call of the kernel each of its processes slept.
3. Files of a run lie in one directory, which is removed with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

import kinfolk as kin
from kinfolk.bench.cases import LONGER, Case, Failure, Order, Outcome
from kinfolk.bench.placement import Placement

#: The program; a test has others.
STAGE = (sys.executable, "-P", "-m", "kinfolk.bench.stage")

_numbers = itertools.count()


class Stages:
    """Performs cases, each in a process of its own; a context manager."""

    def __init__(
        self,
        *,
        seconds: float,
        timeout: float,
        placement: Placement,
        program: Sequence[str] = STAGE,
    ) -> None:
        """``seconds`` of messages for each case, ``timeout`` until a silent one is cut off."""
        self._seconds, self._timeout = seconds, timeout
        self._placement, self._program = placement, tuple(program)

    def __enter__(self) -> Self:
        # Short: names of sockets have 108 bytes.
        self._directory = tempfile.TemporaryDirectory(prefix="kfb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._directory.cleanup()

    def perform(self, case: Case, count: int | None) -> Outcome:
        """Measure once. What goes wrong in there is an outcome, never an exception."""
        name = f"kfb{os.getpid():x}-{next(_numbers)}"
        order = Order(case, self._seconds, count, self._placement, self._directory.name, name)
        words = [*self._program, msgspec.json.encode(order).decode()]
        report = reported(words, self._directory.name, self._timeout + 2 * LONGER * self._seconds)
        if isinstance(report, Failure):
            return Outcome(failure=report)
        return msgspec.json.decode(report, type=Outcome)


def reported(words: Sequence[str], directory: str, patience: float) -> bytes | Failure:
    """Run a program in a session of its own until it has written a line; the line, or why there is
    none.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryFile(dir=directory) as complaints:
        try:
            stage = kin.spawn(
                words,
                stdin=kin.Redirect.DEVNULL,
                stdout=writing,
                stderr=complaints.fileno(),
                new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            report = _line(reading, time.monotonic() + patience)
            if report is None:
                return Failure("hung", _hung(stage.pid, patience))
            if not report:
                return Failure("failed", _last_words(stage, complaints))
            with contextlib.suppress(kin.Timeout):
                stage.wait(timeout=_FAREWELL)
            return report
        finally:
            os.close(reading)
            _fell(stage)


def _hung(session: int, patience: float) -> str:
    asleep = dict(_asleep(session))
    stage = asleep.pop(
        session, "nobody knows what"
    )  # it only waits for the others, if there are any
    where = ", ".join(sorted(set(asleep.values()))) or stage
    return f"silent for {patience:.3g} s, and cut off; its processes were in {where}"


#: Seconds that a stage which has reported may take to end.
_FAREWELL = 2.0


def _line(fd: int, until: float) -> bytes | None:
    """What is written up to a newline; empty at an end without one, None when it is too late."""
    data = b""
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        piece = os.read(fd, 1 << 20)
        data += piece
        if data.endswith(b"\n"):
            return data
        if not piece:
            return b""


def _last_words(stage: kin.Process, complaints: IO[bytes]) -> str:
    status = stage.wait()
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return f"{lines[-1]} ({status})" if lines else f"the stage {status}, without a word"


def _fell(stage: kin.Process) -> None:
    """End it and whatever it has started; most times all have ended already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(stage.pid, signal.SIGKILL)
    stage.kill()
    stage.wait()


def _asleep(session: int) -> Iterator[tuple[int, str]]:
    """In which functions of the kernel the processes of a session sleep."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if int(fields[3]) == session:
                    slept = (entry / "wchan").read_text(encoding="ascii")
                    yield int(entry.name), "user space" if slept in ("", "0") else slept
