"""Signals that this process ignores: which of them a program that it starts ignores as well, and which are ignored for a moment only.

    ignored here                                        in a program that is started
    by nohup, by a shell for its background jobs,       ignored (execve(2) leaves it so, and who uses nohup counts on it)
      by this program itself
    SIGPIPE, SIGXFSZ: by Python, for its own errors     default
    SIGCHLD                                             default: with it ignored, no program can wait for its children
    32, 33: by posix_spawn(3), for the C library     default
    SIGINT, SIGQUIT: as long as `kinfolk.system` waits  as before that

Rules:
1. Nothing else is ignored in the program, and no handler is left: execve(2).
2. The keeper's own actions play no part: what its owner ignores comes with each start.
"""

from __future__ import annotations

import os
import signal
import threading

from kinfolk.processes import kernel_actions

#: What Python ignores for itself at its start, whoever did before.
BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

#: What is ignored for a moment.
INTERRUPTS = (int(signal.SIGINT), int(signal.SIGQUIT))


#: The C library's own, which nobody else may set (nptl(7)); its posix_spawn, by which make(1) starts things, leaves them ignored.
_INTERNAL = (32, 33)

_NOT_PASSED_ON = sum(
    1 << number - 1 for number in (*BY_PYTHON, *INTERRUPTS, *_INTERNAL, signal.SIGCHLD)
)


def passed_on(ignored: int) -> list[int]:
    """Of the signals that this process ignores (bits, as SigIgn of proc_pid_status(5)), those that a program ignores, too.

    The native spawn does the same for a `Launch` with ``ignored_as_here``. Of the `interrupts` neither can know.
    """
    ignored &= ~_NOT_PASSED_ON
    if not ignored:
        return []
    return [number for number in range(1, ignored.bit_length() + 1) if ignored >> number - 1 & 1]


def interrupts() -> list[int]:
    """Of SIGINT and SIGQUIT those that are ignored for longer than a moment."""
    return _moments.ignored_otherwise()


class _Moments:
    """The interrupts, ignored as long as any thread needs it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may come by, too
        self.who: set[object] = set()
        self.before: dict[int, bytes] = {}

    def begin(self, who: object) -> None:
        with self.lock:
            self.who.add(who)
            for number in INTERRUPTS:
                if number not in self.before:
                    self.before[number] = kernel_actions.action(number)
                    kernel_actions.to_ignored(number)

    def end(self, who: object) -> None:
        with self.lock:
            self.who.discard(who)
            while self.before and not self.who:
                number, action = self.before.popitem()
                if kernel_actions.is_ignored(number):  # else somebody has set it meanwhile
                    kernel_actions.put_back(number, action)

    def ignored_otherwise(self) -> list[int]:
        with self.lock:
            if not self.before:  # as ever, and this is asked before every start
                return [number for number in INTERRUPTS if kernel_actions.is_ignored(number)]
            actions = [(n, self.before.get(n) or kernel_actions.action(n)) for n in INTERRUPTS]
        return [number for number, action in actions if kernel_actions.ignores(action)]


_moments = _Moments()


class InterruptsIgnored:
    """Inside, SIGINT and SIGQUIT are ignored in every thread; then they are as before, unless somebody has set them meanwhile."""

    def __enter__(self) -> None:
        try:
            _moments.begin(self)
        except BaseException:  # a handler of another signal has raised
            _moments.end(self)
            raise

    def __exit__(self, *_: object) -> None:
        _moments.end(self)


def _after_fork_in_child() -> None:
    """Who waits for a command is a thread of the parent; here the signals do again what they did."""
    global _moments  # noqa: PLW0603
    for number, action in _moments.before.items():
        kernel_actions.put_back(number, action)
    _moments = _Moments()


os.register_at_fork(after_in_child=_after_fork_in_child)
