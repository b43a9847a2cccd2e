"""Several at a time, between processes: a count, to which comes back what a dead process took from it.

    jobs = kin.Semaphore(3, "jobs")
    with jobs:                                 one of three taken, or waited for
        work()

       value 3 ── acquire ──> value 2, this process holds 1 ── release ──> value 3
                                       └── it ends, is killed ────────────> value 3, and who waits goes on

What a process holds stands in a row of its own, in the shared memory (native/semaphore.c, members.c). Who waits watches the
others, so a death is noticed at once, without a timer, and a wake-up that dies with somebody is made up for.

Rules:
1. It belongs to nobody: any thread may release what another one, or another process, has acquired. What comes back at a death is what
   the *process* has acquired more often than it has released. Who only ever releases owes nothing, dead or alive.
2. So where one process acquires and another releases, as with the free places of a queue, nothing should come back: ``undo=False``.
3. It is as it was made: who opens it later may leave the terms out, and is refused with others.
4. Whoever is awake takes what is there before who has to be woken; but who has waited in vain for some milliseconds is let by. Who
   wants several at once may have to wait for long behind those who want one.
5. A process that executes another program stays who it is, and holds what it held. One that closes it, too.

Fork: the child holds nothing of what its parent holds. If it releases, that adds.
"""

from __future__ import annotations

import errno
import operator
import os
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, NoReturn, Self
from weakref import WeakValueDictionary

from kinfolk import _native, watcher
from kinfolk.deadlines import deadline
from kinfolk.errors import Closed, ForkedCopy, InvalidValue, LimitReached, Timeout
from kinfolk.interest import Interest, Steps
from kinfolk.sync import membership, places
from kinfolk.sync.placed import Placed
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun

_ROWS = 320  # bytes in front of them
_MOST = 2**24 - 1


class _Terms(NamedTuple):
    """As what it is made; None: as usual, or as it is."""

    value: int | None
    bounded: bool | None
    undo: bool | None
    members: int | None

    def check(self) -> None:
        """Raise InvalidValue for what makes no sense."""
        if self.members is not None:
            membership.check(self.members, "semaphore")
        value = self.value
        if value is not None and (
            # Not the most: so a bounded one can be told from others.
            not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST
        ):
            raise InvalidValue(
                f"a semaphore can't have value={value!r}",
                remedy=f"give a whole number from 0 to {_MOST - 1:,}",
            )
        if value == 0 and self.bounded:
            raise InvalidValue(
                "a bounded semaphore can't have value=0",
                why="it never has more than at first, so nobody could ever acquire it",
                remedy="give a greater value, or leave bounded out",
            )

    def native(self) -> tuple[int, int, int, int]:
        """For native/semaphore_binding.c, but for the watcher."""
        value = 1 if self.value is None else self.value
        maximum = value if self.bounded else _MOST
        return value, maximum, int(self.undo is False), self.members or membership.USUAL

    @classmethod
    def of(cls, native: tuple[int, int, int, int]) -> _Terms:
        """Those of one that is open."""
        value, maximum, keeps, members = native
        return cls(value, maximum < _MOST, not keeps, members)


class Semaphore(_native.Semaphore, Placed):
    """A count that processes acquire from and release to; what a process holds when it dies is released. Thread-safe.

    As a context manager it acquires and releases one, on asyncio, too (``async with``). A forked child has it, and holds nothing.
    The methods that matter are native.
    """

    KIND: ClassVar[str] = "semaphore"
    #: bytes that one for 64 processes takes; `size` tells it for others
    SIZE: ClassVar[int] = _ROWS + membership.USUAL * membership.ROW
    #: the greatest value
    MOST: ClassVar[int] = _MOST

    def __init__(
        self,
        value: int | None = None,
        name: str | None = None,
        *,
        bounded: bool | None = None,
        undo: bool | None = None,
        members: int | None = None,
    ) -> None:
        """The one of this user's ``name``, made if there is none; without a name, one of this process and those it starts.

        It begins with a ``value``, by default 1. A ``bounded`` one never has more than that. With ``undo=False`` what a dead process
        held does not come back. It is for up to so many processes at a time, its ``members``, by default 64.

        Raises InvalidValue, also when one is there that was made otherwise, CorruptObject, UntrustedPeer, NoSpace, LimitReached,
        AccessDenied, Unsupported; Timeout when somebody else is making it, and was stopped.
        """
        terms = _Terms(value, bounded, undo, members)
        terms.check()
        if name is None:
            self._begin(places.anonymous(self.KIND, self._size(terms)), terms)
        else:
            self._begin_named(name, terms, (self.size(1), self.size(membership.MOST)))

    @classmethod
    def inside(
        cls,
        memory: places.Memory | Any,
        offset: int = 0,
        value: int | None = None,
        *,
        bounded: bool | None = None,
        undo: bool | None = None,
        members: int | None = None,
    ) -> Semaphore:
        """The one at an ``offset`` of memory that processes share: a SharedMemory, or any writable buffer over such memory.

        It takes `SIZE` bytes, or `size` for another number of members, at a multiple of `ALIGNMENT`, zeroed before the first use. The
        memory can't be closed while the semaphore is open. The rest is as without memory. Raises InvalidValue, CorruptObject, Timeout, Unsupported.
        """
        terms = _Terms(value, bounded, undo, members)
        terms.check()
        return cls._at(places.inside(cls.KIND, memory, offset), terms)

    @classmethod
    def size(cls, members: int) -> int:
        """How many bytes one for so many processes takes. Raises InvalidValue."""
        terms = _Terms(None, None, None, members)
        terms.check()
        return cls._size(terms)

    @classmethod
    def _size(cls, option: Any) -> int:
        return _ROWS + int(option.native()[3]) * membership.ROW

    def _begin(self, place: places.Place, option: Any = None) -> None:
        super()._begin(place, option)
        self._option = found = _Terms.of(self._terms)
        for name, wanted in option._asdict().items():
            if wanted not in (None, getattr(found, name)):
                self.close()
                raise InvalidValue(
                    f"it was made with {name}={getattr(found, name)!r}, not {wanted!r}",
                    subject=place.subject,
                    remedy=f"leave {name} out to use it as it is, or unlink it first",
                )
        self._begin_lines()

    def _begin_lines(self) -> None:
        # Of tasks, by how many they want; of this process, and of none that is forked from it.
        self._lines: WeakValueDictionary[int, Turnstile] = WeakValueDictionary()
        self._waits: set[_native.SemaphoreWait] = set()
        self._lines_of = os.getpid()

    def _open(self, buffer: Any, offset: int, option: Any, /) -> int:
        return super()._open(buffer, offset, (*option.native(), watcher.core()))

    # ── acquiring: acquire, release and value are native ─────────────────────────────────────

    def hold(self, timeout: float | None = None, n: int = 1) -> AbstractContextManager[Self, None]:
        """``with semaphore.hold(timeout=2, n=3)``: as ``with semaphore``, with a time limit, and for several. Raises as `acquire`."""
        n = operator.index(n)
        return _native.Holding(self._enter, (timeout, n), self._exit, (n,))

    async def aacquire(self, timeout: float | None = None, n: int = 1) -> None:
        """`acquire`, on asyncio. A task that is cancelled has taken nothing.

        Tasks that wait for the same number by one object do so in order of arrival, and share one helper thread, for there is
        no descriptor to wait on. Raises as `acquire`.
        """
        limit = deadline(timeout)
        wait = _native.SemaphoreWait(self, n)
        if self._lines_of != os.getpid():
            self._begin_lines()
        line = self._lines.setdefault(n, Turnstile(self._subject, _nothing))
        self._waits.add(wait)
        try:
            await arun(_steps(wait), line, limit, "acquire")
        except BaseException as error:
            wait.give_back()
            if isinstance(error, Timeout) and timeout is not None:
                self._refused(errno.ETIMEDOUT, timeout)
            raise
        finally:
            self._waits.discard(wait)

    async def __aenter__(self) -> Self:
        await self.aacquire()
        self._entered()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.__exit__()

    def close(self) -> None:
        """Let go of it; others keep it, and what this process holds it holds on. Closing twice does nothing.

        Raises StillInUse while a thread or task of this process waits for it.
        """
        if getattr(self, "_waits", None) and self._lines_of == os.getpid():
            self._refused(errno.EBUSY, None)
        super().close()

    @property
    def held(self) -> int:
        """How many this process has acquired more often than it has released; below 0 if it is the other way round. Raises Closed."""
        return dict(self._members()).get(os.getpid(), 0)

    def __repr__(self) -> str:
        try:
            return f"<Semaphore {self._named()}, {self._now} of {self._made.value}>"
        except Closed:
            return f"<Semaphore {self._named()}, closed>"

    @property
    def _made(self) -> _Terms:
        """As what it was made, also once it is closed."""
        return getattr(self, "_option", None) or _Terms(1, False, True, membership.USUAL)

    # ── what the native side refuses ─────────────────────────────────────────────────────────

    def _refused(self, error: int, argument: Any, /) -> NoReturn:
        subject = self._subject
        match error:
            case errno.ETIMEDOUT:
                raise Timeout(
                    "not acquired",
                    subject=subject,
                    why=f"{self._whose()} for all the {float(argument):g} s",
                    remedy="see who holds it, or wait longer",
                )
            case errno.EDOM:
                raise InvalidValue(
                    f"n={argument!r} makes no sense",
                    subject=subject,
                    remedy=f"give a whole number from 1 to {self._made.native()[1]:,}, as many as there can be",
                )
            case errno.EOVERFLOW if self._made.bounded:
                raise InvalidValue(
                    "released more often than acquired",
                    subject=subject,
                    why=f"it is bounded, and began with {self._made.value:,}",
                    remedy="release only what was acquired, or make one that is not bounded",
                )
            case errno.EOVERFLOW:
                raise LimitReached(
                    "it can't have so many",
                    subject=subject,
                    why=f"{_MOST:,} are the most",
                    remedy="let somebody acquire",
                    code=error,
                )
            case errno.ERANGE:
                raise LimitReached(
                    "this process holds too many",
                    subject=subject,
                    why="it has acquired a thousand million more than it has released",
                    remedy="if others release for it, make the semaphore with undo=False",
                    code=error,
                )
            case errno.EPERM:
                raise ForkedCopy(
                    "this process did not acquire it",
                    subject=subject,
                    why="the block was entered before the fork, by the parent, which will release it",
                    remedy="acquire it here too, or fork outside the with block",
                )
            case _:
                most = self._made.members or membership.USUAL
                if (refusal := membership.refused(error, subject, most)) is not None:
                    raise refusal
                super()._refused(error, argument)

    def _whose(self) -> str:
        """Who holds some just now, for people."""
        holders = [f"{pid} ({held})" for pid, held in self._members() if held > 0]
        if not holders:
            return "there were too few, and nobody holds any,"
        word = "process" if len(holders) == 1 else "processes"
        return f"there were too few, held by {word} {', '.join(holders)},"


def _steps(wait: _native.SemaphoreWait) -> Steps[None]:
    while not wait.attempt():
        yield Interest(call=wait)


def _nothing() -> None:
    """Nothing is to be closed when the last one has left a line."""
