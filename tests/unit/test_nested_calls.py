"""A call inside a call of the same thread: from a signal handler, or from a generator that is being sent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Call, until, until_blocked

BLOCKING = ("pipe:", "sysv-mq:")  # waits by poll(2), and waits in a system call


@contextlib.contextmanager
def handling(handler: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run a handler for SIGUSR1; what it returned or raised is in the list."""
    outcomes: list[Any] = []

    def run(*_: object) -> None:
        try:
            outcomes.append(handler())
        except kin.KinfolkError as error:
            outcomes.append(error)

    before = signal.signal(signal.SIGUSR1, run)
    try:
        yield outcomes
    finally:
        signal.signal(signal.SIGUSR1, before)


def signal_main() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


# ── a wait inside a wait takes no wake-up of the outer one ───────────────────────────────────


@pytest.mark.parametrize("outer", BLOCKING)
@pytest.mark.parametrize("inner", BLOCKING)
def test_a_close_during_the_wait_of_a_handler_ends_the_interrupted_call(
    outer: str, inner: str
) -> None:
    first, first_sender = kin.channel(outer)
    second, second_sender = kin.channel(inner)

    def others() -> None:
        until_blocked(first)
        signal_main()
        until_blocked(second)
        first.close()
        second_sender.send("for the handler")

    with first, first_sender, second, second_sender:
        with handling(lambda: second.recv(timeout=HANG)) as outcomes:
            call = Call(others)
            with pytest.raises(kin.Closed):
                first.recv(timeout=HANG)
            call.result()
        assert outcomes == ["for the handler"]


def test_a_turn_that_comes_during_the_wait_of_a_handler_is_taken() -> None:
    first, first_sender = kin.channel("pipe:")
    second, second_sender = kin.channel("pipe:")

    def others() -> None:
        until(lambda: len(first._receive_turn._queue) == 1, "the main thread in line")
        signal_main()
        until_blocked(second)
        first_sender.send("for who is inside")
        inside.result()
        second_sender.send("for the handler")
        first_sender.send("for who was in line")

    with first, first_sender, second, second_sender:
        with handling(lambda: second.recv(timeout=HANG)) as outcomes:
            inside = Call(first.recv)
            until_blocked(first)
            call = Call(others)
            assert first.recv(timeout=HANG) == "for who was in line"
            call.result()
        assert (inside.result(), outcomes) == ("for who is inside", ["for the handler"])


# ── a call that would wait for itself ────────────────────────────────────────────────────────


def would_wait_for_itself() -> contextlib.AbstractContextManager[Any]:
    return pytest.raises(kin.UsageError, match="would wait for itself")


def test_a_generator_that_is_sent_can_not_send_there() -> None:
    receiver, sender = kin.channel("pipe:")

    def objects() -> Iterator[str]:
        yield "before"
        sender.send("from inside")

    with receiver, sender:
        with would_wait_for_itself():
            sender.send_many(objects())
        sender.send("after")
        assert receiver.recv_many(9) == ["before", "after"]


def test_a_try_without_waiting_is_a_timeout_as_ever() -> None:
    receiver, sender = kin.channel("pipe:")
    tried = []

    def objects() -> Iterator[str]:
        try:
            sender.send("from inside", timeout=0)
        except kin.Timeout as error:
            tried.append(error)
        yield "sent"

    with receiver, sender:
        assert sender.send_many(objects()) == len(tried) == 1


def test_a_generator_may_send_elsewhere_and_another_thread_there() -> None:
    receiver, sender = kin.channel("pipe:")
    other_receiver, other_sender = kin.channel("pipe:")

    with receiver, sender, other_receiver, other_sender:
        calls = []

        def objects() -> Iterator[str]:
            other_sender.send("elsewhere")
            calls.append(Call(sender.send, "from another thread"))
            until(lambda: len(sender._send_turn._queue) == 1, "it stands in line")
            yield "first"

        sender.send_many(objects())
        calls[0].result()
        assert [receiver.recv(), receiver.recv()] == ["first", "from another thread"]
        assert other_receiver.recv() == "elsewhere"


@pytest.mark.parametrize("address", BLOCKING)
def test_a_handler_can_not_wait_for_the_call_that_it_interrupts(address: str) -> None:
    receiver, sender = kin.channel(address)

    def others() -> None:
        until_blocked(receiver)
        signal_main()
        until(lambda: outcomes, "the handler is through")
        sender.send("x")

    with receiver, sender, handling(receiver.recv) as outcomes:
        call = Call(others)
        assert receiver.recv(timeout=HANG) == "x"
        call.result()
    assert isinstance(outcomes[0], kin.UsageError)
    assert "signal handler" in str(outcomes[0])


def test_nor_behind_it_in_line() -> None:
    receiver, sender = kin.channel("pipe:")

    def others() -> None:
        until(lambda: len(receiver._receive_turn._queue) == 1, "the main thread in line")
        signal_main()
        until(lambda: outcomes, "the handler is through")
        sender.send(1)
        sender.send(2)

    with receiver, sender, handling(receiver.recv) as outcomes:
        inside = Call(receiver.recv)
        until_blocked(receiver)
        call = Call(others)
        assert receiver.recv(timeout=HANG) == 2
        call.result()
        assert inside.result() == 1
    assert isinstance(outcomes[0], kin.UsageError)


@pytest.mark.parametrize("address", BLOCKING)
def test_tasks_of_one_thread_wait_for_each_other(address: str) -> None:
    receiver, sender = kin.channel(address)

    async def body() -> None:
        tasks = [asyncio.create_task(receiver.arecv(timeout=HANG)) for _ in range(3)]
        while not receiver.statistics().waits:
            await asyncio.sleep(0)
        await sender.asend_many("abc")
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]

    with receiver, sender:
        asyncio.run(body())


@pytest.mark.parametrize("address", BLOCKING)
def test_a_blocking_call_can_not_wait_for_a_task_of_the_loop_that_it_stops(address: str) -> None:
    receiver, sender = kin.channel(address)

    async def body() -> None:
        task = asyncio.create_task(receiver.arecv(timeout=HANG))
        while not receiver.statistics().waits:
            await asyncio.sleep(0)
        with would_wait_for_itself():
            receiver.recv()
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
        # in another thread it waits, and gets its turn
        call = Call(receiver.recv, timeout=HANG)
        until(lambda: len(receiver._receive_turn._queue) == 1, "in line")
        sender.send("for the task")
        sender.send("for the thread")
        assert await task == "for the task"
        assert call.result() == "for the thread"

    with receiver, sender:
        asyncio.run(body())


def test_a_task_can_not_wait_for_the_call_that_it_is_made_from() -> None:
    receiver, sender = kin.channel("pipe:")

    def objects() -> Iterator[str]:
        yield "before"
        asyncio.run(sender.asend("from inside"))

    async def sending() -> None:
        def inside() -> Iterator[str]:
            sender.send("from a task's generator")
            yield ""

        await sender.asend_many(inside())

    with receiver, sender:
        with would_wait_for_itself():
            sender.send_many(objects())
        with would_wait_for_itself():
            asyncio.run(sending())
