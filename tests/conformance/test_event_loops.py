"""Callbacks of the user's own, on the descriptors that ends give: what kinfolk waits for does not disturb them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import kinfolk as kin
from tests.conformance.fixtures import only
from tests.conformance.link import Link
from tests.conformance.peers import HANG
from tests.conformance.test_flow import fill, size_that_fits

with_descriptors = only(lambda variant: variant.scheme != "sysv-mq")


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop go on until a condition holds."""

    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(wait(), HANG)


def waited(end: Any, waits: int) -> bool:
    return bool(end.statistics().waits > waits)


def fileno(end: Any) -> int:
    number = end.fileno()
    assert isinstance(number, int)
    return number


@with_descriptors
def test_a_reader_of_the_users_own_stays(link: Link) -> None:
    receiver, sender = link.both()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        loop.add_reader(fileno(receiver), seen.append, 1)
        try:
            for number in range(3):
                waits = receiver.statistics().waits
                task = asyncio.create_task(receiver.arecv(timeout=HANG))
                await until(partial(waited, receiver, waits))
                sender.send(number)
                assert await task == number
            task = asyncio.create_task(receiver.arecv())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            seen.clear()
            sender.send("for the reader")
            await until(lambda: seen)
        finally:
            assert loop.remove_reader(fileno(receiver))
        assert receiver.recv(timeout=0) == "for the reader"

    asyncio.run(body())


@with_descriptors
def test_a_reader_that_comes_later_takes_nothing_from_who_waits(link: Link) -> None:
    receiver, sender = link.both()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(receiver.arecv(timeout=HANG))
        await until(lambda: receiver.statistics().waits)
        loop.add_reader(fileno(receiver), lambda: None)
        try:
            sender.send("x")
            assert await task == "x"
        finally:
            assert loop.remove_reader(fileno(receiver))

    asyncio.run(body())


@with_descriptors
def test_a_writer_of_the_users_own_stays(link: Link) -> None:
    receiver, sender = link.both()
    if isinstance(sender, kin.Connection):  # its descriptor is for receiving
        return
    size = size_that_fits(sender)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        taken = fill(sender, size)
        waits = sender.statistics().waits
        loop.add_writer(fileno(sender), seen.append, 1)
        try:
            task = asyncio.create_task(sender.asend_bytes(bytes(size), timeout=HANG))
            await until(lambda: sender.statistics().waits > waits)
            for _ in range(taken + 1):
                await receiver.arecv_bytes(timeout=HANG)
            await task
            seen.clear()
            await until(lambda: seen)
        finally:
            assert loop.remove_writer(fileno(sender))

    asyncio.run(body())
