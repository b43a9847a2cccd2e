"""Semaphore on asyncio: tasks wait for it, and for whoever holds it in another process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Peers
from tests.unit.test_semaphore import holder


def run(body: Coroutine[Any, Any, Any]) -> Any:
    """In a loop of its own, under a limit against hanging."""
    return asyncio.run(asyncio.wait_for(body, HANG))


def helpers() -> int:
    return sum(thread.name == "kinfolk helper" for thread in threading.enumerate())


def asleep(task: asyncio.Task[Any]) -> bool:
    """Whether a task waits in a helper thread, or in line for it."""
    return not task.done() and bool(task.get_stack())


async def let_run(*tasks: asyncio.Task[Any]) -> None:
    """Until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert all(asleep(task) for task in tasks)


def test_tasks_take_turns():
    semaphore, inside, most = kin.Semaphore(2), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with semaphore as held:
            assert held is semaphore
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(10)))

    run(main())
    assert most == 2
    assert (semaphore.value, semaphore.held) == (2, 0)


def test_in_order_of_arrival_by_one_helper_thread():
    async def main() -> None:
        semaphore, order = kin.Semaphore(0), []

        async def wait(number: int) -> None:
            await semaphore.aacquire()
            order.append(number)

        before = helpers()
        tasks = [asyncio.create_task(wait(number)) for number in range(20)]
        await let_run(*tasks)
        assert helpers() <= before + 1
        for _ in tasks:
            semaphore.release()
        await asyncio.gather(*tasks)
        assert order == list(range(20))

    run(main())


def test_who_wants_more_does_not_stand_before_who_wants_less():
    async def main() -> None:
        semaphore = kin.Semaphore(0)
        several = asyncio.create_task(semaphore.aacquire(n=3))
        await let_run(several)
        one = asyncio.create_task(semaphore.aacquire())
        await let_run(one)
        semaphore.release()
        await one
        semaphore.release(3)
        await several
        assert semaphore.value == 0

    run(main())


def test_a_task_waits_for_another_process_and_for_its_death(peers: Peers):
    semaphore = kin.Semaphore(1)

    async def main() -> None:
        for dies in (False, True):
            peer = holder(peers, semaphore, 1, dies=dies)
            task = asyncio.create_task(semaphore.aacquire())
            await let_run(task)
            if dies:
                peer.kill()
            else:
                peer.say()
            await task
            semaphore.release()

    run(main())


def test_timeouts():
    async def main() -> None:
        semaphore = kin.Semaphore(0)
        for seconds in (0, 0.01):
            with pytest.raises(kin.Timeout, match="nobody holds any"):
                await semaphore.aacquire(timeout=seconds)
        with pytest.raises(kin.InvalidValue):
            await semaphore.aacquire(timeout=-1)
        with pytest.raises(kin.InvalidValue):
            await semaphore.aacquire(n=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await semaphore.aacquire()
        semaphore.release()
        await semaphore.aacquire(timeout=0)

    run(main())


def test_a_cancelled_task_has_taken_nothing():
    async def main() -> None:
        semaphore = kin.Semaphore(0)
        for _ in range(30):
            tasks = [asyncio.create_task(semaphore.aacquire()) for _ in range(3)]
            await let_run(*tasks)
            semaphore.release()
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
            if tasks[0].cancelled():
                await tasks[1]  # it was for this one then
            tasks[1].cancel()
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert semaphore.value == 0
            taken = sum(not task.cancelled() and task.exception() is None for task in tasks)
            assert taken == 1

    run(main())


def test_a_loop_that_ends_while_a_task_waits():
    semaphore = kin.Semaphore(0)

    async def main() -> None:
        _ = asyncio.create_task(semaphore.aacquire())
        for _ in range(5):
            await asyncio.sleep(0)

    run(main())
    semaphore.release()
    assert semaphore.value == 1


def test_a_block_that_is_cancelled_releases_it():
    async def main() -> None:
        semaphore = kin.Semaphore(1)

        async def work() -> None:
            async with semaphore:
                await asyncio.sleep(HANG)

        task = asyncio.create_task(work())
        while semaphore.value:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert semaphore.held == 0

    run(main())


def test_a_closed_one():
    async def main() -> None:
        semaphore = kin.Semaphore(0)
        task = asyncio.create_task(semaphore.aacquire())
        await let_run(task)
        with pytest.raises(kin.StillInUse):
            semaphore.close()
        semaphore.release()
        await task
        semaphore.close()
        with pytest.raises(kin.Closed):
            await semaphore.aacquire()

    run(main())


def test_a_child_that_is_forked_while_a_task_waits(peers: Peers):
    semaphore = kin.Semaphore(0)

    async def in_the_child() -> None:
        semaphore.release(2)
        await semaphore.aacquire()

    async def main() -> None:
        task = asyncio.create_task(semaphore.aacquire())
        await let_run(task)
        peer = peers.fork(lambda voice: run(in_the_child()))
        await task
        await asyncio.to_thread(peer.result)

    run(main())


def test_at_the_exit_of_the_interpreter(peers: Peers):
    """A task that waits keeps nobody, and a killed interpreter holds nothing."""
    semaphore = kin.Semaphore(1)

    def body(voice) -> None:
        async def main() -> None:
            await semaphore.aacquire()
            task = asyncio.create_task(semaphore.aacquire())
            await let_run(task)
            voice.say()
            os.kill(os.getpid(), signal.SIGKILL)

        run(main())

    peer = peers.fork(body)
    peer.hear()
    assert peer.wait() == -signal.SIGKILL
    assert semaphore.value == 1
