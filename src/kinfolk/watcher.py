"""The one thread of this process that waits for hang-ups and deaths on behalf of threads that can't.

A thread that blocks in msgrcv(2) can't poll(2) at the same time. The watcher polls for it: a watch is a descriptor, and
what to do once it is ready: wake a call that blocks without a descriptor, or who sleeps on a futex, write to an eventfd, or reap a child. The
thread itself is native (native/watcher.c): it needs no GIL, and no Python code runs in it.

Rules:
1. One watcher a process, started by the first watch. It sleeps until something is ready, without any timer.
2. A watch acts once, also for what was ready before it was set. When its block has ended, it neither acts nor will.
3. A descriptor stays open while it is watched, and is in one watch at a time.
4. Before os.fork() the thread is ended, so that the child has no trace of it. Afterwards it goes on in the parent if
   there is anything to watch, or, when no thread can be had, tells every watch to look for itself and goes on with the next watch
   that comes or goes; in the child the next watch starts one. Watches do not pass to the child: whoever
   waits by one is a thread of the parent.
5. A watch belongs to its native object from the system call on, and is left in one step. So a KeyboardInterrupt at any
   instruction leaves none behind, and holds no lock in which a signal handler could wait for itself.
"""

from __future__ import annotations

import errno
import os
import select

from kinfolk import exit_hooks
from kinfolk._native import Child, Watch, Watcher
from kinfolk.process_limit import refused

_watcher = Watcher()


def watching(*fds: int, events: int = 0, eventfd: int | None = None, waker: object = None) -> Watch:
    """Watch descriptors as long as the block of a ``with`` runs.

    ``events`` are those of epoll_ctl(2); 0 waits for a hang-up or an error alone, which always count. Then the
    ``eventfd`` is written to, the call of the ``waker`` (`SysvQueue.waker`) woken, each if given; it also happens when a fork
    has cost this process its watcher: look again. Thread-safe. Raises LimitReached when no thread can be started, OSError: EMFILE,
    EPERM for what can't be polled, EEXIST for a descriptor that is watched already.
    """
    return _watched(fds, events, -1 if eventfd is None else eventfd, waker)


def reap(child: Child, pidfd: int) -> Watch:
    """Have a child reaped as soon as it has ended; leave the watch before the pidfd is closed. Raises as `watching`.

    The watch keeps the child's object. A forked copy of this process reaps nothing by it.
    """
    return _watched((pidfd,), select.EPOLLIN, -1, child.waker)


def core() -> object:
    """The watcher as a native object takes it, such as a semaphore, which watches by itself."""
    return _watcher.core


def _watched(fds: tuple[int, ...], events: int, eventfd: int, waker: object) -> Watch:
    try:
        return _watcher.watch(fds, events, eventfd, waker)
    except BlockingIOError as error:  # EAGAIN of pthread_create(3)
        raise refused(errno.EAGAIN, "no thread that watches can be started") from error


os.register_at_fork(
    before=_watcher.before_fork,
    after_in_parent=_watcher.after_fork_in_parent,
    after_in_child=_watcher.after_fork_in_child,
)
exit_hooks.register(_watcher.stop)
