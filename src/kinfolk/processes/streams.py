"""A child's descriptors: its three standard streams, and what is passed to it beside them.

    here                          in the child
    PIPE     the file ── pipe ──> 0, 1, 2      the other way for 1 and 2
    DEVNULL  /dev/null ─────────> 0, 1, 2
    None     0, 1, 2 ───────────> 0, 1, 2      /dev/null for one that is closed here, or close-on-exec
    a descriptor, a file, an end of a channel ──> 0, 1, 2, or its own number (pass_fds)

Rules:
1. What the child has open is what is listed here, and nothing else.
2. No standard stream is ever closed in a child: what it opened first would become one.
3. An end of a channel moves: once the child has it, it is closed here. Files and numbers stay the caller's.
4. If the start fails, everything made here is closed, and nothing has moved.
5. Where 0, 1 or 2 are closed here, nothing that is made here has such a number; what else has (close-on-exec, as all that Python and
   kinfolk open) is no stream of the child's.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import IO, Any, Protocol, runtime_checkable

from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, from_os_error


class Redirect(IntEnum):
    """What a standard stream may be, beside a descriptor; subprocess's constants mean the same."""

    #: a pipe, whose other end is a file object here
    PIPE = -1
    #: for stderr: where stdout goes
    STDOUT = -2
    #: /dev/null
    DEVNULL = -3


@runtime_checkable
class MovesToChild(Protocol):
    """An end of a channel, as it goes to a program that knows nothing of channels."""

    def descriptor_for_child(self, *, sends: bool | None) -> tuple[int, int]:
        """A new descriptor, the caller's to close, and the number by which the end is known here.

        ``sends`` says which direction is wanted; None: the only one.
        """

    def close(self) -> None:
        """The end has moved."""


class HasDescriptor(Protocol):
    """A file object, a socket."""

    def fileno(self) -> int:
        """Its number."""


#: What can be given for a standard stream.
Stream = None | int | HasDescriptor | MovesToChild

_NAMES = ("stdin", "stdout", "stderr")


class Streams:
    """What one child is given, and what is left here. Not thread-safe."""

    def __init__(self, *, encoding: str | None = None) -> None:
        """``encoding`` of the file objects; None: they take bytes."""
        self.stdin: IO[Any] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[Any] | None = None
        #: number in the child -> number here
        self.numbers: dict[int, int] = {}
        self._encoding = encoding
        self._for_child: list[Descriptor] = []
        self._moving: list[MovesToChild] = []

    # ── filling it ───────────────────────────────────────────────────────────────────────────

    def add_standard(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        """The three standard streams. Raises InvalidValue, LimitReached; then close it."""
        for number, stream in enumerate((stdin, stdout, stderr)):
            if stream is not None:
                self.numbers[number] = self._standard(number, stream)
            else:
                self.numbers[number] = number if _is_inheritable(number) else self._null()

    def _standard(self, number: int, stream: Stream) -> int:
        if isinstance(stream, MovesToChild):
            return self._moved(stream, sends=number > 0)[0]
        if isinstance(stream, int) and stream < 0:
            if stream == Redirect.PIPE:
                return self._pipe(number)
            if stream == Redirect.DEVNULL:
                return self._null()
            if stream == Redirect.STDOUT and number == 2:
                return self.numbers[1]
        here = _number_of(stream, _NAMES[number])
        way = fcntl.fcntl(here, fcntl.F_GETFL) & os.O_ACCMODE
        if way == (os.O_RDONLY if number else os.O_WRONLY):
            raise InvalidValue(
                f"{_NAMES[number]}={stream!r} goes the wrong way",
                why="it is open for reading only" if number else "it is open for writing only",
                remedy="give the other end",
            )
        return here

    def _pipe(self, number: int) -> int:
        ends: tuple[Descriptor, Descriptor] = _made(Descriptor.pipe, "a pipe to a child")
        reading, writing = ends
        theirs, ours = (writing, reading) if number else (reading, writing)
        self._for_child.append(theirs)
        mode = ("r" if number else "w") + ("" if self._encoding else "b")
        file = open(ours.detach(), mode, encoding=self._encoding)  # noqa: SIM115
        setattr(self, _NAMES[number], file)
        return theirs.fileno()

    def _null(self) -> int:
        way = os.O_RDWR | os.O_CLOEXEC
        null: Descriptor = _made(Descriptor.opened, os.devnull, os.open, os.devnull, way)
        self._for_child.append(null)
        return null.fileno()

    def _moved(self, end: MovesToChild, *, sends: bool | None) -> tuple[int, int]:
        fd, known_as = end.descriptor_for_child(sends=sends)
        self._for_child.append(Descriptor(fd, "an end for a child"))
        self._moving.append(end)
        return fd, known_as

    def add_passed(self, passed: Iterable[int | HasDescriptor | MovesToChild]) -> None:
        """Those that keep their numbers. Raises InvalidValue; then close it."""
        for thing in passed:
            if isinstance(thing, MovesToChild):
                here, there = self._moved(thing, sends=None)
            else:
                here = there = _number_of(thing, "pass_fds")
            if self.numbers.setdefault(there, here) != here:
                raise InvalidValue(
                    f"descriptor {there} can't be passed by its number",
                    why="that is another stream in the child",
                    remedy="give it as that stream, or duplicate it to a number above 2 (os.dup)",
                )

    # ── afterwards ───────────────────────────────────────────────────────────────────────────

    def started(self) -> None:
        """The child has its own: close what was only for it, and what has moved."""
        self._close_childs()
        while self._moving:
            self._moving.pop().close()

    def failed(self) -> None:
        """There is no child: close everything that was made here."""
        self._close_childs()
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                file.close()

    def _close_childs(self) -> None:
        while self._for_child:
            self._for_child.pop().close()


def _made(make: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return make(*arguments)
    except OSError as error:
        raise from_os_error(error, "a stream for a child can't be made") from error


def _is_inheritable(number: int) -> bool:
    try:
        return not fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except OSError:
        return False


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def _number_of(thing: object, what: str) -> int:
    """The open descriptor in a number or a file object. Raises InvalidValue."""
    remedy = "give an open descriptor, a file object, or an end of a channel"
    try:
        number = thing.fileno() if hasattr(thing, "fileno") else thing
    except (OSError, ValueError) as error:  # closed; or it has none (io.StringIO)
        raise InvalidValue(
            f"{what}={thing!r} has no descriptor", why=str(error), remedy=remedy
        ) from error
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 31:
        raise InvalidValue(f"{what}={thing!r} is no descriptor", remedy=remedy)
    if not _is_open(number):
        raise InvalidValue(f"{what}={thing!r}: descriptor {number} is not open", remedy=remedy)
    return number
