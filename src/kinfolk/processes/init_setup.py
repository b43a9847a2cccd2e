"""What makes a process an init: alone with its signals, the parent of every orphan below it; and what its command starts with.

Rules:
1. Everything is undone when the command has ended. What can't be had is refused before the command is started.
2. The command is bound to the life of this process (PR_SET_PDEATHSIG), leads a process group, and has the terminal before its program
   begins, so that no read of it comes too early.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from kinfolk import _native
from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, Unsupported
from kinfolk.identity import owned_pidfd
from kinfolk.processes import foreground, ignored_signals, kernel_actions
from kinfolk.processes.launch import Launch
from kinfolk.processes.remains import Namespace, Remains, Subtree
from kinfolk.signal_table import Like, number_of


def launch_of(words: list[bytes], files: list[bytes]) -> Launch:
    """The command, with everything that an exec would hand on. Raises OSError without a /proc."""
    open_here = [
        number for number in map(int, os.listdir("/proc/self/fd")) if _is_passed_on(number)
    ]
    return Launch(
        argv=words,
        executables=files,
        process_group=0,
        descriptors=[(number, number) for number in open_here],
        death_signal=signal.SIGKILL,
        ignored=ignored_signals.interrupts(),
        ignored_as_here=True,
        terminal=foreground.TERMINAL if foreground.is_ours() else None,
    )


def _is_passed_on(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # the one by which the directory was read
        return False


@contextlib.contextmanager
def children_leave_a_status() -> Iterator[None]:
    """Inside, SIGCHLD is not ignored, which an exec hands on: the kernel would throw the statuses away."""
    before = kernel_actions.action(signal.SIGCHLD)
    try:
        kernel_actions.to_default(signal.SIGCHLD)
        yield
    finally:
        kernel_actions.put_back(signal.SIGCHLD, before)


def adopt_orphans(undo: contextlib.ExitStack) -> Remains:
    """Be the parent of every orphan below from now on; what is below then. Raises Unsupported, OSError."""
    if os.getpid() == 1:
        return Namespace()
    remains = Subtree()
    undo.callback(remains.close)
    _native.set_child_subreaper(True)
    undo.callback(_native.set_child_subreaper, False)
    return remains


def watch_parent(undo: contextlib.ExitStack) -> Descriptor:
    """What is readable when our parent has died: not PR_SET_PDEATHSIG, which tells of the end of a thread."""
    pid = os.getppid()
    if pid == 0:
        raise Unsupported(
            "the death of the parent can't be seen",
            why="it is outside of this pid namespace",
            remedy="have it end the namespace: unshare --kill-child",
        )
    pidfd = owned_pidfd(pid) or Descriptor(-1)
    if pidfd.closed or os.getppid() != pid:  # it died just now, and the number may be another one's
        pidfd.close()
        pidfd = Descriptor.opened("a parent that is no more", os.eventfd, 1, os.EFD_CLOEXEC)
    undo.callback(pidfd.close)
    return pidfd


def signal_to_pass_on(wanted: Like) -> int:
    """Its number. Raises InvalidValue for what is no signal, or can't be passed on."""
    number = number_of(wanted)
    if number in (signal.SIGSTOP, signal.SIGCHLD):
        raise InvalidValue(
            f"parent_death_signal={wanted!r} can't be passed on",
            why="the one would stop the command for good, the other is about this process's children",
            remedy='give another, such as "TERM"',
        )
    return number


def check_alone() -> None:
    """Raise Unsupported where other threads would interfere."""
    if threading.current_thread() is not threading.main_thread() or threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        raise Unsupported(
            "this process can't be an init",
            why=f"its threads would take signals and children from each other: {names}",
            remedy="call it in the main thread, with no other; or start a process for it: kin run",
        )
