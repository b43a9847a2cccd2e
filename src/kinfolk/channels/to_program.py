"""An end as a program gets it that knows nothing of channels: one bare descriptor.

Rules:
1. Only an end that is one descriptor, and has nothing of the channel in user space, can become one.
2. With framing="raw" the program finds it blocking, as programs expect: a pipe is opened anew for it, so that a clone that stays
   here stays non-blocking. A socket can't be opened anew; there the clones change too.
3. A framed end goes as it is: whoever opens ``pipe:N`` there knows what to do with it.
"""

from __future__ import annotations

import os
import stat

from kinfolk.channels.contract import Passed, ReceiveTransport, SendTransport
from kinfolk.errors import Unsupported


def descriptor_for_program(transport: SendTransport | ReceiveTransport) -> tuple[int, int]:
    """A new descriptor, the caller's to close, and the number of the end itself. Raises Unsupported, OSError."""
    limits = transport.limits
    ahead = isinstance(transport, ReceiveTransport) and transport.reads_ahead
    numbers = [] if ahead else _numbers(transport)
    if len(numbers) != 1:
        raise Unsupported(
            "this end is more than one descriptor",
            subject=limits.mechanism,
            why="it reads ahead" if ahead else f"it has {len(numbers)}",
            remedy="use pipe:, or open it with framing=raw; or pass it to a function as an argument",
        )
    number = numbers[0]
    raw = not limits.empty_messages
    if not raw:
        return os.dup(number), number
    if stat.S_ISFIFO(os.fstat(number).st_mode):
        way = os.O_WRONLY if isinstance(transport, SendTransport) else os.O_RDONLY
        try:
            fd = os.open(f"/proc/self/fd/{number}", way | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no /proc, another user's pipe, or nobody at the other end
            fd = os.dup(number)
    else:
        fd = os.dup(number)
    os.set_blocking(fd, True)
    return fd, number


def _numbers(transport: SendTransport | ReceiveTransport) -> list[int]:
    _, arguments = transport.passable()
    return [argument.number for argument in arguments if isinstance(argument, Passed)]
