"""The one thread of this process that waits for hang-ups and deaths on behalf of threads that can't.

A thread that blocks in msgrcv(2) can't poll(2) at the same time. The watcher polls for it: a watch is a descriptor, and
what to do once it is ready: wake a call that blocks without a descriptor, write to an eventfd, or reap a child. The
thread itself is native (native/watcher.c): it needs no GIL, and no Python code runs in it.

Rules:
1. One watcher a process, started by the first watch. It sleeps until something is ready, without any timer.
2. A watch acts once, also for what was ready before it was set. When its block has ended, it neither acts nor will.
3. A descriptor stays open while it is watched, and is in one watch at a time.
4. Before os.fork() the thread is ended, so that the child has no trace of it. Afterwards it goes on in the parent if
   there is anything to watch; in the child the next watch starts one. Watches do not pass to the child: whoever
   waits by one is a thread of the parent.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import threading
from collections.abc import Iterator

from kinfolk._native import Child, Watcher

_watcher = Watcher()
# One call at a time; held from before a fork until after it. Re-entrant, for a signal handler may come between
# two steps, and no call is under way then.
_lock = threading.RLock()


@contextlib.contextmanager
def watching(
    *fds: int, events: int = 0, eventfd: int | None = None, waker: object = None
) -> Iterator[None]:
    """Watch descriptors as long as the block runs.

    ``events`` are those of epoll_ctl(2); 0 waits for a hang-up or an error alone, which always count. Then the
    ``eventfd`` is written to, the call of the ``waker`` (`SysvQueue.waker`) woken, each if given. Thread-safe. Raises OSError: EMFILE,
    EPERM for what can't be polled, EEXIST for a descriptor that is watched already.
    """
    numbers: list[int] = []
    try:
        for fd in fds:
            with _lock:
                numbers.append(_watcher.add(fd, events, -1 if eventfd is None else eventfd, waker))
        yield
    finally:
        for number in numbers:
            with _lock:
                _watcher.remove(number)


def reap(child: Child, pidfd: int) -> int:
    """Have a child reaped as soon as it has ended; the number that `unwatch` takes. Raises OSError.

    The watch keeps the child's object until then, or until a fork.
    """
    with _lock:
        return _watcher.add(pidfd, select.EPOLLIN, -1, child.waker)


def unwatch(number: int) -> None:
    """End a watch of `reap`; before its descriptor is closed."""
    with _lock:
        _watcher.remove(number)


def _before_fork() -> None:
    _lock.acquire()
    _watcher.stop()


def _after_fork_in_parent() -> None:
    try:
        _watcher.resume()
    finally:
        _lock.release()


def _after_fork_in_child() -> None:
    _watcher.clear()
    _lock.release()


def _at_exit() -> None:
    with _lock:
        _watcher.stop()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
atexit.register(_at_exit)
