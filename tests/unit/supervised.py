"""A command under `kinfolk.run_as_init`, in a process of its own; a line on which the command and its offspring speak; escaped ones, caught.

test ── forks ──> supervisor: run_as_init ── vfork, execve ──> the command ──> its offspring
  ^                                                                │                │
  └──────────────── Line, a pipe that all of them inherit ─────────┴────────────────┘
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import _native
from tests.conformance.peers import HANG, Hangs, Peer, Peers, Voice

_CLONE_NEWPID = 0x20000000  # unshare(2)


class Line:
    """What commands say on their standard output: the test reads it, line by line."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._rest = b""

    def hear(self) -> str:
        """The next line; empty at the end, when all writers have gone and `only_read` was called."""
        end = time.monotonic() + HANG
        while b"\n" not in self._rest:
            if not select.select([self.reader], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Hangs(f"nobody says anything more than {self._rest!r}")
            chunk = os.read(self.reader, 4096)
            if not chunk:
                assert not self._rest, self._rest
                return ""
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def hear_pid(self) -> int:
        return int(self.hear())

    def only_read(self) -> None:
        """Give the test's own write end up."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def everything(self) -> list[str]:
        """All lines until nobody is left who could say one: also waits for the end of all of them."""
        self.only_read()
        return list(iter(self.hear, ""))

    def close(self) -> None:
        self.only_read()
        os.close(self.reader)


class Gate:
    """Where a shell waits by ``read x``: `open` lets one through."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def open(self) -> None:
        os.write(self._writer, b"\n")

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._writer)


class Supervised:
    """Starts supervisors, whose commands have the line as standard output and the gate as standard input."""

    def __init__(self, peers: Peers, out: Line, waiting: Gate) -> None:
        self._peers, self._out, self._waiting = peers, out, waiting

    def __call__(
        self, *argv: str, before: Callable[[], Any] = lambda: None, **options: Any
    ) -> Peer:
        """A process that runs a command; its result is the `InitOutcome`. ``before`` is called in it, to break something."""

        def body(voice: Voice) -> kin.InitOutcome:
            before()
            return kin.run_as_init(argv, **options)

        return self.fork(body)

    def to_its_end(self, *argv: str, **options: Any) -> kin.InitOutcome:
        """Run a command to its end."""
        outcome = self(*argv, **options).result()
        assert isinstance(outcome, kin.InitOutcome)
        return outcome

    def fork(self, body: Callable[[Voice], Any]) -> Peer:
        """A process with these streams."""

        def redirected(voice: Voice) -> Any:
            os.dup2(self._out.writer, 1)
            os.dup2(self._waiting.reader, 0)
            self._out.close()
            self._waiting.close()
            return body(voice)

        return self._peers.fork(redirected)


def shell(script: str) -> tuple[str, ...]:
    """A program of sh(1)."""
    return ("sh", "-c", script)


def python(program: str) -> tuple[str, ...]:
    """A program of Python, for what a shell can't say."""
    return (sys.executable, "-I", "-S", "-c", "import os, signal\n" + program)


def enter_pid_namespace() -> None:
    """The next child of this process is PID 1 of a namespace of its own."""
    _native.unshare(_CLONE_NEWPID)


def need_pid_namespaces() -> None:
    """Skip the test where nobody may make one."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(OSError):
            enter_pid_namespace()
            code = 0
        os._exit(code)
    if os.waitpid(pid, 0)[1] != 0:
        pytest.skip("a pid namespace takes root (CAP_SYS_ADMIN), and a kernel that has them")


def lives(pid: int) -> bool:
    """Whether there is a process of this pid, not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def pending(pid: int) -> int:
    """The signals that wait for a process, bit n-1 for signal n."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["ShdPnd"], 16) | int(fields["SigPnd"], 16)


@contextlib.contextmanager
def escaped(pid: int) -> Iterator[int]:
    """A process that nobody has ended, by its pidfd; it is ended afterwards."""
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(HANG * 1000)
        os.close(pidfd)
