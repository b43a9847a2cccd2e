"""What the kernel does at a signal (sigaction(2)), and what it holds back (pthread_sigmask(3)), changed for a moment.

`signal.signal` works in the main thread alone, and changes Python's table as well. Here only the kernel's table changes, from
any thread, and is put back as it was, handlers of C code too; who asks Python sees no difference.
"""

from __future__ import annotations

import contextlib
import signal
import struct
from collections.abc import Iterable, Iterator

from kinfolk import _native

_IGNORED = 1


def is_ignored(number: int) -> bool:
    """Whether a signal has no effect on this process."""
    return _native.signal_action(number)[0] == _IGNORED


def action(number: int) -> bytes:
    """What the kernel does at a signal, for `put_back`."""
    return _native.signal_action(number)[2]


# The handler comes first in a struct sigaction (not on MIPS, which kinfolk does not know); SIG_DFL is 0, SIG_IGN 1.


def ignores(action: bytes) -> bool:
    """Whether an action is to ignore the signal."""
    return struct.unpack_from("P", action) == (1,)


def to_default(number: int) -> None:
    """Give a signal its default action."""
    _change(number, struct.pack("P", 0))


def to_ignored(number: int) -> None:
    """Have a signal ignored."""
    _change(number, struct.pack("P", 1))


def put_back(number: int, action: bytes) -> None:
    """Restore an action."""
    _native.set_signal_action(number, action)


def put_all_back(actions: dict[int, bytes]) -> None:
    """Restore some actions, in one call: for a forked child (native/signal_binding.c)."""
    _native.set_signal_actions(actions)


def _change(number: int, handler: bytes) -> None:
    _native.set_signal_action(number, handler.ljust(len(action(number)), b"\0"))


@contextlib.contextmanager
def masked(how: int, signals: Iterable[int]) -> Iterator[None]:
    """Inside, the calling thread's mask is changed as by `signal.pthread_sigmask`; what came meanwhile is handled at the end."""
    before = signal.pthread_sigmask(how, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def undisturbed() -> contextlib.AbstractContextManager[None]:
    """Inside, no handler raises in the calling thread: for steps that belong together."""
    return masked(signal.SIG_BLOCK, signal.valid_signals())
