"""Waiting: what an operation waits for, kept apart from how the waiting is done.

An operation on a channel is written once, as a generator (`Steps`): it tries its system call and,
when the kernel says "not now", yields an `Interest`: the descriptors that will say when. Two
drivers run it: `run` blocks the calling thread in poll(2), `arun` suspends an asyncio task. (psycopg 3
drives its protocol like this; so neither variant is a copy of the other.)

Rules:
1. A generator keeps whatever must survive a timeout or a cancellation in its object, never in
   its frame: a driver may close it at any yield.
2. One operation at a time passes the `Turnstile` of one direction of one end, in order of arrival,
   whether it comes from a thread or from a task.
3. `Turnstile.close` wakes everybody who waits in it, in whatever thread or loop, and they raise Closed.
   Only when the last one has left it are the descriptors closed, so none is used after.
4. A thread that blocks needs something to be woken by: one eventfd a thread, made when it blocks for
   the first time and made anew after a fork, because a forked child would share its parent's.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol, TypeVar

from kinfolk.deadlines import Deadline
from kinfolk.errors import Closed, ForkedCopy, Timeout

T = TypeVar("T")


class BlockingCall(Protocol):
    """A wait for which the kernel has no descriptor (msgrcv(2)), as a call that blocks."""

    def block(self, milliseconds: int | None) -> None:
        """Return once another try is worth it, when `wake` was called, or when time is up."""

    def wake(self) -> None:
        """Make `block` return soon, in whatever thread it runs, also if it is only about to."""


class Interest(NamedTuple):
    """What, once ready, is worth another try: any of these."""

    readable: tuple[int, ...] = ()
    writable: tuple[int, ...] = ()
    #: descriptors of which only a hang-up or an error matters (the presence of the other side)
    hangup: tuple[int, ...] = ()
    #: try again after so many seconds, where the kernel announces nothing (a name that appears)
    again_in: float | None = None
    #: instead of all the above, where there is no descriptor to wait on
    call: BlockingCall | None = None


Steps = Generator[Interest, None, T]


def timed_out(what: str, deadline: Deadline) -> Timeout:
    """The error for an operation, ``what``, whose deadline has passed."""
    return Timeout(what, why=f"not ready within {deadline.timeout:g} s")


def ready(value: T) -> Steps[T]:
    """The steps of an operation that has nothing to wait for."""
    return value
    yield


class Waiter(Protocol):
    """Somebody who is suspended, and how to wake him from any thread."""

    def wake(self) -> None:
        """Make him look again."""


# ── how a thread waits ───────────────────────────────────────────────────────────────────────


class ThreadWaiter:
    """The calling thread's own eventfd, with which any other thread wakes it from poll(2)."""

    __slots__ = ("__weakref__", "_fd", "_pid")

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pid = os.getpid()

    def wake(self) -> None:
        """Make the thread's poll return; safe from any thread."""
        os.eventfd_write(self._fd, 1)

    def wait(self, interest: Interest, deadline: Deadline, what: str) -> None:
        """Sleep until the interest is ready or somebody wakes this thread. Raises Timeout."""
        poll = select.poll()
        # A descriptor may stand in several roles: poll keeps one mask a descriptor.
        for fd, mask in _masks(interest).items():
            poll.register(fd, mask)
        poll.register(self._fd, select.POLLIN)
        patience = deadline.milliseconds()
        if interest.again_in is not None:
            pause = math.ceil(interest.again_in * 1000)
            patience = pause if patience is None else min(patience, pause)
        ready = poll.poll(patience)
        if not ready and deadline.passed():
            raise timed_out(what, deadline)
        if any(fd == self._fd for fd, _ in ready):
            os.eventfd_read(self._fd)

    @property
    def usable(self) -> bool:
        """False in a forked child, whose parent still waits on the same eventfd."""
        return self._pid == os.getpid()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._fd)


def _masks(interest: Interest) -> dict[int, int]:
    masks: dict[int, int] = dict.fromkeys(interest.hangup, 0)
    for fd in interest.readable:
        masks[fd] = masks.get(fd, 0) | select.POLLIN
    for fd in interest.writable:
        masks[fd] = masks.get(fd, 0) | select.POLLOUT
    return masks


class _ThreadLocal(threading.local):
    waiter: ThreadWaiter | None = None


_this_thread = _ThreadLocal()


def _thread_waiter() -> ThreadWaiter:
    waiter = _this_thread.waiter
    if waiter is None or not waiter.usable:
        waiter = _this_thread.waiter = ThreadWaiter()
    return waiter


# ── how a task waits ─────────────────────────────────────────────────────────────────────────


class TaskWaiter:
    """The current asyncio task's future, with which any thread wakes it."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> None:
        """Make the task run again; safe from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._ready)
        except RuntimeError:  # the loop has ended, and its tasks with it
            return

    def _ready(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, interest: Interest, deadline: Deadline, what: str) -> None:
        """Suspend the task until the interest is ready or somebody wakes it. Raises Timeout."""
        self._future = self._loop.create_future()
        watched = _Watched(self._loop, interest, self._ready)
        patience = deadline.remaining()
        if interest.again_in is not None:
            patience = interest.again_in if patience is None else min(patience, interest.again_in)
        try:
            await asyncio.wait_for(self._future, patience)
        except TimeoutError:
            if deadline.passed():
                raise timed_out(what, deadline) from None
        finally:
            watched.stop()


class _Watched:
    """Readers and writers in an event loop; hang-ups are seen through an epoll of their own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interest: Interest, ready: Callable[[], None]) -> None:
        self._loop = loop
        self._interest = interest
        self._epoll: select.epoll | None = None
        for fd in interest.readable:
            loop.add_reader(fd, ready)
        for fd in interest.writable:
            loop.add_writer(fd, ready)
        if interest.hangup:
            # add_reader would also wake for data, again and again; an epoll asked for nothing
            # reports only EPOLLHUP and EPOLLERR, and is itself readable when it has some.
            self._epoll = select.epoll()
            for fd in interest.hangup:
                self._epoll.register(fd, 0)
            loop.add_reader(self._epoll.fileno(), ready)

    def stop(self) -> None:
        for fd in self._interest.readable:
            self._loop.remove_reader(fd)
        for fd in self._interest.writable:
            self._loop.remove_writer(fd)
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


# ── one operation at a time ──────────────────────────────────────────────────────────────────


class Turnstile:
    """Lets one operation at a time through one direction of one end; closing wakes all.

    Thread-safe. In a forked child it is empty, for the threads that waited here do not exist
    there; if one was inside at the fork, the end may be in the middle of a message: ForkedCopy.
    """

    __slots__ = ("__weakref__", "_mutex", "_occupied", "_on_empty", "_queue", "_sleeper", "_torn", "closed", "subject", "waits")

    def __init__(self, subject: str, on_empty: Callable[[], None]) -> None:
        """``subject`` is for messages; ``on_empty`` runs once, when closed and left by all."""
        self.subject = subject
        self.closed = False
        self.waits = 0  # how often an operation inside had to sleep
        self._on_empty: Callable[[], None] | None = on_empty
        self._torn = False
        self._clear()
        _turnstiles.add(self)

    def _clear(self) -> None:
        self._mutex = threading.Lock()
        self._occupied = False
        self._sleeper: Waiter | None = None  # who is inside, while asleep
        self._queue: deque[Waiter] = deque()

    def after_fork_in_child(self) -> None:
        """Start anew in a forked child."""
        self._torn = self._torn or self._occupied
        self._clear()

    def enter(self) -> bool:
        """Step in when nobody is inside. Raises Closed, ForkedCopy."""
        with self._mutex:
            self._check()
            if self._occupied or self._queue:
                return False
            self._occupied = True
            return True

    def queue(self, waiter: Waiter) -> None:
        """Stand in line; the waiter is woken when it is its turn or the end is closed."""
        with self._mutex:
            self._check()
            self._queue.append(waiter)
            self._wake_next()

    def enter_from_queue(self, waiter: Waiter) -> bool:
        """Step in when it is this waiter's turn. Raises Closed."""
        with self._mutex:
            self._check()
            if self._occupied or self._queue[0] is not waiter:
                return False
            self._queue.popleft()
            self._occupied = True
            return True

    def leave_queue(self, waiter: Waiter) -> None:
        """Give up waiting, after a timeout or a cancellation."""
        with self._mutex:
            if waiter in self._queue:
                self._queue.remove(waiter)
            self._wake_next()

    def asleep(self, waiter: Waiter) -> None:
        """Who is inside goes to sleep, and wants to hear of a close. Raises Closed."""
        with self._mutex:
            self._check()
            self._sleeper = waiter
            self.waits += 1

    def awake(self) -> None:
        """Who is inside woke up. Raises Closed when that was because of a close."""
        with self._mutex:
            self._sleeper = None
            self._check()

    def leave(self) -> None:
        """Step out; the next in line is woken, or, when closed, what is to be closed is."""
        with self._mutex:
            self._occupied, self._sleeper = False, None
            self._wake_next()
            ending = self._take_ending()
        if ending is not None:
            ending()

    def close(self) -> None:
        """Wake everybody inside and in line; they raise Closed. Closing twice does nothing."""
        with self._mutex:
            self.closed = True
            for waiter in self._queue:
                waiter.wake()
            self._queue.clear()
            if self._sleeper is not None:
                self._sleeper.wake()
            ending = self._take_ending()
        if ending is not None:
            ending()

    def _check(self) -> None:
        if self.closed:
            raise Closed("this end is closed", subject=self.subject)
        if self._torn:
            raise ForkedCopy(
                "this copy can't be used",
                subject=self.subject,
                why="another thread was using it when this process was forked",
                remedy="fork while it is idle, or open an end of its own in the child",
            )

    def _wake_next(self) -> None:
        if self._queue and not self._occupied:
            self._queue[0].wake()

    def _take_ending(self) -> Callable[[], None] | None:
        if not self.closed or self._occupied:
            return None
        ending, self._on_empty = self._on_empty, None
        return ending


_turnstiles: weakref.WeakSet[Turnstile] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for turnstile in list(_turnstiles):
        turnstile.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


# ── the two drivers ──────────────────────────────────────────────────────────────────────────


def run(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run an operation in the calling thread. Raises Timeout, Closed, and what the steps raise.

    ``what`` names the operation in a Timeout.
    """
    if not turnstile.enter():
        _stand_in_line(turnstile, deadline, what)
    try:
        interest = next(steps)
        while True:
            if deadline.passed():
                raise timed_out(what, deadline)
            if interest.call is None:
                waiter = _thread_waiter()
                turnstile.asleep(waiter)
                waiter.wait(interest, deadline, what)
            else:
                turnstile.asleep(interest.call)
                interest.call.block(deadline.milliseconds())
            turnstile.awake()
            interest = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()
        turnstile.leave()


def _stand_in_line(turnstile: Turnstile, deadline: Deadline, what: str) -> None:
    if deadline.timeout == 0:
        raise timed_out(what, deadline)
    waiter = _thread_waiter()
    turnstile.queue(waiter)
    try:
        while not turnstile.enter_from_queue(waiter):
            waiter.wait(Interest(), deadline, what)
    except BaseException:
        turnstile.leave_queue(waiter)
        raise


async def arun(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run an operation in the current asyncio task; the same contract as `run`."""
    waiter = TaskWaiter()
    if not turnstile.enter():
        turnstile.queue(waiter)
        try:
            while not turnstile.enter_from_queue(waiter):
                await waiter.wait(Interest(), deadline, what)
        except BaseException:
            turnstile.leave_queue(waiter)
            raise
    try:
        interest = next(steps)
        while True:
            if deadline.passed():
                raise timed_out(what, deadline)
            turnstile.asleep(waiter)
            await waiter.wait(interest, deadline, what)
            turnstile.awake()
            interest = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()
        turnstile.leave()
