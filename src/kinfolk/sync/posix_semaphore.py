"""POSIX semaphores: a count that C programs share (sem_overview(7)).

    jobs = kin.PosixSemaphore("/jobs", 3)     made with the value 3 if nobody has, for C: sem_open("/jobs", …)
    with jobs:                                one taken, or waited for; put back at the end
        …

    named        /dev/shm/sem.NAME                   until `unlink`, or the next boot
    inside       at an offset of `memory.buf`        a sem_t, as sem_init(3) makes it
    anonymous    a sealed memfd                      of this process, those it forks, and those it is passed to

It is libc's semaphore, with all that this means. **Nobody knows who has taken.** So

- a holder that is killed never puts back what it took: with a value of 1, everybody waits for ever;
- a waiter that is killed may take a wake-up with it: sem_post(3) wakes one sleeper, once, and when that one is dead before it takes, the others
  sleep on, although there is one to be had, until the next release or the next who comes. (A release that is killed in its middle does
  the same.)

No timeout repairs that, and nothing that is added from outside. Use it to meet C programs, or for signals that may be lost; else
`kin.Semaphore`, or a `kin.SysVSemaphore`, whose kernel knows who took.

Rules:
1. What a name leads to is a semaphore that has its value, ours, root's, or of a user who was named (`kinfolk.sync.posix_semaphore_file`).
2. An acquire that ends by an exception has taken nothing.
3. Waiting in a task takes a helper thread, for there is no descriptor to wait on.
"""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NoReturn, Self

from kinfolk import _native
from kinfolk.errors import (
    AccessDenied,
    AlreadyExists,
    Closed,
    CorruptObject,
    ForkedCopy,
    InvalidValue,
    LimitReached,
    Timeout,
)
from kinfolk.sync import places, posix_semaphore_file
from kinfolk.sync.findings import Finding
from kinfolk.sync.placed import Placed
from kinfolk.sync.takings import Takings


class PosixSemaphore(_native.PosixSemaphore, Placed):
    """A POSIX semaphore. Any thread, and any process, may put in what another one took. Thread-safe.

    **A holder that is killed never puts back what it took, and a killed waiter may take a wake-up with it**: where that must not
    be, use `kinfolk.Semaphore`. As a context manager it acquires and releases. A forked child has it, too, but not what its
    parent took in a ``with`` block. `acquire` and `release` are native.
    """

    KIND: ClassVar[str] = "POSIX semaphore"
    SIZE: ClassVar[int] = posix_semaphore_file.SIZE
    ALIGNMENT: ClassVar[int] = posix_semaphore_file.ALIGNMENT
    #: the greatest value (SEM_VALUE_MAX)
    MOST: ClassVar[int] = posix_semaphore_file.MOST

    _Taking = _native.PosixTaking
    _takings: Takings

    def __init__(
        self,
        name: str | None = None,
        value: int | None = 1,
        *,
        mode: int | str = 0o600,
        owner: int | None = None,
    ) -> None:
        """The one of a ``name`` such as "/jobs", made with a ``value`` if there is none; with None there has to be one.

        Without a name, one of this process and those it starts. One that is made has the permission bits of ``mode``, whatever the
        umask: a number, or octal text. One of another user is refused, unless that is the ``owner`` (a user id). sem_open(3).

        Raises InvalidValue, NotFound, UntrustedPeer, CorruptObject, AccessDenied, NoSpace, LimitReached.
        """
        _check_value(value)
        if name is not None:
            place = posix_semaphore_file.named(name, value, mode, owner)
            self._begin(place)
        elif value is None:
            raise InvalidValue(
                "nobody has made one without a name", remedy="give it the value that it shall have"
            )
        else:
            self._begin(places.anonymous(self.KIND, self.SIZE), value)

    @classmethod
    def inside(
        cls, memory: places.Memory | Any, offset: int = 0, value: int | None = None
    ) -> PosixSemaphore:
        """The one at an ``offset`` of memory that processes share: a SharedMemory, or any writable buffer over such memory.

        With a ``value`` it is made there, in `SIZE` zeroed bytes at a multiple of `ALIGNMENT`, as sem_init(3) does. That is for who
        made the memory, before anybody else has it: ``SharedMemory.create(…, prepare=…)``. Closing it does not destroy it.

        Raises InvalidValue, AlreadyExists, CorruptObject when there is none, LimitReached.
        """
        _check_value(value)
        return cls._at(places.inside(cls.KIND, memory, offset), value)

    def _begin(self, place: places.Place, option: Any = None) -> None:
        super()._begin(place, option)
        self._option = None  # it is made once
        self._takings = Takings(place.subject)

    def _open(self, buffer: Any, offset: int, value: Any, /) -> int:
        found = super()._open(buffer, offset, value)
        subject = f"{self.KIND} at {offset}"
        match found:
            case Finding.MISPLACED:
                raise InvalidValue(
                    f"no {self.KIND} can lie there",
                    subject=subject,
                    why=f"it takes {self.SIZE} bytes, at a multiple of {self.ALIGNMENT}",
                    remedy="choose another offset, or more memory",
                )
            case Finding.OTHER_KIND:
                raise AlreadyExists(
                    "one lies there already",
                    subject=subject,
                    remedy="leave the value out to use it, or zero the memory first",
                )
            case Finding.ALIEN if value is None:
                raise CorruptObject(
                    f"no {self.KIND} lies there",
                    subject=subject,
                    why="what is there was not made by sem_init(3) for several processes",
                    remedy="let who made the memory make it, with a value, before others come",
                )
            case Finding.ALIEN:
                raise CorruptObject(
                    f"no {self.KIND} can be made there",
                    subject=subject,
                    why="the memory is not all zero",
                    remedy="zero it, or choose another offset",
                )
        return found

    # ── acquiring: acquire and release are native ────────────────────────────────────────────

    async def aacquire(self, timeout: float | None = None) -> None:
        """`acquire`, on asyncio. A task that is cancelled has taken nothing. Raises LimitReached, too, when there can't be a thread."""
        taking = self._Taking(self)
        await self._takings.await_(taking, timeout, self._timed_out)

    def hold(self, timeout: float | None = None) -> AbstractContextManager[Self, None]:
        """``with semaphore.hold(timeout=2)``: as ``with semaphore``, waiting up to ``timeout`` seconds. Raises as `acquire`."""
        return _native.Holding(self._enter, (timeout,), self.__exit__, ())

    async def __aenter__(self) -> Self:
        await self.aacquire()
        self._entered()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.__exit__()

    @property
    def value(self) -> int:
        """How many can be taken just now; 0 when somebody waits, or could. Raises Closed. sem_getvalue(3)."""
        return self._value

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Let go of it; others keep it. Who waits by this object raises Closed. Closing twice does nothing."""
        takings = getattr(self, "_takings", None)
        if takings is not None:
            takings.close()
        super().close()

    def unlink(self) -> None:
        """Remove its name; who has it open keeps it, and who opens the name later makes another.

        Raises NotFound when it was removed already, AccessDenied for another user's, Unsupported for one without a name, Closed.
        """
        try:
            super().unlink()
        except AccessDenied as error:
            raise AccessDenied(
                "its name can't be removed",
                subject=self._subject,
                why=error.why,
                remedy="its owner can, or root",
                code=error.errno,
            ) from error

    def __repr__(self) -> str:
        try:
            return f"<PosixSemaphore {self._named()}, {self._value}>"
        except Closed:
            return f"<PosixSemaphore {self._named()}, closed>"

    # ── what the native side asks for ────────────────────────────────────────────────────────

    def _wait(self, taking: _native.PosixTaking, timeout: float | None) -> None:
        self._takings.wait(taking, timeout, self._timed_out)

    def _timed_out(self, timeout: float) -> NoReturn:
        raise Timeout(
            "not acquired",
            subject=self._subject,
            why=f"its value was 0 for all the {float(timeout):g} s",
            remedy="see who takes and does not put back (one that was killed never will), or wait longer",
        )

    def _refused(self, error: int, timeout: Any, /) -> NoReturn:
        if error == errno.EOVERFLOW:
            raise LimitReached(
                "nothing more can be put in",
                subject=self._subject,
                why=f"its value is {self.MOST}, the greatest there is",
                remedy="let somebody take",
                code=errno.EOVERFLOW,
            )
        if error == errno.EAGAIN:
            raise LimitReached(
                "there is no timer to be had, so a wait could not end in time",
                subject=self._subject,
                why="this user has as many signals and timers pending as are allowed",
                remedy="raise the limit (ulimit -i), or wait without a timeout",
                code=errno.EAGAIN,
            )
        if error == errno.ECHILD:
            raise ForkedCopy(
                "this process did not take it",
                subject=self._subject,
                why="the block was entered before the fork, by the parent, which will put it back",
                remedy="acquire it here too, or fork outside the with block",
            )
        super()._refused(error, timeout)


def _check_value(value: int | None) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidValue(
            f"a semaphore can't have the value {value!r}", remedy="give a whole number from 0 up"
        )
    if value > posix_semaphore_file.MOST:
        raise LimitReached(
            f"a semaphore can't have the value {value}",
            why=f"SEM_VALUE_MAX is {posix_semaphore_file.MOST}",
            remedy="give a smaller one",
            code=errno.EINVAL,
        )
