"""What a run of the tests leaves behind: processes, kernel objects, descriptors, threads.

Theory of operation: a `Snapshot` counts what there is, by kind; what a later snapshot has more is
what was left. After each test the excess is compared again, so that the sentence at the end can
name the test after which a thing was first seen.

Processes that escaped (orphans) are found by two marks that every descendant carries: a variable
in the environment, which shows in /proc/PID/environ after an exec, and a mapped temporary file,
which shows in /proc/PID/maps after a bare fork, also when every descriptor was closed.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import re
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import posix_ipc

Key = tuple[str, str]  # kind, what
Snapshot = Counter[Key]

# Threads that the library keeps for the life of the process; they are no leak.
PERMANENT_THREADS = re.compile(r"kinfolk")

# Dead processes and closing sockets take a moment to vanish, and no event tells of it.
GRACE = 3.0

MARK_VARIABLE = "KINFOLK_TEST_RUN"

#: Not set: this run is the machine's only one. NAMESPACE: its IPC namespace and /dev/shm are its own. Else it looks at itself alone.
VARIABLE = "KINFOLK_TEST_OWN_LEAKS"
NAMESPACE = "namespace"


class LeakCheck:
    """One run of the tests: the state before it, and who is to blame for each excess since."""

    def __init__(self) -> None:
        self._mark = f"kinfolk-tests-{os.getpid()}-{time.monotonic_ns():x}"
        os.environ[MARK_VARIABLE] = self._mark
        with tempfile.NamedTemporaryFile(prefix=self._mark) as file:
            file.truncate(mmap.PAGESIZE)
            self._mapping = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.queue_names: set[str] = set()
        self.directories: list[Path] = []  # also searched for sockets at the end
        self._blame: dict[Key, str] = {}
        gc.collect()
        self._before = take_snapshot()

    def note(self, test: str) -> None:
        """Remember after which test an excess was first seen."""
        excess = take_snapshot() - self._before
        self._blame = {key: self._blame.get(key, test) for key in excess}

    def leftovers(self) -> list[str]:
        """A line for each thing left, or nothing; waits a moment for what is just going away."""
        excess = settled(
            lambda: (take_snapshot() - self._before) + Counter(self._found_at_the_end())
        )
        return [
            f"{kind}: {what}"
            + (f" ({count} more than before)" if count > 1 else "")
            + (
                f"; first seen after {self._blame[kind, what]}"
                if (kind, what) in self._blame
                else ""
            )
            for (kind, what), count in sorted(excess.items())
        ]

    def _found_at_the_end(self) -> Iterator[Key]:
        children = {int(pid) for pid, _ in _children()}
        for pid in _marked_processes(self._mark):
            if pid not in children:
                yield "orphaned process", f"{pid} {_command(pid)}"
        if not os.path.ismount("/dev/mqueue"):
            for name in sorted(self.queue_names):
                with contextlib.suppress(posix_ipc.Error):
                    posix_ipc.MessageQueue(name).close()
                    yield "POSIX message queue", name
        for directory in self.directories:
            for path in directory.rglob("*"):
                yield from _if_socket(path)


def settled(excess: Callable[[], Snapshot]) -> Snapshot:
    """What is there too much; waits a moment for what is just going away."""
    end = time.monotonic() + GRACE
    while True:
        gc.collect()
        found = excess()
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def take_snapshot(sources: Iterable[Callable[[], Iterable[Key]]] | None = None) -> Snapshot:
    """Count everything that can leak and is quick to count."""
    found: Snapshot = Counter()
    for source in OF_THIS_PROCESS + shared_sources() if sources is None else sources:
        found.update(source())
    return found


# ----------------------------------------------------------------------------------- the sources


def _child_processes() -> Iterator[Key]:
    for pid, command in _children():
        yield "child process", f"{pid} {command}"


def _children() -> Iterator[tuple[str, str]]:
    """Children of every thread of this process, zombies too."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for pid in (task / "children").read_text().split():
                yield pid, _command(int(pid))


def _command(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "(gone)"
    if status.rpartition(")")[2].split()[0] == "Z":
        return "(zombie) " + status.partition("(")[2].rpartition(")")[0]
    return line.replace(b"\0", b" ").decode(errors="replace").strip()[:120]


def _marked_processes(mark: str) -> Iterator[int]:
    wanted = mark.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for where in ("environ", "maps"):
            with contextlib.suppress(OSError):
                if wanted in (entry / where).read_bytes():
                    yield int(entry.name)
                    break


def _shared_memory() -> Iterator[Key]:
    """/dev/shm; the library's own directory there counts only by what is in it."""
    top = "/dev/shm"
    for directory, below, files in os.walk(top):  # skips what vanishes meanwhile
        for name in (*below, *files):
            path = Path(directory, name)
            if not (path.is_dir() and re.fullmatch(r"kinfolk-\d+", name)):
                yield "in /dev/shm", str(path.relative_to(top))


def _sysv_objects() -> Iterator[Key]:
    for file, kind in (
        ("msg", "SysV message queue"),
        ("shm", "SysV segment"),
        ("sem", "SysV semaphore set"),
    ):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/sysvipc", file).read_text().splitlines()[1:]:
                key, identifier = line.split()[:2]
                yield kind, f"id {identifier}, key {int(key) & 0xFFFFFFFF:#x}"


def _message_queues() -> Iterator[Key]:
    if os.path.ismount("/dev/mqueue"):
        for name in os.listdir("/dev/mqueue"):
            yield "POSIX message queue", "/" + name


def _socket_files() -> Iterator[Key]:
    with os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            yield from _if_socket(Path(entry.path))


def _if_socket(path: Path) -> Iterator[Key]:
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if stat.S_ISSOCK(mode):
            yield "socket file", str(path)
        elif stat.S_ISFIFO(mode):
            yield "FIFO", str(path)


def _descriptors() -> Iterator[Key]:
    """By what they refer to, without inode numbers: a watcher started anew is no leak."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target != f"/proc/{os.getpid()}/fd":  # the one that lists them
                yield "descriptor", re.sub(r":\[\d+\]$", "", target)


def _threads() -> Iterator[Key]:
    known = threading.enumerate()
    for thread in known:
        if not PERMANENT_THREADS.search(thread.name):
            yield "thread", thread.name
    python = {thread.native_id for thread in known}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            name = (task / "comm").read_text().strip()
            if int(task.name) not in python and not PERMANENT_THREADS.search(name):
                yield "native thread", name


OF_THIS_PROCESS: tuple[Callable[[], Iterable[Key]], ...] = (
    _child_processes,
    _descriptors,
    _threads,
)
OF_THE_NAMESPACE: tuple[Callable[[], Iterable[Key]], ...] = (
    _shared_memory,
    _sysv_objects,
    _message_queues,
)
OF_THE_MACHINE = (*OF_THE_NAMESPACE, _socket_files)


def shared_sources() -> tuple[Callable[[], Iterable[Key]], ...]:
    """What this run answers for beside itself. Several at a time would blame each other for what they have open just now."""
    whose = os.environ.get(VARIABLE)
    if not whose:
        return OF_THE_MACHINE
    return OF_THE_NAMESPACE if whose == NAMESPACE else ()


def remove_empty_runtime_directories() -> None:
    """The library's private directory may stay while it is empty; the tests take it away, if nobody else is at work."""
    if _shared_memory not in shared_sources():
        return
    for path in Path("/dev/shm").glob("kinfolk-*"):
        if re.fullmatch(r"kinfolk-\d+", path.name):
            with contextlib.suppress(OSError):
                path.rmdir()
