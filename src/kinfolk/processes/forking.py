"""`fork`: this process becomes two, as fork(2) has it, and each is told which one it is.

    with kin.fork() as side:          side ──┬─ is_child: the block is all that the child does; at its end it ends
        if side.is_child:                    └─ in the parent: side.child is a Process, the block is a block
            ...

A function in a process of its own is better had by `kinfolk.spawn`: it costs the same whatever this process holds, and
works with threads. What a fork copies:

    memory          all of it, when first written to; but one thread alone, the one that forks
    descriptors     all, with one position in each file; ends of channels know that they are copies
    exit handlers   unless ``exit_handlers=False``, or registered so
    signals         actions and mask; nothing pending
    not copied      children, timers, record locks, what asyncio and kinfolk wait with

Rules:
1. What was printed is written out before, so that it does not appear twice.
2. The child ends with its parent, as every other (containment "direct"), unless it is detached.
3. With other threads running it warns: a lock that one of them holds just now stays locked in the child for ever.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from types import TracebackType
from typing import NoReturn

from kinfolk import _native
from kinfolk.errors import InvalidValue
from kinfolk.processes import bare_fork, script_end, standard_streams
from kinfolk.processes.direct import Direct
from kinfolk.processes.exit_handlers import drop_inherited
from kinfolk.processes.handover import Handover
from kinfolk.processes.kernel_actions import undisturbed
from kinfolk.processes.launch import Launch
from kinfolk.processes.process import Process

#: Threads with such a name are kinfolk's own; they hold no lock of the program's, and are made anew in a child.
_OURS = "kinfolk"

#: Seconds that a thread may take to vanish.
_MOMENT = 0.02


class ForkWithThreads(RuntimeWarning):
    """`fork` was called while other threads were running: the child may hang on a lock that one of them held."""


class ForkSide:
    """Which of the two processes this is: ``case ForkSide(child=None)`` is the child.

    As a context manager it ends the child with the block, as a script ends: 0, the code of a SystemExit, 1 and a
    traceback; exit handlers run, and nothing outside of the block does. In the parent the block's end means nothing.
    """

    __slots__ = ("child",)
    __match_args__ = ("is_child", "child")

    def __init__(self, child: Process | None) -> None:
        """Made by `fork`."""
        #: the other process, in the parent; None in the child
        self.child = child

    @property
    def is_child(self) -> bool:
        """Whether this is the new process."""
        return self.child is None

    def __bool__(self) -> NoReturn:
        raise InvalidValue("a side of a fork is neither true nor false", remedy="ask side.is_child")

    def __enter__(self) -> ForkSide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_child:
            script_end.end(script_end.outcome(error))

    def __repr__(self) -> str:
        return f"<kinfolk.ForkSide: {self.child or 'the child'}>"


def fork(*, exit_handlers: bool = True, detach: bool = False) -> ForkSide:
    """Make this process two; which of them this is.

    As fork(2). With ``exit_handlers=False`` the child has none of the handlers that were registered before. With ``detach=True`` it
    lives on when this process ends; otherwise it is killed then. (When this process is killed, the kernel does it, and only
    if the main thread has forked: for it, the end of a thread is that of a parent.)

    Warns of other threads (`ForkWithThreads`). In the child the forking thread is the main one; when it is not the
    main one here, leave the child by the block, `kinfolk.exit` or `kinfolk.exit_now`, for Python ends it as a thread. Raises
    LimitReached when there may be no more processes, and what a flush of standard streams reports.
    """
    _warn_of_threads()
    standard_streams.flush()
    launch = Launch([], [], death_signal=None if detach else signal.SIGKILL)
    handover = Handover()
    try:
        # The parent must get hold of its child, the child must know that it is one.
        with undisturbed():
            try:
                child = Direct(launch, _fork, handover)
            except _IsChild:
                if not exit_handlers:
                    drop_inherited()
                return ForkSide(None)
            side = ForkSide(Process(child, f"fork of {os.getpid()}"))
        return handover.taken(side)
    except BaseException:
        handover.give_up()
        raise


class _IsChild(BaseException):
    """This is the child: nothing of what the parent does next is for it."""


def _fork(launch: Launch, started: list[int]) -> int:
    """What `kinfolk.processes.launch.start` does for a program."""
    parent = os.getpid()
    by_main_thread = threading.get_native_id() == parent
    pid = bare_fork.fork("this process can't fork")
    if pid == 0:
        if launch.death_signal is not None and by_main_thread:
            _native.set_death_signal(launch.death_signal)
            if os.getppid() != parent:  # it died before, and nobody sends the signal any more
                os._exit(128 + launch.death_signal)
        raise _IsChild
    started.append(pid)
    return pid


def _warn_of_threads() -> None:
    others = _other_threads()
    until = time.monotonic() + _MOMENT
    # Python calls a thread joined a moment before the kernel has ended it.
    while others and threading.active_count() == 1 and time.monotonic() < until:
        time.sleep(_MOMENT / 20)
        others = _other_threads()
    if others:
        warnings.warn(
            f"forking with {len(others)} other threads running ({', '.join(sorted(others)[:5])}): a lock that one"
            " of them holds stays locked in the child; start a function with kinfolk.spawn instead",
            ForkWithThreads,
            stacklevel=3,
        )


def _other_threads() -> list[str]:
    """Their names, but for kinfolk's own; also of those that Python does not know."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    try:
        tasks = set(map(int, os.listdir("/proc/self/task")))
    except OSError:  # no descriptor is left to ask the kernel by
        tasks = {task for task in names if task is not None}
    tasks.discard(threading.get_native_id())
    found = [names.get(task) or _comm(task) for task in tasks]
    return [name for name in found if not name.startswith(_OURS)]


def _comm(task: int) -> str:
    """The name of a thread that Python does not know; one that has ended meanwhile is none to warn of."""
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:
        return _OURS
