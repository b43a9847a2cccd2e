"""What the kernel says about a process in /proc/PID, typed (proc(5)).

    Procfs("/proc") ── pids() ──> 1, 2, 77, …
          │
          └── open(77) ──> ProcessFiles: stat, status, arguments, wchan, exe, environ, cgroup, threads

Rules:
1. All files of one `ProcessFiles` are read through one descriptor of /proc/PID, which stays with that process: once it has
   gone every read says so, also if its pid was given away again meanwhile.
2. A process that has gone is `Gone`. What the kernel does not tell us is None: unknown, never guessed.
3. Names and arguments are bytes of others' making: they may hold parentheses, newlines, and what is no UTF-8. They become text by
   surrogateescape, as those of Python's own `os`. Whoever shows them makes them harmless.
4. No read is larger than `LONGEST`: a process of two megabytes of arguments does not fill the memory of who looks.

Not read: /proc/PID/task/TID/children. It leaves out living children when another one ends meanwhile, and its manual page advises
against it (proc_tid_children(5)).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self

from kinfolk.errors import from_os_error

#: Bytes of one file that are read at most; as long as one argument may be (MAX_ARG_STRLEN, execve(2)).
LONGEST = 1 << 17

#: A kernel thread, in `Stat.flags` (PF_KTHREAD).
_KERNEL_THREAD = 0x00200000

_BLOCK = 1 << 14
_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


class Gone(Exception):
    """The process has ended and was reaped, or there never was one, or it is hidden (hidepid)."""


class Stat(NamedTuple):
    """/proc/PID/stat, what is used of it (proc_pid_stat(5))."""

    pid: int
    name: str
    #: R, S, D, Z, T, t, X, I, …
    state: str
    #: 0 when its parent is outside of our pid namespace, and for the first process
    parent: int
    group: int
    session: int
    #: device number of its controlling terminal; 0: none
    terminal: int
    kernel_thread: bool
    thread_count: int
    #: clock ticks since boot
    start_time: int
    #: what its parent gets when it ends; another one than SIGCHLD for children of clone(2)
    exit_signal: int


class Signals(NamedTuple):
    """Sets of signals as the kernel prints them: bit n - 1 is signal n (signal(7))."""

    #: for this thread, and for the process as a whole
    pending: int
    shared_pending: int
    blocked: int
    ignored: int
    caught: int


class Status(NamedTuple):
    """/proc/PID/status, what is used of it (proc_pid_status(5))."""

    #: real and effective user id
    real_uid: int
    uid: int
    #: who traces it; 0: nobody whom we can see
    tracer: int
    #: its pid in each pid namespace, ours first; one alone where the kernel does not say
    namespace_pids: tuple[int, ...]
    #: None where the kernel does not say (gVisor)
    signals: Signals | None


# The name stands in parentheses and may hold some itself; nothing after it can.
_STAT_FIELDS = 36


def parse_stat(data: bytes) -> Stat:
    """The content of a stat file. Raises ValueError for what is none."""
    before, opened, rest = data.partition(b" (")
    name, closed, after = rest.rpartition(b") ")
    fields = after.split()
    if not opened or not closed or len(fields) < _STAT_FIELDS or len(fields[0]) != 1:
        raise ValueError(f"no content of a stat file: {data[:80]!r}")
    return Stat(
        pid=int(before),
        name=text(name),
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        terminal=int(fields[4]),
        kernel_thread=bool(int(fields[6]) & _KERNEL_THREAD),
        thread_count=int(fields[17]),
        start_time=int(fields[19]),
        exit_signal=int(fields[35]),
    )


# In this file the kernel writes a newline of the name as \n, so that a line is a line.
_STATUS_LINE = re.compile(
    rb"^(Uid|TracerPid|NSpid|SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):[ \t]*(.*)$", re.MULTILINE
)
_MASKS = (b"SigPnd", b"ShdPnd", b"SigBlk", b"SigIgn", b"SigCgt")


def parse_status(data: bytes) -> Status:
    """The content of a status file. Raises ValueError for what is none."""
    found: Mapping[bytes, bytes] = dict(_STATUS_LINE.findall(data))
    uids = found.get(b"Uid", b"").split()
    if len(uids) < 2:
        raise ValueError(f"no content of a status file: {data[:80]!r}")
    masks = [int(found[name], 16) for name in _MASKS if name in found]
    return Status(
        real_uid=int(uids[0]),
        uid=int(uids[1]),
        tracer=int(found.get(b"TracerPid", b"0")),
        namespace_pids=tuple(map(int, found.get(b"NSpid", b"").split())),
        signals=Signals(*masks) if len(masks) == len(_MASKS) else None,
    )


def text(data: bytes) -> str:
    """Bytes of a process as text, from which `os.fsencode` makes the same bytes."""
    return data.decode("utf-8", "surrogateescape")


class Procfs:
    """A mounted proc file system. Immutable; safe to share between threads, and after a fork."""

    __slots__ = ("root",)

    def __init__(self, root: str = "/proc") -> None:
        """``root`` is where it is mounted: one of a container, or a directory that looks like it."""
        self.root = root

    def pids(self) -> list[int]:
        """Every process that we may know of. Raises NotFound when no proc file system is there."""
        try:
            names = os.listdir(self.root)
        except OSError as error:
            remedy = "mount it: mount -t proc proc /proc" if error.errno in _GONE else ""
            what = "the processes can't be listed"
            raise from_os_error(error, what, self.root, remedy) from error
        return [int(name) for name in names if name.isascii() and name.isdigit()]

    def open(self, pid: int) -> ProcessFiles:
        """The files of a process; close them, or use a with block. Raises Gone, LimitReached."""
        path = f"{self.root}/{pid}"
        try:
            return ProcessFiles(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), path)
        except OSError as error:
            if error.errno in _GONE:
                raise Gone from None
            raise from_os_error(error, "the process can't be looked at", path) from error


class ProcessFiles:
    """The files of one process, which stay its own also when its pid is given away again."""

    __slots__ = ("_directory", "_path")

    def __init__(self, directory: int, path: str) -> None:
        """Made by `Procfs.open`; owns the descriptor ``directory``."""
        self._directory, self._path = directory, path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._directory)

    def stat(self, thread: int | None = None) -> Stat | None:
        """What the process, or one of its threads, is and does. Raises Gone."""
        data = self._read(_of(thread, "stat"))
        return None if data is None else parse_stat(data)

    def status(self, thread: int | None = None) -> Status | None:
        """Whose it is, who traces it, its signals (those of a thread, where one is named). Raises Gone."""
        data = self._read(_of(thread, "status"))
        return None if data is None else parse_status(data)

    def arguments(self) -> tuple[str, ...] | None:
        """Its command line; empty for zombies and kernel threads. Raises Gone.

        It is what the process itself has made of it: some write a title over it.
        """
        data = self._read("cmdline")
        if data is None:
            return None
        data = data.rstrip(b"\0")
        return tuple(map(text, data.split(b"\0"))) if data else ()

    def wchan(self, thread: int | None = None) -> str | None:
        """The kernel function in which it sleeps, as kernel/ names it; empty when it runs. Raises Gone.

        The kernel tells that of processes that we might trace; of others, it says the same as of one that runs: see `Stat.state`.
        """
        data = self._read_if_there(_of(thread, "wchan"))
        return None if data is None else text(data).strip().removeprefix("0").partition(".")[0]

    def exe(self) -> str | None:
        """The path of its program, with `` (deleted)`` when that has gone. Raises nothing for the dead."""
        try:
            return text(os.readlink(b"exe", dir_fd=self._directory))
        except OSError as error:
            if error.errno in _GONE | _DENIED:  # zombies and kernel threads have none
                return None
            raise from_os_error(error, "its program can't be read", self._path) from error

    def environ(self) -> dict[str, str] | None:
        """The environment that it was started with; zombies and kernel threads have none. Raises Gone."""
        data = self._read_if_there("environ")
        if data is None:
            return None
        pairs = (text(entry).partition("=") for entry in data.split(b"\0") if b"=" in entry)
        return {name: value for name, _, value in pairs}

    def control_group(self) -> str | None:
        """Its control group in the unified hierarchy (cgroup v2), such as /user.slice. Raises Gone."""
        data = self._read_if_there("cgroup")
        lines = [] if data is None else data.splitlines()
        return next((text(line[3:]) for line in lines if line.startswith(b"0::")), None)

    def threads(self) -> list[int]:
        """The numbers of its threads, the main one's too while it is not reaped. Raises Gone."""
        try:
            fd = os.open(
                "task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory
            )
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _GONE:
                raise Gone from None
            if error.errno in _DENIED:
                return []
            raise from_os_error(error, "its threads can't be listed", self._path) from error
        if not names:
            raise Gone
        return sorted(int(name) for name in names if name.isdigit())

    def _read_if_there(self, name: str) -> bytes | None:
        """A file that some kernels don't have, or not of zombies: None then, as if we may not read it."""
        try:
            return self._read(name)
        except Gone:
            self.stat()  # raises Gone if the process is what is not there
            return None

    def _read(self, name: str) -> bytes | None:
        """A file's content, None if we may not read it."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                return _read_all(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _GONE:
                raise Gone from None
            if error.errno in _DENIED:
                return None
            raise from_os_error(error, f"{name} can't be read", self._path) from error


def _of(thread: int | None, name: str) -> str:
    return name if thread is None else f"task/{thread}/{name}"


def _read_all(fd: int) -> bytes:
    chunks: list[bytes] = []
    left = LONGEST
    while left > 0 and (chunk := os.read(fd, min(left, _BLOCK))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
