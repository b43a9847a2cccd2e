"""Waiting: the two drivers of operations. `run` blocks the calling thread, `arun` suspends an asyncio task.

Each is three parts: stepping into the turnstile (who may run, and who is woken by a close: `kinfolk.turnstile`), one wait, and
running steps with such waits. What is waited for is a `kinfolk.interest.Interest`.
"""

from __future__ import annotations

from threading import get_ident
from typing import TypeVar

from kinfolk._native import Finally
from kinfolk.deadlines import Deadline
from kinfolk.interest import NOTHING, Interest, Steps, timed_out
from kinfolk.task_waiter import TaskWaiter, block_aside, loop_here, running_loop
from kinfolk.thread_waiter import ThreadWaiter, lend, take_back
from kinfolk.turnstile import Turnstile

T = TypeVar("T")


def run(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run an operation in the calling thread. Raises Timeout, Closed, and what the steps raise.

    ``what`` names the operation in a Timeout.
    """
    token = object()
    with Finally(turnstile.leave, token):
        enter(turnstile, token, deadline, what)
        return drive(steps, turnstile, deadline, what)


def enter(turnstile: Turnstile, token: object, deadline: Deadline, what: str) -> None:
    """Step into a turnstile, standing in line while somebody else is inside.

    Whatever comes of it, ``leave`` has to be called with the same token. Raises Timeout, Closed, ForkedCopy, and UsageError
    when it would wait for itself.
    """
    if turnstile.enter(token):
        return
    if deadline.passed():
        raise timed_out(what, deadline)
    waiter = lend()
    try:
        with Finally(turnstile.leave_queue, waiter):
            turnstile.queue(waiter, get_ident(), loop_here())
            _stand_in_line(waiter, turnstile, token, deadline, what)
    finally:
        take_back(waiter)


def _stand_in_line(
    waiter: ThreadWaiter, turnstile: Turnstile, token: object, deadline: Deadline, what: str
) -> None:
    while not turnstile.enter_from_queue(waiter, token):
        waiter.wait(NOTHING, deadline, what)


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
        waiter = lend()
        try:
            wakeable = turnstile.asleep(waiter)
            waiter.wait(interest if wakeable else NOTHING, deadline, what)
        finally:
            take_back(waiter)
        goes_on = turnstile.awake()
    else:
        goes_on = turnstile.asleep(interest.call) and turnstile.awake(
            done=interest.call.block(deadline.milliseconds())
        )
    if not goes_on:
        block(NOTHING, turnstile, deadline, what)


async def arun(steps: Steps[T], turnstile: Turnstile, deadline: Deadline, what: str) -> T:
    """Run an operation in the current asyncio task; the same contract as `run`."""
    token = object()
    with Finally(turnstile.leave, token):
        await aenter(turnstile, token, deadline, what)
        return await adrive(steps, turnstile, deadline, what)


async def aenter(turnstile: Turnstile, token: object, deadline: Deadline, what: str) -> None:
    """`enter`, for the current task."""
    if turnstile.enter(token, running_loop()):
        return
    waiter = TaskWaiter()
    with Finally(turnstile.leave_queue, waiter):
        turnstile.queue(waiter, get_ident())
        await _astand_in_line(waiter, turnstile, token, deadline, what)


async def _astand_in_line(
    waiter: TaskWaiter, turnstile: Turnstile, token: object, deadline: Deadline, what: str
) -> None:
    while not turnstile.enter_from_queue(waiter, token):
        await waiter.wait(NOTHING, deadline, what)


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
        wakeable = turnstile.asleep(waiter)
        await waiter.wait(interest if wakeable else NOTHING, deadline, what)
        goes_on = turnstile.awake()
    else:
        goes_on = turnstile.asleep(interest.call) and turnstile.awake(
            done=await block_aside(interest.call, deadline.milliseconds())
        )
    if not goes_on:
        await ablock(NOTHING, turnstile, deadline, what)
