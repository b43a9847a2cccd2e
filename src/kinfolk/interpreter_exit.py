"""What is still open when the interpreter ends is closed, also an end in which a daemon thread is blocked.

    end of the script ─> other threads are joined ─> atexit hooks, the newest first ─> modules taken apart
                         (daemons are not)                     ▲ here

Taking the modules apart drops most ends, and dropping one closes it. But what a daemon thread holds is never
dropped: its name, queue or presence would stay. It is the usual thread that reads.

Rules:
1. The hook runs after those of whoever imported kinfolk (`kinfolk.exit_hooks`): they may still send. Children that
   multiprocessing joins in a hook of its own are joined before, for they may too.
2. An end expires: it falls silent. Nobody goes on in it, and who calls waits as where nothing comes any more, until his
   deadline, a cancellation, or a close. So no thread shows an error at the exit, and one that some later hook ends and joins can be
   ended as ever. Only who calls from the thread that ends the interpreter gets Closed, at once.
3. When all have expired, and who was in the middle of something has come out or fallen asleep, they are closed. Who has not
   after `PATIENCE` (a generator that is being sent takes its time) is closed under: no exit hangs.
4. `closed` of an end stays False: an end that is dropped later warns that nobody closed it, as it always does.
5. A forked child that ends by os._exit never comes here. One that ends as a program does closes its copies, as `close` there would.

- *Rejected: to wake who is blocked with Closed, or to cancel him.* His traceback would be printed at every exit.
- *Rejected: to leave it to the end of the modules.* What is called there finds other modules half taken apart.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Protocol

from kinfolk import exit_hooks

PATIENCE = 0.2  # seconds for all together: who uses no code of the user's needs microseconds


class Expiring(Protocol):
    """What is open, and somebody may be inside of."""

    #: whether it was closed
    finished: bool

    def expire(self) -> None:
        """Fall silent."""

    def wake(self) -> None:
        """Wake who sleeps inside, to sleep elsewhere."""

    def quiet(self) -> bool:
        """Whether nobody is inside and awake."""

    def finish(self) -> None:
        """Close, whoever is inside."""


class _Exit:
    """The end of this interpreter."""

    thread: int | None = None  # which runs the hook
    progress = threading.Event()


def close_at_exit(everything: Callable[[], Iterable[Expiring]]) -> None:
    """Close at exit what the function then gives."""
    exit_hooks.register(functools.partial(_at_exit, everything))


def is_here() -> bool:
    """Whether the calling thread is ending the interpreter."""
    return _Exit.thread == get_ident()


def progress() -> None:
    """Something that expired has become quiet."""
    _Exit.progress.set()


def _at_exit(everything: Callable[[], Iterable[Expiring]]) -> None:
    _join_children()
    _Exit.thread = get_ident()
    remaining = [one for one in everything() if not one.finished]
    for one in remaining:
        one.expire()
    for one in remaining:
        one.wake()
    end = time.monotonic() + PATIENCE
    while not all(one.quiet() for one in remaining):
        if not _Exit.progress.wait(end - time.monotonic()):
            break
        _Exit.progress.clear()
    with contextlib.ExitStack() as every:  # whatever one of them raises
        for one in remaining:
            every.callback(one.finish)


def _join_children() -> None:
    # Its hook is older than ours if it was imported before. It does nothing the second time.
    join = getattr(sys.modules.get("multiprocessing.util"), "_exit_function", None)
    if join is not None:
        join()
