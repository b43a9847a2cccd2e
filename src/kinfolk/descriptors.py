"""Owned file descriptors.

Rules:
1. A `Descriptor` owns its number: closing forgets it, so a number is never closed twice and never
   used after the kernel gave it to somebody else.
2. Every descriptor is close-on-exec; what a child is to inherit is passed on purpose.
3. A forked child owns copies of its own: closing one there does not close the parent's.
4. A descriptor that is dropped without `close` is closed with a ResourceWarning, as files are.
5. What is opened is owned from the moment at which the kernel gives it: see `Descriptor.opened`.
"""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Callable
from typing import Any, Self, TypeVar

from kinfolk.errors import Closed

AnyDescriptor = TypeVar("AnyDescriptor", bound="Descriptor")


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

    @classmethod
    def opened(cls, name: str, call: Callable[..., int], *arguments: Any) -> Self:
        """What a call gives, such as ``os.open``, by a number above 2. Raises as that does.

        Python's signal handlers run when a call of C's has returned, and may raise. So that nothing is left open then of which
        nobody knows, the call and the note of its number are *one* call.
        """
        descriptor = cls(-1, name)
        numbers: list[int] = []
        try:
            numbers.extend(map(call, *([argument] for argument in arguments)))
            (descriptor._number,) = numbers
            del numbers[:]  # no call, as the line before: nothing comes between the two
            descriptor._rise()
            return descriptor
        except BaseException:
            for number in numbers:
                os.close(number)
            descriptor.close()
            raise

    @classmethod
    def pipe(cls, name: str, flags: int = os.O_CLOEXEC) -> tuple[Self, Self]:
        """The reading and the writing end of a new pipe, by numbers above 2. Raises OSError. Owned like what is `opened`."""
        reader, writer = ends = cls(-1, name), cls(-1, name)
        numbers: list[int] = []
        try:
            numbers.extend(*map(os.pipe2, (flags,)))
            reader._number, writer._number = numbers
            del numbers[:]
            for end in ends:
                end._rise()
            return ends
        except BaseException:
            for number in numbers:
                os.close(number)
            for end in ends:
                end.close()
            raise

    def _rise(self) -> None:
        if self._number <= 2:
            self._number = above_standard(self.detach())

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

    def hand_over(self, heir: AnyDescriptor) -> AnyDescriptor:
        """Have ``heir``, which has none, own the number instead. Raises Closed."""
        number = self.fileno()
        heir._number, self._number = number, -1  # no call comes between the two
        return heir

    def adopt(self, number: int) -> None:
        """Take over ``number`` after the fact, in place of none: an exception between the two finds somebody who closes it."""
        self._number = number

    def duplicate(self) -> Descriptor:
        """A second descriptor of the same open file description."""
        return Descriptor.opened(self.name, os.dup, self.fileno())

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
