"""How an asyncio task waits: on a future that the loop, a timer or any thread completes.

asyncio is imported where it is used: a program that does not use it need not load it.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

from kinfolk import helper_threads
from kinfolk.deadlines import Deadline
from kinfolk.errors import from_os_error
from kinfolk.helper_threads import BlockingCall
from kinfolk.interest import Interest, timed_out

if TYPE_CHECKING:
    import asyncio


class TaskWaiter:
    """The current asyncio task's future, with which any thread wakes it."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        from asyncio import get_running_loop

        self._loop = get_running_loop()
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


async def block_aside(call: BlockingCall, milliseconds: int | None) -> bool:
    """Run a call in a helper thread, from a task. A cancellation ends the call, and waits for its outcome.

    If the call had done the operation by then, the operation succeeds, and the task is cancelled at
    its next await instead: a cancelled send was not sent.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[bool] = loop.create_future()

    def settle(done: bool, error: BaseException | None) -> None:
        if error is None:
            outcome.set_result(done)
        else:
            outcome.set_exception(error)

    def report(done: bool, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its tasks with it
            loop.call_soon_threadsafe(settle, done, error)

    helper_threads.run(call, milliseconds, report)
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.wait((outcome,))
        except asyncio.CancelledError as error:
            cancelled = error
            call.wake()
    if cancelled is not None:
        if outcome.exception() is not None or not outcome.result():
            raise cancelled
        _cancel_later(loop)
    return outcome.result()


def _cancel_later(loop: asyncio.AbstractEventLoop) -> None:
    from asyncio import current_task

    task = current_task()
    assert task is not None
    requests = task.cancelling()

    def cancel_again() -> None:
        # Unless who asked for it (asyncio.timeout) was satisfied, and has taken it back.
        if not task.done() and task.cancelling() >= requests > 0:
            task.uncancel()
            task.cancel()

    loop.call_soon(cancel_again)
