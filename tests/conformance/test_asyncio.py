"""The same contract awaited: cancelling a receive loses nothing, cancelling a send leaves the stream whole."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import Link
from tests.conformance.peers import HANG, open_descriptors, thread_of, until_blocked
from tests.conformance.test_flow import fill, larger_than_the_channel, size_that_fits
from tests.conformance.test_messages import pattern


def run(coroutine):
    async def bounded():
        async with asyncio.timeout(HANG):
            return await coroutine

    return asyncio.run(bounded())


def the_test_goes_on() -> None:
    """Not when it is the test itself that was cancelled, because it hangs."""
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "hangs"


async def asleep(end, calls: int = 1) -> None:
    """Until so many operations sleep in an end."""
    while end.statistics().waits < calls:
        await asyncio.sleep(0)


def test_a_conversation_of_tasks(link: Link):
    async def body():
        receiver, sender = link.both()

        async def sending():
            for number in range(200):
                await sender.asend([number, "x" * (number % 90)])
            await sender.asend_bytes(b"bytes")
            assert await sender.asend_many(range(5)) == 5
            sender.close()

        task = asyncio.create_task(sending())
        for number in range(200):
            assert await receiver.arecv() == [number, "x" * (number % 90)]
        assert await receiver.arecv_bytes() == b"bytes"
        rest: list[int] = []
        while len(rest) < 5:
            rest += await receiver.arecv_many(3)
        assert rest == list(range(5))
        await task
        if receiver.limits.presence:
            with pytest.raises(kin.EndOfChannel):
                await receiver.arecv()
        await receiver.__aexit__(None, None, None)
        assert receiver.closed

    run(body())


def test_async_for_ends_with_the_channel(link: Link):
    receiver, peer = link.from_peer(lambda sender, voice: sender.send_many([*range(50), "last"]))

    async def body():
        received = []
        async for thing in receiver:
            received.append(thing)
            if thing == "last" and not receiver.limits.presence:
                break
        return received

    assert run(body()) == [*range(50), "last"]
    peer.result()


def test_the_peer_dies_while_a_task_waits(link: Link):
    receiver, peer = link.from_peer(lambda sender, voice: (sender.send("x"), voice.hear()))
    if not receiver.limits.presence:
        assert receiver.recv(timeout=HANG) == "x"
        return

    async def body():
        assert await receiver.arecv() == "x"
        task = asyncio.create_task(receiver.arecv())
        await asleep(receiver)
        peer.kill(reap=False)
        with pytest.raises(kin.EndOfChannel):
            await task

    run(body())


@main_ways
def test_cancelled_receives_lose_nothing(link: Link):
    """At random moments: before it begins, while it sleeps, in the middle of a message, when it is done."""
    dice = random.Random(1)
    large = min(60_000, link.prepared(lambda end: end.limits.max_message))

    count = 400

    def sending(sender, voice):
        for number in range(count):
            sender.send_bytes(pattern(large if number % 10 == 9 else 50, number))

    receiver, peer = link.from_peer(sending)

    async def body():
        number = cancelled = 0
        while number < count:
            task = asyncio.create_task(receiver.arecv_bytes())
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            if dice.randrange(3):
                task.cancel()
            try:
                message = await task
            except asyncio.CancelledError:
                the_test_goes_on()
                cancelled += 1
                continue
            assert message == pattern(large if number % 10 == 9 else 50, number)
            number += 1
        return cancelled

    assert run(body()) > 20
    peer.result()


@main_ways
def test_a_cancelled_send_is_not_delivered_and_the_stream_stays_whole(link: Link):
    dice = random.Random(2)
    receiver, sender = link.both()
    large = min(larger_than_the_channel(sender), 1_000_000)
    count = 200

    async def body():
        delivered = []

        async def receiving():
            while (message := await receiver.arecv_bytes()) != b"the last":
                delivered.append(message)
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)

        reader = asyncio.create_task(receiving())
        done = []
        for number in range(count):
            message = pattern(large if number % 3 else 100, number)
            task = asyncio.create_task(sender.asend_bytes(message))
            for _ in range(dice.choice((0, 1, 2, 3, 5, 8))):
                await asyncio.sleep(0)
            if dice.randrange(2):
                task.cancel()
            try:
                await task
                done.append(message)
            except asyncio.CancelledError:
                the_test_goes_on()
        await sender.asend_bytes(b"the last")
        await reader
        assert len(done) < count - 5, "hardly anything was cancelled"
        assert delivered == done, "what was cancelled came, or what went out did not, or torn"

    run(body())


def test_two_tasks_on_one_end(link: Link):
    async def body():
        receiver, sender = link.both()
        tasks = [asyncio.create_task(receiver.arecv()) for _ in range(4)]
        await asleep(receiver)
        tasks[1].cancel()
        for number in range(3):
            await sender.asend(number)
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(got.pop(1), asyncio.CancelledError)
        assert got == [0, 1, 2]
        size = size_that_fits(sender)
        taken = fill(sender, size)
        sends = [asyncio.create_task(sender.asend_bytes(b"%d" % n * size)) for n in range(3)]
        await asleep(sender)
        for _ in range(taken):
            await receiver.arecv_bytes()
        assert [(await receiver.arecv_bytes())[:1] for _ in range(3)] == [b"0", b"1", b"2"]
        await asyncio.gather(*sends)

    run(body())


@pytest.mark.parametrize("timeout", [0, 0.003])
def test_timeouts(link: Link, timeout):
    async def body():
        receiver, sender = link.both()
        for call in (
            lambda: receiver.arecv(timeout=timeout),
            lambda: receiver.arecv_bytes(timeout=timeout),
            lambda: receiver.arecv_bytes_into(bytearray(9), timeout=timeout),
            lambda: receiver.arecv_many(3, timeout=timeout),
        ):
            with pytest.raises(kin.Timeout):
                await call()
        size = size_that_fits(sender)
        taken = fill(sender, size)
        for call in (
            lambda: sender.asend(bytes(size), timeout=timeout),
            lambda: sender.asend_bytes(bytes(size), timeout=timeout),
            lambda: sender.asend_many([bytes(size)], timeout=timeout),
        ):
            with pytest.raises(kin.Timeout):
                await call()
        for _ in range(taken):
            await receiver.arecv_bytes(timeout=HANG)
        with pytest.raises(kin.Timeout):
            await receiver.arecv_bytes(timeout=timeout)
        buffer = bytearray(5)
        await sender.asend_bytes(b"12345")
        assert await receiver.arecv_bytes_into(buffer, timeout=HANG) == 5
        assert buffer == b"12345"

    run(body())


def test_close_wakes_tasks(link: Link):
    async def body():
        receiver, sender = link.both()
        tasks = [asyncio.create_task(receiver.arecv()) for _ in range(2)]
        await asleep(receiver)
        receiver.close()
        for task in tasks:
            with pytest.raises(kin.Closed):
                await task
        if not isinstance(sender, kin.Connection) and not sender.limits.presence:
            size = size_that_fits(sender)
            fill(sender, size)
            task = asyncio.create_task(sender.asend_bytes(bytes(size)))
            await asleep(sender)
            sender.close()
            with pytest.raises(kin.Closed):
                await task

    run(body())


def test_a_thread_and_a_task_share_an_end(link: Link):
    receiver, sender = link.both()

    async def body():
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver)
            task = asyncio.create_task(receiver.arecv())
            await asyncio.sleep(0)
            await sender.asend("for the thread")
            await sender.asend("for the task")
            assert await task == "for the task"
            assert call.result() == "for the thread"

    run(body())


def test_opening_by_address(link: Link):
    if link.variant.way != "named":
        return

    async def body():
        opening = asyncio.create_task(kin.aopen_sender(link.address))
        await asyncio.sleep(0)
        given_up = asyncio.create_task(kin.aopen_sender(link.address))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        with pytest.raises(kin.Timeout):
            await kin.aopen_sender(link.address, timeout=0.01)
        async with await kin.aopen_receiver(link.address) as receiver, await opening as sender:
            await sender.asend("x")
            assert await receiver.arecv() == "x"

    before = open_descriptors()
    run(body())
    assert open_descriptors() <= before + 2  # the watcher's, which stay


@main_ways
def test_another_thread_closes_under_a_task(link: Link):
    async def body():
        receiver, sender = link.both()
        task = asyncio.create_task(receiver.arecv())
        await asleep(receiver)
        with thread_of(receiver.close) as call:
            with pytest.raises(kin.Closed):
                await task
            call.result()
        with pytest.raises(kin.Closed):
            await receiver.arecv()
        link.renew()
        receiver, sender = link.both()
        size = size_that_fits(sender)
        fill(sender, size)
        waits = sender.statistics().waits
        task = asyncio.create_task(sender.asend_bytes(bytes(size)))
        await asleep(sender, waits + 1)
        with thread_of(sender.close) as call:
            with pytest.raises(kin.Closed):
                await task
            call.result()

    run(body())


@main_ways
def test_a_task_and_a_process_that_blocks(two_links):
    """Questions to a peer that knows nothing of asyncio, and its answers, some of them large."""
    there, back = two_links
    large = there.prepared(lambda end: min(40_000, end.limits.max_message))

    def answering(sender, voice):
        asking.close()
        while question := questions.recv_bytes(timeout=HANG):
            sender.send_bytes(question[::-1], timeout=HANG)
        questions.close()

    questions, asking = there.both()
    answers, peer = back.from_peer(answering)
    questions.close()

    async def body():
        async with asking, answers:
            for number in range(60):
                question = pattern(large if number % 5 == 4 else 30, number)
                await asking.asend_bytes(question)
                assert await answers.arecv_bytes() == question[::-1]
            await asking.asend_bytes(b"")

    run(body())
    peer.result()


@main_ways
def test_nothing_is_left_in_the_loop(link: Link):
    """After timeouts, cancellations and messages: no reader, no timer, no descriptor, no thread of ours."""
    before = set(threading.enumerate())
    started = set()

    async def use(receiver, sender):
        with pytest.raises(kin.Timeout):
            await receiver.arecv(timeout=0.001)
        task = asyncio.create_task(receiver.arecv())
        await asyncio.sleep(0)
        started.update(set(threading.enumerate()) - before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sender.asend("x")
        assert await receiver.arecv() == "x"

    async def body():
        receiver, sender = link.both()
        await use(receiver, sender)
        loop: Any = asyncio.get_running_loop()
        assert len(loop._selector.get_map()) == 1  # the loop's own
        descriptors, threads = open_descriptors(), set(threading.enumerate())
        for _ in range(20):
            await use(receiver, sender)
        assert len(loop._selector.get_map()) == 1
        assert sum(not timer.cancelled() for timer in loop._scheduled) == 1  # that of `run`
        assert open_descriptors() <= descriptors
        assert set(threading.enumerate()) <= threads

    run(body())
    helpers = [thread for thread in started if thread.name == "kinfolk helper"]
    assert len(helpers) <= (1 if link.variant.scheme == "sysv-mq" else 0)
