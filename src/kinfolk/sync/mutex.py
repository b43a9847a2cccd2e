"""One at a time, between processes: a mutex that is never left locked.

    with kin.Mutex("jobs") as held:            taken, or waited for
        if held.owner_died:                    whoever had it was killed in the middle
            repair()                           … or held.give_up()
        change()

                      release
       free  <────────────────────  held  ──── its thread ends, is killed ───> free, owner_died for the next
        ▲        ─────────────────>   │
        │              acquire        └──────── give_up ────────> nobody's any more: OwnerDied for everybody
        └── with a strict one, OwnerDied is raised, and nothing taken, until one that is not strict takes it

The mutex is a word in shared memory that the kernel knows (a robust futex: native/mutex.c): when its thread ends, the
kernel releases it and wakes the next one, at once and whatever the instruction. include/kinfolk.h is the same for C.

Rules:
1. It belongs to the *thread* that acquired it. A thread that ends without releasing it counts as dead, and so does a process that
   executes another program. Nobody else can release it; a forked child does not have what its parent holds.
2. It is taken once: the same thread can't acquire it again.
3. Whoever is awake takes it before who has to be woken; but who has waited in vain for some milliseconds is let by.
4. Held or waited for, it can't be closed, and keeps its memory. Dropped while it is held, it stays held until its thread ends, for nobody
   else can release it: a ResourceWarning says so.

Fork: a copy is a handle of the same mutex, unless the parent was in a with block: then it was the parent's, and is.
"""

from __future__ import annotations

import errno
import sys
import threading
import warnings
import weakref
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NoReturn

from kinfolk import _native
from kinfolk.errors import (
    CorruptObject,
    Deadlock,
    ForkedCopy,
    NotOwner,
    OwnerDied,
    StillInUse,
    Timeout,
    Unsupported,
)
from kinfolk.sync import places
from kinfolk.sync.findings import described
from kinfolk.sync.placed import Placed


class Mutex(_native.Mutex, Placed):
    """A lock between processes that no death leaves locked. Thread-safe; as a context manager it acquires and releases.

    The methods that matter are native: acquire and release take about as long as two calls of any C function.
    """

    KIND: ClassVar[str] = "mutex"
    SIZE: ClassVar[int] = 128

    def __init__(self, name: str | None = None, *, strict: bool = False) -> None:
        """The one of this user's ``name``, made if there is none; without a name, one of this process and those it starts.

        A ``strict`` one raises OwnerDied instead of being acquired after its owner died. Raises InvalidValue, CorruptObject,
        UntrustedPeer, NoSpace, LimitReached, AccessDenied, Unsupported; Timeout when somebody else is making it, and was stopped.
        """
        if name is None:
            self._begin(places.anonymous(self.KIND, self.SIZE), strict)
        else:
            self._begin_named(name, strict)

    @classmethod
    def inside(cls, memory: places.Memory | Any, offset: int = 0, *, strict: bool = False) -> Mutex:
        """The one at an ``offset`` of memory that processes share: a SharedMemory, or any writable buffer over such memory.

        It takes `SIZE` bytes at a multiple of `ALIGNMENT`, zeroed before the first use. The memory can't be closed while the mutex
        is open. Raises InvalidValue, CorruptObject, Timeout, Unsupported.
        """
        return cls._at(places.inside(cls.KIND, memory, offset), strict)

    # ── acquiring: acquire, release, give_up, locked, owner_died are native ──────────────────

    def hold(self, timeout: float | None = None) -> AbstractContextManager[Mutex, None]:
        """``with mutex.hold(timeout=2) as held``: as ``with mutex``, waiting up to ``timeout`` seconds. Raises as `acquire`."""
        return _native.Holding(self._enter, (timeout,), self.__exit__, ())

    async def __aenter__(self) -> NoReturn:
        raise Unsupported(
            "a task can't hold a mutex",
            subject=self._subject,
            why="it belongs to a thread, and all tasks of a loop are one",
            remedy="run the whole block in a thread (asyncio.to_thread), or use a Semaphore of 1",
        )

    async def __aexit__(self, *exception: object) -> None:
        """Never reached."""

    # ── conditions ───────────────────────────────────────────────────────────────────────────

    def _waited_by(self, condition: Any) -> None:
        """A `kinfolk.sync.condition.Condition` goes with it, as long as that is alive."""
        known: dict[int, weakref.ref[Any]] = self.__dict__.setdefault("_conditions", {})
        key = id(condition)
        known[key] = weakref.ref(condition, lambda _: known.pop(key, None))

    def _gave_up(self) -> None:
        # Who waits there would wait for a notify by somebody who holds it.
        for condition in list(self.__dict__.get("_conditions", {}).values()):
            if (waited := condition()) is not None:
                waited._wake()

    def _dropped(self) -> None:
        # Held, it stays so until its thread ends, for that could only release it by this object.
        if not sys.is_finalizing():
            what = f"unreleased {self._subject}"
            warnings.warn(what, ResourceWarning, source=self, stacklevel=2)

    # ── the rest ─────────────────────────────────────────────────────────────────────────────

    def __repr__(self) -> str:
        state = f"held by thread {holder}" if (holder := self._holder) else "free"
        return f"<Mutex {self._named()}, {state}>"

    # ── what the native side refuses ─────────────────────────────────────────────────────────

    def _refused(self, error: int, timeout: Any, /) -> NoReturn:
        subject = self._subject
        match error:
            case errno.ETIMEDOUT:
                raise Timeout(
                    "not acquired",
                    subject=subject,
                    why=f"{self._whose()} for all the {float(timeout):g} s",
                    remedy="see what holds it, or wait longer",
                )
            case errno.EDEADLK:
                raise Deadlock(
                    "this thread holds it already",
                    subject=subject,
                    why="it would wait for itself for ever",
                    remedy="release it first; two tasks of one event loop are one thread",
                )
            case errno.EPERM:
                raise self._not_ours(subject)
            case errno.EOWNERDEAD:
                raise OwnerDied(
                    "whoever held it died",
                    subject=subject,
                    why="what it guards may be half done, and this mutex is strict",
                    remedy="let one that is not strict take it and repair",
                )
            case errno.ENOTRECOVERABLE:
                raise OwnerDied(
                    "it was given up for good",
                    subject=subject,
                    why="what it guards could not be repaired",
                    remedy="make what it guards anew, with a new mutex",
                )
            case errno.EBUSY:
                raise StillInUse(
                    "it can't be closed",
                    subject=subject,
                    why="a thread of this process holds it, or waits for it",
                    remedy="release it first",
                )
            case errno.EILSEQ:
                raise CorruptObject(
                    "its memory was overwritten while this thread held it", subject=subject
                )
            case _:
                super()._refused(error, timeout)

    def _not_ours(self, subject: str) -> ForkedCopy | NotOwner:
        if self._held_before_fork:
            return ForkedCopy(
                "this process does not hold it",
                subject=subject,
                why="it was acquired before the fork, by the parent, which still has it",
                remedy="acquire it here too, or fork outside the with block",
            )
        if self._holder == threading.get_native_id():
            why = "this thread acquired it by another Mutex object"
        else:
            why = self._whose()
        return NotOwner(
            "this thread does not hold it",
            subject=subject,
            why=why,
            remedy="let the thread that acquired it release it",
        )

    def _whose(self) -> str:
        """Who holds it just now, for people."""
        thread = self._holder
        return f"{described(thread)} holds it" if thread else "nobody holds it"
