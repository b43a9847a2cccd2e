"""What is below a process, and how all of it is ended.

    visit     /proc/PID/task/*/children ── pidfd_open ── is it still that one? ── act ── and on to its own children

Rules:
1. A pid that was read in /proc may be somebody else's a moment later. So a process is held by a pidfd first; then it must
   still be the child of its parent, and both must live. Only then it is what was found, and only through the pidfd is it touched.
2. A tree that is to end is frozen first: a stopped process starts no other one (fork(2) gives way to a pending
   signal), and a parent that stands still hands no child on to a reaper. It is looked through until nothing new is found,
   and killed from the leaves upward.
3. What had another parent before it was looked for (a daemon) is not below: who adopts orphans has to end them.
4. What may not be signalled (a set-user-ID program) is left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from kinfolk.identity import is_dead, open_pidfd

#: What is done with a process: its pid, and a pidfd that is open meanwhile.
Act = Callable[[int, int], object]


def children_of(pid: int) -> list[int]:
    """The children of every thread of a process, zombies too; none when it has gone. proc_pid_task(5)."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def parent_of(pid: int) -> int | None:
    """The pid of the parent, 0 when that is outside of this pid namespace; None when the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def visit(
    pid: int, pidfd: int, *, before: Act | None = None, after: Act | None = None, spared: int = 0
) -> list[int]:
    """Act on everything below a process: ``before`` its children are looked up, ``after`` they were; the pids found.

    The child ``spared`` is passed over. Raises OSError for want of descriptors: it takes one for each generation.
    """
    found: list[int] = []
    path = [(pid, pidfd, children_of(pid))]
    try:
        while path:
            parent, held, waiting = path[-1]
            if waiting:
                child = waiting.pop()
                fd = None if child == spared else _hold(child, parent, held)
                if fd is not None:
                    path.append((child, fd, []))
                    found.append(child)
                    if before is not None:
                        before(child, fd)
                    path[-1][2].extend(children_of(child))
                continue
            if len(path) > 1:
                if after is not None:
                    after(parent, held)
                os.close(held)
            path.pop()
    finally:
        for _, held, _ in path[1:]:
            os.close(held)
    return found


def _hold(child: int, parent: int, parent_fd: int) -> int | None:
    """A pidfd of a child that was found below a parent; None when it has gone, or was never the one."""
    fd = open_pidfd(child)
    if fd is None:
        return None
    held = False
    try:
        held = parent_of(child) == parent and not is_dead(fd) and not is_dead(parent_fd)
    finally:
        if not held:
            os.close(fd)
    return fd if held else None


def send(pidfd: int, number: int) -> bool:
    """Send a signal by pidfd; whether there was somebody to get it who may be sent it."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def signal_below(pid: int, pidfd: int, number: int, *, spared: int = 0) -> list[int]:
    """Send a signal to everything below a process; the pids. Raises OSError for want of descriptors."""
    return visit(pid, pidfd, before=lambda _, fd: send(fd, number), spared=spared)


def kill_below(pid: int, pidfd: int, *, spared: int = 0) -> list[int]:
    """End everything below a process, which is stopped meanwhile unless it is the caller; the pids.

    The child ``spared`` is left alone. Raises OSError for want of descriptors.
    """
    if pid != os.getpid():
        send(pidfd, signal.SIGSTOP)
    known: set[int] = set()
    while new := set(signal_below(pid, pidfd, signal.SIGSTOP, spared=spared)) - known:
        known |= new
    return visit(pid, pidfd, after=lambda _, fd: send(fd, signal.SIGKILL), spared=spared)
