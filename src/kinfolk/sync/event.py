"""Something that has come about, told to all who wait for it in whatever process.

    ready = kin.Event("ready")
    if ready.wait(timeout=5):        True: it is set; False: it was not for all the 5 s
        …
    ready.set()                      in another process: everybody goes

            set
     clear ─────> set      who comes now goes on at once
           <─────
            clear

It is a word in shared memory that the kernel knows (native/event.c). Nobody holds an event, and nobody is missed: whoever
is killed, setting it or waiting for it, at whatever instruction, leaves nobody asleep who should be awake.

Rules:
1. Who waits when it is set goes, even if it is cleared at once. (So it is with threads; multiprocessing.Event loses them.)
2. A wait that ends without it is no error, but False: threading's users ask for that, ``if event.wait(1): …``.
3. Whoever finds it set also finds what was written before it was set.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, ClassVar, Self

from kinfolk import _native
from kinfolk.deadlines import deadline
from kinfolk.errors import Closed, Timeout
from kinfolk.interest import Interest, Steps
from kinfolk.sync import places
from kinfolk.sync.placed import Placed
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun


class Event(_native.Event, Placed):
    """What has come about, or not yet, for all processes. Thread-safe; a forked child has it, too.

    As a context manager, it is closed at the end. The methods of threading.Event are native: is_set, set, clear, wait.
    """

    KIND: ClassVar[str] = "event"
    SIZE: ClassVar[int] = 192

    def __init__(self, name: str | None = None) -> None:
        """The one of this user's ``name``, made if there is none, not set; without a name, one of this process and those it starts.

        Raises InvalidValue, CorruptObject, UntrustedPeer, NoSpace, LimitReached, AccessDenied, Unsupported; Timeout when somebody else is
        making it, and was stopped.
        """
        if name is None:
            self._begin(places.anonymous(self.KIND, self.SIZE))
        else:
            self._begin_named(name)

    @classmethod
    def inside(cls, memory: places.Memory | Any, offset: int = 0) -> Event:
        """The one at an ``offset`` of memory that processes share: a SharedMemory, or any writable buffer over such memory.

        It takes `SIZE` bytes at a multiple of `ALIGNMENT`, zeroed before the first use. The memory can't be closed while the event
        is open. Raises InvalidValue, CorruptObject, Timeout, Unsupported.
        """
        return cls._at(places.inside(cls.KIND, memory, offset))

    def _begin(self, place: places.Place, option: Any = None) -> None:
        super()._begin(place, option)
        self._line_up()

    def _line_up(self) -> None:
        self._line, self._line_of = Turnstile(self._subject, _nothing), os.getpid()

    async def await_set(self, timeout: float | None = None) -> bool:
        """`wait`, on asyncio. Cancelling it leaves the event as it is.

        All tasks that wait by one object share one helper thread, for there is no descriptor to wait on: the first one has it. Raises
        InvalidValue, Closed, LimitReached when there can't be a thread.
        """
        limit = deadline(timeout)
        if self.is_set():
            return True
        wait = _native.EventWait(self)
        if self._line_of != os.getpid():
            self._line_up()
        try:
            await arun(_steps(wait), self._line, limit, "wait")
        except Timeout:
            return wait.done
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            state = "set" if self.is_set() else "not set"
        except Closed:
            state = "closed"
        return f"<Event {self._named()}, {state}>"


def _steps(wait: _native.EventWait) -> Steps[None]:
    while not wait.done:
        yield Interest(call=wait)


def _nothing() -> None:
    """Nothing is to be closed when a wait is over."""
