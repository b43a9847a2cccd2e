"""What is below a supervisor of one command, and how it is ended: politely first, then for sure.

    Namespace   the supervisor is PID 1: everything in its pid namespace, by kill(-1, …)
    Subtree     it is a child subreaper: everything below it, by /proc (`kinfolk.processes.felling`)

Rules:
1. Each process is asked once (SIGTERM, and SIGCONT so that a stopped one hears it). Who was not found, because its parent died
   just then, is found when `ask` is called again.
2. The command's own process group gets a signal by one killpg(2), which no fork(2) slips through, while it is *held*: as long as the
   command is not reaped, no other group can have the number.
3. Nobody outside gets a signal: `Namespace` only by PID 1, `Subtree` through pidfds, or to children who are not reaped yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from abc import ABC, abstractmethod

from kinfolk.descriptors import Descriptor
from kinfolk.errors import Unsupported
from kinfolk.identity import start_time
from kinfolk.processes import felling


class Remains(ABC):
    """Everything below this process."""

    @abstractmethod
    def ask(self, group: int, held: bool) -> None:
        """Ask those to end who were not asked yet. ``group`` is the command's, ``held`` until the command is reaped."""

    @abstractmethod
    def kill(self, group: int, held: bool) -> None:
        """Kill whatever is there. Who is killed hands its children on, so this is repeated until there are none."""

    @abstractmethod
    def out_of_reach(self) -> list[int] | None:
        """After a `kill` that had no effect: who is left to itself, None to try again."""

    @abstractmethod
    def close(self) -> None:
        """Give the descriptors back."""


class Namespace(Remains):
    """Of PID 1: when it ends, the kernel kills whatever is left (pid_namespaces(7))."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self, group: int, held: bool) -> None:
        """Once, for all."""
        if not self._asked:
            self._asked = True
            _to_all_others(signal.SIGTERM)
            _to_all_others(signal.SIGCONT)

    def kill(self, group: int, held: bool) -> None:
        """At once: no fork(2) slips through."""
        _to_all_others(signal.SIGKILL)

    def out_of_reach(self) -> list[int] | None:
        """What is left is the kernel's to end."""
        return []

    def close(self) -> None:
        """There are none."""


def _to_all_others(number: int) -> None:
    if os.getpid() != 1:  # by anybody else this would end the machine
        raise AssertionError("only PID 1 may signal everybody")
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(-1, number)


class Subtree(Remains):
    """Of a child subreaper."""

    def __init__(self) -> None:
        """Raises Unsupported without a /proc that shows this process."""
        self._pid = os.getpid()
        _check_proc(self._pid)
        self._self = Descriptor.opened("the supervisor's own pidfd", os.pidfd_open, self._pid)
        self._spare = self._self.duplicate()  # so that there is one when /proc has to be read
        self._group_asked = False
        self._asked: set[tuple[int, int | None]] = set()

    def ask(self, group: int, held: bool) -> None:
        """The group at once, others one by one."""
        if held and not self._group_asked:
            _to_group(group, signal.SIGTERM)
            _to_group(group, signal.SIGCONT)
        self._group_asked = True

        def once(pid: int, pidfd: int) -> None:
            who = (pid, start_time(pid))
            if who not in self._asked and _group_of(pid) != group:
                felling.send(pidfd, signal.SIGTERM)
                felling.send(pidfd, signal.SIGCONT)
            self._asked.add(who)

        # For want of descriptors nobody is asked; `kill` does without.
        with contextlib.suppress(OSError):
            felling.visit(self._pid, self._self.fileno(), before=once)

    def kill(self, group: int, held: bool) -> None:
        """The group at once; others are frozen first. Raises OSError."""
        if held:
            _to_group(group, signal.SIGKILL)
        try:
            felling.kill_below(self._pid, self._self.fileno())
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            # A descriptor a generation is too much here. Children take none: they are ours until we reap them.
            self._spare.close()
            for pid in felling.children_of(self._pid):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def out_of_reach(self) -> list[int] | None:
        """Those that are another user's, such as a set-user-ID program, if there are no others."""
        children = felling.children_of(self._pid)
        return children if children and not any(map(_may_be_signalled, children)) else None

    def close(self) -> None:
        """Give the pidfd back."""
        self._self.close()
        self._spare.close()


def _to_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _may_be_signalled(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def _check_proc(pid: int) -> None:
    try:
        shown = os.readlink("/proc/self")
    except OSError:
        shown = "nobody"
    if shown != str(pid):
        raise Unsupported(
            "what is below this process can't be seen",
            subject="/proc",
            why=f"it shows process {pid} as {shown}: not mounted, or of another pid namespace",
            remedy="mount it: mount -t proc proc /proc, or unshare --mount-proc",
        )
