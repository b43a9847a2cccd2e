"""`wait_any`, `wait_all` and their asyncio forms."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from kinfolk.errors import InvalidValue, Timeout
from kinfolk.processes.wait import await_all, await_any, wait_all, wait_any
from tests.conformance.peers import open_descriptors, thread_of
from tests.unit.starting import SLEEP, shell, start


@pytest.fixture
def three():
    """Three processes that run until they are ended."""
    processes = [start(SLEEP) for _ in range(3)]
    yield processes
    for process in processes:
        process.signal(signal.SIGKILL)
        process.wait()


def test_any_gives_the_one_that_ended(three):
    with thread_of(wait_any, three) as call:
        three[1].signal(signal.SIGTERM)
        assert call.result() is three[1]
    assert three[1].status.signal == signal.SIGTERM


def test_any_prefers_the_first_in_order(three):
    for process in reversed(three[1:]):
        process.signal(signal.SIGTERM)
        process.wait()
    assert wait_any(three) is three[1]
    assert wait_any(reversed(three)) is three[2]


def test_any_without_waiting(three):
    with pytest.raises(Timeout, match="none of 3 processes has ended"):
        wait_any(three, timeout=0)
    with pytest.raises(Timeout):
        wait_any(three, timeout=0.001)
    three[2].signal(signal.SIGKILL)
    three[2].wait()
    assert wait_any(three, timeout=0) is three[2]


def test_any_of_none_is_refused():
    with pytest.raises(InvalidValue, match="no process to wait for"):
        wait_any([])
    with pytest.raises(InvalidValue):
        asyncio.run(await_any(iter(())))


def test_what_is_no_process_is_refused(three):
    wrongs: list[Any] = [three[0], [three[0], 3], [three[0].pid], None]
    for wrong in wrongs:
        for wait in (wait_any, wait_all):
            with pytest.raises(InvalidValue, match="can't be waited for here"):
                wait(wrong, 0)
        with pytest.raises(InvalidValue):
            asyncio.run(await_any(wrong))
        with pytest.raises(InvalidValue):
            asyncio.run(await_all(wrong))


def test_a_bad_timeout_is_refused(three):
    with pytest.raises(InvalidValue):
        wait_any(three, timeout=-1)
    with pytest.raises(InvalidValue):
        wait_all(three, timeout=float("nan"))


def test_all_gives_every_status_in_order():
    processes = [shell(f"exit {code}") for code in (3, 1, 2)]
    assert [status.code for status in wait_all(processes)] == [3, 1, 2]
    assert [status.code for status in wait_all(processes, timeout=0)] == [3, 1, 2]
    assert wait_all([]) == []


def test_all_waits_for_the_last(three):
    three[0].signal(signal.SIGTERM)
    three[0].wait()
    with pytest.raises(Timeout, match="not all of 3 processes have ended"):
        wait_all(three, timeout=0)
    with thread_of(wait_all, three) as call:
        three[1].signal(signal.SIGTERM)
        three[2].signal(signal.SIGTERM)
        assert [status.signal for status in call.result()] == [signal.SIGTERM] * 3


def test_on_asyncio(three):
    async def main() -> None:
        waits = [asyncio.ensure_future(await_any(three)) for _ in range(3)]  # of the same ones
        everything = asyncio.ensure_future(await_all(three))
        await asyncio.sleep(0)
        with pytest.raises(Timeout):
            await await_all(three, timeout=0)
        three[1].signal(signal.SIGKILL)
        assert [await wait for wait in waits] == [three[1]] * 3
        for process in three:
            process.signal(signal.SIGKILL)
        assert [status.signal for status in await everything] == [signal.SIGKILL] * 3

    asyncio.run(main())


def test_a_cancelled_wait_leaves_nothing(three):
    before = open_descriptors()

    async def main() -> None:
        wait = asyncio.ensure_future(await_any(three))
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    asyncio.run(main())
    with pytest.raises(Timeout):
        wait_any(three, timeout=0.001)
    assert open_descriptors() == before
    assert os.getpgid(three[0].pid)  # they live
