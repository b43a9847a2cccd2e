"""Waiting: the two drivers of operations. `run` blocks the calling thread, `arun` suspends an asyncio task.

Each is three parts: stepping into the turnstile (who may run, and who is woken by a close: `kinfolk.turnstile`), one wait, and
running steps with such waits. What is waited for is a `kinfolk.interest.Interest`.
"""

from __future__ import annotations

from typing import TypeVar

from kinfolk.deadlines import Deadline
from kinfolk.interest import NOTHING, Interest, Steps, timed_out
from kinfolk.task_waiter import TaskWaiter, block_aside
from kinfolk.thread_waiter import this_threads_waiter
from kinfolk.turnstile import Turnstile

T = TypeVar("T")


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
    waiter = this_threads_waiter()
    try:
        turnstile.queue(waiter)
        while not turnstile.enter_from_queue(waiter, token):
            waiter.wait(NOTHING, deadline, what)
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
        waiter = this_threads_waiter()
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
            await waiter.wait(NOTHING, deadline, what)
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
