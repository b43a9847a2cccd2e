"""How an asyncio task waits: on a future that the loop, a timer or any thread completes.

Rules:
1. asyncio is imported where it is used: a program that does not use it need not load it.
2. A loop takes each descriptor once: `add_reader` of a number replaces what is there, and nobody is told. The numbers that
   an end gives by `fileno` are for its user's callbacks. So a wait has an epoll of its own over them, and the loop sees that. (Not a duplicate:
   closing one would release the claims of this process, see `kinfolk.channels.claims`.)
3. A helper thread has left its call when `block_aside` returns, whatever ends it.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kinfolk import helper_threads
from kinfolk.deadlines import Deadline
from kinfolk.errors import from_os_error
from kinfolk.helper_threads import BlockingCall
from kinfolk.interest import Interest, timed_out

if TYPE_CHECKING:
    import asyncio


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop that the calling task runs in."""
    # Not by an import statement, which takes a third of a microsecond for every message.
    return sys.modules["asyncio"].get_running_loop()  # type: ignore[no-any-return]


def loop_here() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, if one does."""
    if "asyncio" not in sys.modules:
        return None
    try:
        return running_loop()
    except RuntimeError:
        return None


class TaskWaiter:
    """The current asyncio task's future, with which any thread wakes it."""

    __slots__ = ("_future", "caller")

    def __init__(self) -> None:
        self.caller = running_loop()
        self._future: asyncio.Future[bool] = self.caller.create_future()

    def wake(self) -> None:
        """Make the task run again; safe from any thread."""
        try:
            self.caller.call_soon_threadsafe(self._ready)
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
        future = self._future = self.caller.create_future()
        watched = _Watched(self.caller, interest, self._ready)
        patience = deadline.remaining()
        if interest.again_in is not None:
            patience = interest.again_in if patience is None else min(patience, interest.again_in)
        # Not by asyncio.wait_for: before 3.12 it forgets a cancellation that comes together with the readiness.
        timer = None if patience is None else self.caller.call_later(patience, self._expire)
        try:
            if not await future and deadline.passed():
                raise timed_out(what, deadline)
        finally:
            if timer is not None:
                timer.cancel()
            watched.stop()


class _Watched:
    """The descriptors of an interest, in an event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interest: Interest, ready: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._epoll: select.epoll | None = None
        masks = interest.masks()
        if not masks:
            return
        try:
            self._epoll = select.epoll()
            for fd, mask in masks.items():
                self._epoll.register(fd, mask)
            loop.add_reader(self._epoll.fileno(), ready)
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise from_os_error(error, "can't wait") from error
            raise

    def stop(self) -> None:
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            try:
                self._loop.remove_reader(epoll.fileno())
            finally:
                epoll.close()


_PATIENCE = 1.0  # seconds for a thread that needs microseconds, unless the interpreter ends and has frozen it


async def block_aside(call: BlockingCall, milliseconds: int | None) -> bool:
    """Run a call in a helper thread, from a task. A cancellation ends the call, and waits for its outcome.

    If the call had done the operation by then, the operation succeeds, and the task is cancelled at
    its next await instead: a cancelled send was not sent.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[bool] = loop.create_future()
    left = threading.Event()

    def settle(done: bool, error: BaseException | None) -> None:
        if error is None:
            outcome.set_result(done)
        else:
            outcome.set_exception(error)

    def report(done: bool, error: BaseException | None) -> None:
        left.set()
        with contextlib.suppress(RuntimeError):  # the loop has ended, and its tasks with it
            loop.call_soon_threadsafe(settle, done, error)

    cancelled: asyncio.CancelledError | None = None
    helper_threads.run(call, milliseconds, report)
    try:
        while not outcome.done():
            try:
                await asyncio.wait((outcome,))
            except asyncio.CancelledError as error:
                cancelled = error
                call.wake()
    except BaseException:  # a KeyboardInterrupt, or the task is dropped with its loop
        call.wake()
        left.wait(_PATIENCE)
        raise
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
