"""Deadlines on the monotonic clock: one meaning of ``timeout=`` everywhere.

``timeout`` is in seconds: None waits for ever, 0 tries once without waiting, a negative or
non-finite number is refused. A deadline is made once at the start of a call and passed on, so
that a call made of several waits does not wait several times as long.
"""

from __future__ import annotations

import math
import time

from kinfolk.errors import InvalidValue

#: The longest wait that poll(2) takes, in milliseconds: a longer one is made of several.
_POLL_MAX = 2**31 - 1

#: The longest timeout in seconds, some centuries: a longer one is as long.
_LONGEST = 1e10


class Deadline:
    """A moment on the monotonic clock, or never. Immutable; safe to share between threads."""

    __slots__ = ("at", "timeout")

    def __init__(self, timeout: float | None, name: str = "timeout") -> None:
        """Start counting now. Raises InvalidValue, by the ``name`` of the argument, for what is no number, negative or not finite."""
        try:
            sensible = timeout is None or 0 <= timeout < math.inf
        except TypeError:
            sensible = False
        if not sensible:
            otherwise = "0 to try once, None to wait for ever" if name == "timeout" else "0 or more"
            raise InvalidValue(
                f"{name}={timeout!r} makes no sense",
                remedy=f"give seconds as a number, {otherwise}",
            )
        # A Fraction or a Decimal, too, is shown and added up as a float.
        self.timeout = None if timeout is None else float(min(timeout, _LONGEST))
        self.at = None if self.timeout is None else time.monotonic() + self.timeout

    def remaining(self) -> float | None:
        """Seconds left, never negative; None when there is no end."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def milliseconds(self) -> int | None:
        """What is left as poll(2) wants it, rounded up so that a wait never ends early."""
        if self.at is None:
            return None
        return min(_POLL_MAX, max(0, math.ceil((self.at - time.monotonic()) * 1000)))

    def passed(self) -> bool:
        """Whether the moment has come."""
        return self.at is not None and time.monotonic() >= self.at


#: Waits for ever.
NEVER = Deadline(None)


def deadline(timeout: float | None) -> Deadline:
    """The deadline of a call that was given ``timeout``. Raises InvalidValue."""
    return NEVER if timeout is None else Deadline(timeout)
