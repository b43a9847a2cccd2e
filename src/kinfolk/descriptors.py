"""Owned file descriptors.

Rules:
1. A `Descriptor` owns its number: closing forgets it, so a number is never closed twice and never
   used after the kernel gave it to somebody else.
2. Every descriptor is close-on-exec; what a child is to inherit is passed on purpose.
3. A forked child owns copies of its own: closing one there does not close the parent's.
4. A descriptor that is dropped without `close` is closed with a ResourceWarning, as files are.
"""

from __future__ import annotations

import fcntl
import os
import warnings

from kinfolk.errors import Closed


def above_standard(number: int) -> int:
    """The same file by a number above 2, close-on-exec. Raises OSError; in any case ``number`` is the caller's no more.

    Where a standard stream is closed its number is free, and goes to what is opened next: then what others mean for that
    stream would be written there, and a child would inherit it as its own.
    """
    if number > 2:
        return number
    try:
        return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(number)


class Descriptor:
    """One owned descriptor. Not thread-safe against a close in the middle of a system call:

    who closes makes sure that nobody is inside one (see `kinfolk.waiting.Turnstile`).
    """

    __slots__ = ("_number", "name")

    def __init__(self, number: int, name: str = "descriptor") -> None:
        """Take over ``number``; ``name`` is for messages."""
        self._number = number
        self.name = name

    def fileno(self) -> int:
        """The number. Raises Closed when this was closed."""
        if self._number < 0:
            raise Closed(f"{self.name} is closed")
        return self._number

    @property
    def closed(self) -> bool:
        """Whether the number was given back."""
        return self._number < 0

    def close(self) -> None:
        """Give the number back to the kernel. Closing twice does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            try:
                os.close(number)
            except OSError:  # after EINTR and EIO Linux has closed it all the same (close(2))
                return

    def detach(self) -> int:
        """Give the number to the caller, who owns it from now on."""
        number = self.fileno()
        self._number = -1
        return number

    def adopt(self, number: int) -> None:
        """Take over ``number`` after the fact, in place of none: an exception between the two finds somebody who closes it."""
        self._number = number

    def duplicate(self) -> Descriptor:
        """A second descriptor of the same open file description."""
        return Descriptor(os.dup(self.fileno()), self.name)

    def __del__(self) -> None:
        if getattr(self, "_number", -1) >= 0:  # else it was never finished
            warnings.warn(
                f"unclosed {self.name} (fd {self._number})",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self.close()

    def __repr__(self) -> str:
        return f"<Descriptor {self.name} {'closed' if self.closed else self._number}>"
