"""Waiting: what an operation waits for, kept apart from how the waiting is done.

An operation on a channel is written once, as a generator (`Steps`): it tries its system call and,
when the kernel says "not now", yields an `Interest`: the descriptors that will say when. Two
drivers run it: `run` blocks the calling thread in poll(2), `arun` suspends an asyncio task. (psycopg 3
drives its protocol like this; so neither variant is a copy of the other.)

Rules:
1. A generator keeps whatever must survive a timeout or a cancellation in its object, never in
   its frame: a driver may close it at any yield.
2. Who may run, and who is woken by a close, is the turnstile's: see `kinfolk.turnstile`.
3. A thread that blocks needs something to be woken by: one eventfd a thread, made when it blocks for
   the first time and made anew after a fork, because a forked child would share its parent's.
4. What can't be polled is a `BlockingCall`: a thread runs it itself, a task has a helper thread run it.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import threading
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from kinfolk.deadlines import Deadline
from kinfolk.errors import Timeout, from_os_error
from kinfolk.helper_threads import BlockingCall, block_aside
from kinfolk.turnstile import Turnstile

T = TypeVar("T")


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


_NOTHING = Interest()

Steps = Generator[Interest, None, T]


def timed_out(what: str, deadline: Deadline) -> Timeout:
    """The error for an operation, ``what``, whose deadline has passed."""
    return Timeout(what, why=f"not ready within {deadline.timeout:g} s")


def ready(value: T) -> Steps[T]:
    """The steps of an operation that has nothing to wait for."""
    return value
    yield


# ── how a thread waits ───────────────────────────────────────────────────────────────────────


class ThreadWaiter:
    """The calling thread's own eventfd, with which any other thread wakes it from poll(2)."""

    __slots__ = ("__weakref__", "_fd", "_interest", "_pid", "_poll")

    def __init__(self) -> None:
        self._fd = -1
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as error:
            raise from_os_error(error, "a blocking call can't be made wakeable") from error
        self._pid = os.getpid()
        self._interest: Interest | None = None  # what _poll was made for
        self._poll = select.poll()

    def wake(self) -> None:
        """Make the thread's poll return; safe from any thread."""
        os.eventfd_write(self._fd, 1)

    def wait(self, interest: Interest, deadline: Deadline, what: str) -> None:
        """Sleep until the interest is ready or somebody wakes this thread. Raises Timeout."""
        if interest is not self._interest:  # mostly a thread waits for the same one again and again
            self._poll = select.poll()
            for fd, mask in _masks(interest).items():
                self._poll.register(fd, mask)
            self._poll.register(self._fd, select.POLLIN)
            self._interest = interest
        patience = deadline.milliseconds()
        if interest.again_in is not None:
            pause = math.ceil(interest.again_in * 1000)
            patience = pause if patience is None else min(patience, pause)
        ready = self._poll.poll(patience)
        if not ready and deadline.passed():
            raise timed_out(what, deadline)
        for fd, _ in ready:
            if fd == self._fd:
                os.eventfd_read(fd)

    @property
    def usable(self) -> bool:
        """False in a forked child, whose parent still waits on the same eventfd."""
        return self._pid == os.getpid()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            close(self._fd)


def _masks(interest: Interest) -> dict[int, int]:
    # A descriptor may stand in several roles, and poll keeps one mask for each.
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
        self._future: asyncio.Future[bool] = self._loop.create_future()

    def wake(self) -> None:
        """Make the task run again; safe from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._ready)
        except RuntimeError:  # the loop has ended, and its tasks with it
            return

    def _ready(self) -> None:
        if not self._future.done():
            self._future.set_result(True)

    def _expire(self) -> None:
        if not self._future.done():
            self._future.set_result(False)

    async def wait(self, interest: Interest, deadline: Deadline, what: str) -> None:
        """Suspend the task until the interest is ready or somebody wakes it. Raises Timeout."""
        future = self._future = self._loop.create_future()
        watched = _Watched(self._loop, interest, self._ready)
        patience = deadline.remaining()
        if interest.again_in is not None:
            patience = interest.again_in if patience is None else min(patience, interest.again_in)
        # Not by asyncio.wait_for: before 3.12 it forgets a cancellation that comes together with the readiness.
        timer = None if patience is None else self._loop.call_later(patience, self._expire)
        try:
            if not await future and deadline.passed():
                raise timed_out(what, deadline)
        finally:
            if timer is not None:
                timer.cancel()
            watched.stop()


class _Watched:
    """Readers and writers in an event loop; hang-ups are seen through an epoll of their own."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interest: Interest, ready: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._interest = interest
        self._epoll: select.epoll | None = None
        try:
            self._start(ready)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise from_os_error(error, "can't wait") from error
            raise

    def _start(self, ready: Callable[[], None]) -> None:
        for fd in self._interest.readable:
            self._loop.add_reader(fd, ready)
        for fd in self._interest.writable:
            self._loop.add_writer(fd, ready)
        if self._interest.hangup:
            # add_reader would also wake for data, again and again; an epoll asked for nothing
            # reports only EPOLLHUP and EPOLLERR, and is itself readable when it has some.
            self._epoll = select.epoll()
            for fd in self._interest.hangup:
                self._epoll.register(fd, 0)
            self._loop.add_reader(self._epoll.fileno(), ready)

    def stop(self) -> None:
        for fd in self._interest.readable:
            self._loop.remove_reader(fd)
        for fd in self._interest.writable:
            self._loop.remove_writer(fd)
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()


# ── the two drivers ──────────────────────────────────────────────────────────────────────────
#
# Each is three parts: stepping into the turnstile, one wait, and running steps with such waits.


def run(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run an operation in the calling thread. Raises Timeout, Closed, and what the steps raise.

    ``what`` names the operation in a Timeout.
    """
    token = object()
    try:
        enter(turnstile, token, deadline, what)
        value = drive(steps, turnstile, deadline, what)
        turnstile.leave(token)
        return value
    except BaseException:  # also a KeyboardInterrupt while leaving
        turnstile.leave(token)
        raise


def enter(turnstile: Turnstile, token: object, deadline: Deadline, what: str) -> None:
    """Step into a turnstile, standing in line while somebody else is inside.

    Whatever comes of it, ``leave`` has to be called with the same token.
    """
    if turnstile.enter(token):
        return
    if deadline.passed():
        raise timed_out(what, deadline)
    waiter = _thread_waiter()
    try:
        turnstile.queue(waiter)
        while not turnstile.enter_from_queue(waiter, token):
            waiter.wait(_NOTHING, deadline, what)
    except BaseException:
        turnstile.leave_queue(waiter)
        raise


def drive(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run steps inside a turnstile; they are closed when a wait ends in an exception."""
    try:
        interest = next(steps)
        while True:
            block(interest, turnstile, deadline, what)
            interest = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def block(interest: Interest, turnstile: Turnstile, deadline: Deadline, what: str) -> None:
    """Sleep inside a turnstile until an interest is ready. Raises Timeout, Closed."""
    if deadline.at is not None and deadline.passed():
        raise timed_out(what, deadline)
    if interest.call is None:
        waiter = _thread_waiter()
        turnstile.asleep(waiter)
        waiter.wait(interest, deadline, what)
        turnstile.awake()
    else:
        turnstile.asleep(interest.call)
        turnstile.awake(done=interest.call.block(deadline.milliseconds()))


async def arun(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run an operation in the current asyncio task; the same contract as `run`."""
    token = object()
    try:
        await aenter(turnstile, token, deadline, what)
        value = await adrive(steps, turnstile, deadline, what)
        turnstile.leave(token)
        return value
    except BaseException:
        turnstile.leave(token)
        raise


async def aenter(turnstile: Turnstile, token: object, deadline: Deadline, what: str) -> None:
    """`enter`, for the current task."""
    if turnstile.enter(token):
        return
    waiter = TaskWaiter()
    try:
        turnstile.queue(waiter)
        while not turnstile.enter_from_queue(waiter, token):
            await waiter.wait(_NOTHING, deadline, what)
    except BaseException:
        turnstile.leave_queue(waiter)
        raise


async def adrive(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """`drive`, for the current task."""
    try:
        interest = next(steps)
        while True:
            await ablock(interest, turnstile, deadline, what)
            interest = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def ablock(interest: Interest, turnstile: Turnstile, deadline: Deadline, what: str) -> None:
    """`block`, for the current task."""
    if deadline.passed():
        raise timed_out(what, deadline)
    if interest.call is None:
        waiter = TaskWaiter()
        turnstile.asleep(waiter)
        await waiter.wait(interest, deadline, what)
        turnstile.awake()
    else:
        turnstile.asleep(interest.call)
        turnstile.awake(done=await block_aside(interest.call, deadline.milliseconds()))
