"""One process as a snapshot found it: who, whose child, in which state, running what.

Rules:
1. What is in it was read at one moment, through one descriptor of /proc/PID: it is all of the same process.
2. What its methods read, they read now, and only of the same process: its start time decides, not its pid.
3. None is unknown: this user may not know it, or the process has gone.
4. A zombie is a process of which every thread has ended. One whose main thread alone has ended shows a ``Z`` in /proc, and lives.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from kinfolk.identity import Identity
from kinfolk.inspection.procfs import Gone, ProcessFiles, Procfs, Stat, Status

T = TypeVar("T")

#: The letters of proc_pid_stat(5) in words.
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "uninterruptible",
    "Z": "zombie",
    "T": "stopped",
    "t": "traced",
    "I": "idle",
    "P": "parked",
    "W": "waking",
    "X": "dead",
    "x": "dead",
}

# Of a process whose main thread has ended, the liveliest of the others says the state.
_LIVELY = "RDStTIPW"
_ENDED = frozenset("ZXx")

#: Shares the memory of a keeper, and so its command line (native/anchor.c).
_ANCHOR = "kin-anchor"

# In place of the session, of a process that is just being reaped: its parent is wrong then, too.
_RELEASED = -1


class ThreadInfo(NamedTuple):
    """A thread of a process."""

    tid: int
    name: str
    #: a letter, as in `ProcessInfo.state`
    state: str

    @property
    def condition(self) -> str:
        """The state in a word."""
        return STATES.get(self.state, self.state)


class Adoption(NamedTuple):
    """A process that is the child of one which did not start it: an orphan, and who took it."""

    adopter: int
    #: ``init`` of the host or of a pid namespace, or a ``subreaper`` (PR_SET_CHILD_SUBREAPER(2const))
    by: Literal["init", "subreaper"]
    certainty: Literal["certain", "likely"]
    #: why that is known, as a sentence
    evidence: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process, as it was when the snapshot was taken. Immutable; safe to share between threads."""

    pid: int
    #: clock ticks since boot; with the pid, its `identity`
    start_time: int
    #: the pid of its parent; 0 when that is outside of our pid namespace, and for the first process
    parent: int
    group: int
    session: int
    #: whether it has a controlling terminal
    on_terminal: bool
    #: as the kernel has it, at most 15 bytes: the program's name, until the process gives itself another
    name: str
    #: a letter of proc_pid_stat(5): R, S, D, Z, T, t, I …
    state: str
    kernel_thread: bool
    thread_count: int
    #: the signal that its parent gets at its end; SIGCHLD but for children of clone(2)
    exit_signal: int
    #: seconds since it started
    age: float
    #: effective user id, and the name of that user where there is one
    uid: int | None
    user: str | None
    #: the pid of who traces it (ptrace(2)); 0: nobody whom we can see
    tracer: int | None
    #: its pid in every pid namespace that it is in, ours first
    namespace_pids: tuple[int, ...]
    #: its command line, up to 128 KiB; empty for zombies, kernel threads and the anchor of a keeper
    arguments: tuple[str, ...] | None
    #: whether its main thread has ended while others live; ``state`` then is theirs
    leader_ended: bool = False
    #: its threads, where they were asked for
    threads: tuple[ThreadInfo, ...] | None = None
    #: who took it when its parent ended; None when nothing shows that anybody did
    adopted: Adoption | None = None
    _procfs: Procfs = field(default_factory=Procfs, repr=False, compare=False)

    @property
    def identity(self) -> Identity:
        """Pid and start time: no later process has both."""
        return Identity(self.pid, self.start_time)

    @property
    def condition(self) -> str:
        """The state in a word: sleeping, zombie, stopped …"""
        return STATES.get(self.state, self.state)

    @property
    def zombie(self) -> bool:
        """Whether it has ended, with all its threads, and nobody has collected its status."""
        return self.state == "Z"

    @property
    def stopped(self) -> bool:
        """Whether a signal or a tracer has stopped it."""
        return self.state in ("T", "t")

    @property
    def command(self) -> str:
        """The command line with spaces between; ``[name]`` where there is none, as ps(1) has it."""
        return " ".join(self.arguments) if self.arguments else f"[{self.name}]"

    def exe(self) -> str | None:
        """The path of its program. Needs the right to trace it."""
        return self._now(ProcessFiles.exe)

    def environ(self) -> dict[str, str] | None:
        """The environment that it was started with. Needs the right to trace it."""
        return self._now(ProcessFiles.environ)

    def control_group(self) -> str | None:
        """Its control group in the unified hierarchy, such as /user.slice."""
        return self._now(ProcessFiles.control_group)

    def wchan(self) -> str | None:
        """The kernel function in which its main thread sleeps; empty when it runs, or we may not trace it."""
        return self._now(ProcessFiles.wchan)

    def _now(self, read: Callable[[ProcessFiles], T | None]) -> T | None:
        with contextlib.suppress(Gone), self._procfs.open(self.pid) as files:
            stat = files.stat()
            if stat is not None and stat.start_time == self.start_time:
                return read(files)
        return None


class Reader:
    """Makes `ProcessInfo` out of a proc file system; one for a snapshot."""

    def __init__(
        self,
        procfs: Procfs,
        ticks_per_second: int,
        user_name: Callable[[int], str | None],
        *,
        threads: bool,
    ) -> None:
        """``user_name`` gives the name of a user id; ``threads`` are listed if asked for."""
        self._procfs, self._ticks, self._threads = procfs, ticks_per_second, threads
        self._user_name = user_name

    def read(self, pid: int) -> ProcessInfo | None:
        """The process as it is now; None when it is there, and that is all we may know. Raises Gone."""
        with self._procfs.open(pid) as files:
            stat, status = files.stat(), files.status()
            if stat is None:
                return None
            if stat.session == _RELEASED:
                raise Gone
            return self._info(pid, files, stat, status)

    def _info(
        self, pid: int, files: ProcessFiles, stat: Stat, status: Status | None
    ) -> ProcessInfo:
        threads = list_threads(files) if self._wants_threads(stat) else None
        state, leader_ended = stat.state, False
        if stat.state == "Z" and threads:
            state = liveliest(threads)
            leader_ended = state != "Z"
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return ProcessInfo(
            pid=pid,
            start_time=stat.start_time,
            parent=stat.parent,
            group=stat.group,
            session=stat.session,
            on_terminal=stat.terminal != 0,
            name=stat.name,
            state=state,
            kernel_thread=stat.kernel_thread,
            thread_count=stat.thread_count,
            exit_signal=stat.exit_signal,
            age=max(0.0, uptime - stat.start_time / self._ticks),
            uid=None if status is None else status.uid,
            user=None if status is None else self._user_name(status.uid),
            tracer=None if status is None else status.tracer,
            namespace_pids=() if status is None else status.namespace_pids,
            arguments=() if stat.name == _ANCHOR else files.arguments(),
            leader_ended=leader_ended,
            threads=tuple(threads) if threads is not None and self._threads else None,
            _procfs=self._procfs,
        )

    def _wants_threads(self, stat: Stat) -> bool:
        return self._threads or (stat.state == "Z" and stat.thread_count > 1)


def list_threads(files: ProcessFiles) -> list[ThreadInfo]:
    """The threads of a process; one that ends meanwhile is left out. Raises Gone."""
    found = []
    for tid in files.threads():
        with contextlib.suppress(Gone):
            stat = files.stat(tid)
            if stat is not None:
                found.append(ThreadInfo(tid, stat.name, stat.state))
    return found


def liveliest(threads: list[ThreadInfo]) -> str:
    """The state of the liveliest thread; Z when all have ended."""
    living = [thread.state for thread in threads if thread.state not in _ENDED]
    order = {letter: place for place, letter in enumerate(_LIVELY)}
    return min(living, key=lambda letter: order.get(letter, len(order)), default="Z")
