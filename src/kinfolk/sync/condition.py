"""Waiting, without a mutex, for what other processes change under it.

    filled = kin.Condition(name="filled")          with a mutex of its own; or kin.Condition(mutex)

    with filled as held:                           with filled as held:
        filled.wait_for(lambda: count() > 0)           add()
        take()                                         filled.notify()

       with ───> the mutex is held ── wait ──> released, asleep
                     ▲                             │  notify; a member dies; time is up
                     └──── acquired again <────────┘

Nobody waits for the dead (native/condition.c). All processes that have it open are its members, and who waits watches the others:
when one dies, who may have been woken for something and not come to it, or have changed something and not come to say so, all who
wait are woken, and look.

Rules:
1. The mutex is held by whoever waits or notifies, by this object's own or the `Mutex` object that it was made with. All use the same mutex.
2. A wait is over when somebody has notified; and sometimes without that. So look, each time, or use `wait_for`, which does.
3. After a wait, as after acquiring, the mutex may tell that its owner has died: ``held.owner_died``.
4. A wait that ends without a notify is no error, but False, as with threads.
5. Who gives the mutex up for good wakes all who wait, if it is by a Mutex that this process waits by, too: they get OwnerDied.

Fork: the child has it, and becomes a member when it first uses it. So acquire by the condition, not by the mutex alone, before
changing what others wait for.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

from kinfolk import _native, watcher
from kinfolk.deadlines import deadline
from kinfolk.errors import Closed, InvalidValue, NotOwner, Timeout, Unsupported
from kinfolk.sync import membership, places
from kinfolk.sync.mutex import Mutex
from kinfolk.sync.placed import Placed

T = TypeVar("T")

_MUTEX = 192  # where its own lies
_ROWS = 384  # bytes in front of them


class _Terms(NamedTuple):
    """With what it is opened; None: with its own mutex, and as many members as it has."""

    mutex: Mutex | None
    members: int | None

    def check(self) -> None:
        """Raise InvalidValue for what makes no sense."""
        if self.mutex is not None and not isinstance(self.mutex, Mutex):
            raise InvalidValue(
                f"a condition goes with a kinfolk.Mutex, not with {self.mutex!r}",
                remedy="give one, or None for one of its own; a name is given as name=",
            )
        if self.members is not None:
            membership.check(self.members, "condition")


class Condition(_native.Condition, Placed):
    """A condition variable between processes: it waits without a mutex for what happens under it. Thread-safe.

    As a context manager it acquires and releases the mutex, and gives it: ``with condition as held``. The rest is as in
    threading.Condition. A forked child has it, too.
    """

    KIND: ClassVar[str] = "condition"
    #: bytes that one for 64 processes takes; `size` tells it for others
    SIZE: ClassVar[int] = _ROWS + membership.USUAL * membership.ROW

    def __init__(
        self, mutex: Mutex | None = None, name: str | None = None, *, members: int | None = None
    ) -> None:
        """The one of this user's ``name``, made if there is none; without a name, one of this process and those it starts.

        It goes with a ``mutex``, the same for all, or with one of its own. It is for up to so many processes at a time, its
        ``members``, by default 64. Raises InvalidValue, CorruptObject, UntrustedPeer, NoSpace, LimitReached, AccessDenied, Unsupported;
        Timeout when somebody else is making it, and was stopped.
        """
        terms = _Terms(mutex, members)
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
        mutex: Mutex | None = None,
        *,
        members: int | None = None,
    ) -> Condition:
        """The one at an ``offset`` of memory that processes share: a SharedMemory, or any writable buffer over such memory.

        It takes `SIZE` bytes, or `size` for another number of members, at a multiple of `ALIGNMENT`, zeroed before the first use. The
        memory can't be closed while the condition is open. The rest is as without memory. Raises InvalidValue, CorruptObject, Timeout,
        LimitReached, Unsupported.
        """
        terms = _Terms(mutex, members)
        terms.check()
        return cls._at(places.inside(cls.KIND, memory, offset), terms)

    @classmethod
    def size(cls, members: int) -> int:
        """How many bytes one for so many processes takes. Raises InvalidValue."""
        membership.check(members, cls.KIND)
        return _ROWS + members * membership.ROW

    @classmethod
    def _size(cls, option: Any) -> int:
        return cls.size(option.members or membership.USUAL)

    def _begin(self, place: places.Place, option: Any = None) -> None:
        super()._begin(place, option)
        self._own: Mutex | None = None
        try:
            wanted = option.members or self._most
            if wanted != self._most:
                raise InvalidValue(
                    f"it was made with members={self._most}, not {wanted}",
                    subject=place.subject,
                    remedy="leave members out to use it as it is, or unlink it first",
                )
            self._option = _Terms(option.mutex, self._most)
            mutex: Mutex | None = option.mutex
            if mutex is None:
                mutex = self._own = Mutex._at(place.part("mutex", _MUTEX), False)
            self._mutex = mutex
            self._use(mutex)
            self._mutex._waited_by(self)
            self._join(None)
        except BaseException:
            self.close()
            raise

    def _open(self, buffer: Any, offset: int, option: Any, /) -> int:
        members = option.members or membership.USUAL
        return super()._open(buffer, offset, (members, watcher.core()))

    # ── the mutex: acquire, release and `with` are native ────────────────────────────────────

    def hold(self, timeout: float | None = None) -> AbstractContextManager[Mutex, None]:
        """``with condition.hold(timeout=2) as held``: as ``with condition``, waiting up to ``timeout`` seconds for the mutex."""
        return _native.Holding(self._enter, (timeout,), self.__exit__, ())

    async def __aenter__(self) -> NoReturn:
        raise Unsupported(
            "a task can't wait for a condition",
            subject=self._subject,
            why="it would have to hold a mutex, and that belongs to a thread",
            remedy="run the whole block in a thread (asyncio.to_thread), or use an Event",
        )

    async def __aexit__(self, *exception: object) -> None:
        """Never reached."""

    # ── waiting: wait, notify and notify_all are native ──────────────────────────────────────

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until ``predicate()``, called with the mutex held, gives something true, and return that.

        After ``timeout`` seconds, return what it gives then. Raises as `wait`, before it asks, and what the predicate raises.
        """
        limit = deadline(timeout)
        self._join(limit.remaining())
        if not self._mutex._held:
            self._refused(errno.EPERM, None)
        result = predicate()
        while not result and self.wait(limit.remaining()):
            result = predicate()
        return result or predicate()

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Let go of it, and of its own mutex, if that is what it goes with; others keep them. Closing twice does nothing.

        Raises StillInUse while a thread of this process waits by it, or holds or waits for its own mutex.
        """
        own = getattr(self, "_own", None)
        if own is not None:
            own.close()
        super().close()

    def __repr__(self) -> str:
        mutex = getattr(self, "_mutex", None)
        try:
            state = "closed" if mutex is None else "held" if mutex.locked else "free"
        except Closed:
            state = "closed"
        return f"<Condition {self._named()}, mutex {state}>"

    # ── what the native side refuses ─────────────────────────────────────────────────────────

    def _refused(self, error: int, argument: Any, /) -> NoReturn:
        refused = membership.refused(error, self._subject, self._most)
        if refused is not None:
            raise refused
        match error:
            case errno.EPERM:
                raise NotOwner(
                    "this thread does not hold the mutex",
                    subject=self._subject,
                    why=self._mutex._whose(),
                    remedy="wait and notify inside `with condition:`, or with the Mutex object that it was made with",
                )
            case errno.ETIMEDOUT:
                raise Timeout(
                    "not acquired",
                    subject=self._subject,
                    why=f"another process did not let this one in for all the {float(argument):g} s",
                    remedy="see whether a process that uses it is stopped, or wait longer",
                )
            case errno.EMEDIUMTYPE:
                raise InvalidValue(
                    "another mutex goes with it",
                    subject=self._subject,
                    why="who uses it now has used it with that one, and would not be kept out by this",
                    remedy="open it with the same mutex everywhere, or without any, to use its own",
                )
            case errno.EDOM:
                raise InvalidValue(
                    f"n={argument!r} makes no sense",
                    subject=self._subject,
                    remedy="give a whole number, 1 or more",
                )
            case _:
                super()._refused(error, argument)
