"""Who holds a lock on a file, or waits for one: a thread of this process, or a task of one of its event loops.

The kernel knows neither: to it, the owner is an open file description or a process. So who may release, and who would wait for
himself, is told apart here.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from kinfolk.task_waiter import loop_here


class ThreadOwner:
    """A thread. Its number is used again when it has ended; this object is not."""

    def __init__(self) -> None:
        self.pid, self.tid = os.getpid(), threading.get_native_id()

    def __str__(self) -> str:
        return f"thread {self.tid} of this process"


class TaskOwner:
    """A task of asyncio, held as long as it holds something."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskOwner) and other.task is self.task

    def __hash__(self) -> int:
        return id(self.task)

    def __str__(self) -> str:
        return f"task {self.task.get_name()} of this process"


Owner = ThreadOwner | TaskOwner


class _ThisThread(threading.local):
    owner: ThreadOwner | None = None


_this_thread = _ThisThread()


def this_thread() -> ThreadOwner:
    """The calling thread; the same one after a fork, in the child too."""
    if _this_thread.owner is None:
        _this_thread.owner = ThreadOwner()
    return _this_thread.owner


def this_task() -> TaskOwner | None:
    """The calling task, None outside of any."""
    loop = loop_here()
    if loop is None:
        return None
    from asyncio import current_task

    task = current_task(loop)
    return None if task is None else TaskOwner(task)


def stops(waiting: Owner, holding: Owner) -> bool:
    """Whether somebody who waits keeps somebody who holds from ever going on.

    A thread stops itself, and every task of the loop that runs in it; a task stops only itself.
    """
    if waiting == holding:
        return True
    return (
        isinstance(waiting, ThreadOwner)
        and isinstance(holding, TaskOwner)
        and holding.task.get_loop() is loop_here()
    )
