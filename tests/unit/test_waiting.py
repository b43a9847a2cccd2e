"""How threads and tasks wait: woken when they should be, cancelled when they should be, whatever else goes on."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.deadlines import NEVER, Deadline
from kinfolk.interest import Interest, Steps, ready
from kinfolk.task_waiter import TaskWaiter
from kinfolk.thread_waiter import ThreadWaiter, lend, take_back
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run
from tests.conformance.peers import HANG, Call, Peers, open_descriptors, until, until_blocked

Ends = tuple[kin.Receiver, kin.Sender]


@pytest.fixture
def ends() -> Iterator[Ends]:
    receiver, sender = kin.channel("pipe:", codec="raw")
    with receiver, sender:
        yield receiver, sender


def turn() -> Turnstile:
    return Turnstile("pipe:", lambda: None)


def counted(steps: int, of: list[int], interest: Interest) -> Steps[int]:
    for _ in range(steps):
        of.append(1)
        yield interest
    return len(of)


# ------------------------------------------------------------------------------------------ both


def drivers() -> list[Callable[..., Any]]:
    def blocking(steps: Steps[Any], turnstile: Turnstile, timeout: float | None) -> Any:
        return run(steps, turnstile, Deadline(timeout), "pipe:: test")

    def awaiting(steps: Steps[Any], turnstile: Turnstile, timeout: float | None) -> Any:
        return asyncio.run(arun(steps, turnstile, Deadline(timeout), "pipe:: test"))

    return [blocking, awaiting]


@pytest.mark.parametrize("drive", drivers(), ids=["run", "arun"])
class TestBothDrivers:
    def test_steps_that_need_no_wait(self, drive: Any) -> None:
        assert drive(ready(7), turn(), 0) == 7

    def test_zero_tries_once(self, drive: Any) -> None:
        tries: list[int] = []
        with pytest.raises(kin.Timeout, match="pipe:: test: not ready within 0 s"):
            drive(counted(9, tries, Interest()), turn(), 0)
        assert len(tries) == 1

    def test_a_timeout_closes_the_steps_inside(self, drive: Any) -> None:
        turnstile, seen = turn(), []

        def steps() -> Steps[None]:
            try:
                while True:
                    yield Interest()
            finally:
                seen.append(turnstile.enter(object()))  # nobody else gets in meanwhile

        with pytest.raises(kin.Timeout):
            drive(steps(), turnstile, 0.01)
        assert seen == [False]
        assert turnstile.enter(object())

    def test_again_in_tries_again_although_nothing_is_announced(self, drive: Any) -> None:
        tries: list[int] = []
        assert drive(counted(4, tries, Interest(again_in=0.001)), turn(), None) == 4

    def test_again_in_does_not_outlast_the_deadline(self, drive: Any) -> None:
        tries: list[int] = []
        with pytest.raises(kin.Timeout):
            drive(counted(9, tries, Interest(again_in=HANG * 5)), turn(), 0.01)
        assert len(tries) == 1

    def test_a_hang_up_is_seen_and_data_is_not(self, drive: Any) -> None:
        reading_end, writing_end = os.pipe()
        os.write(writing_end, b"data")
        with pytest.raises(kin.Timeout):
            drive(counted(2, [], Interest(hangup=(reading_end,))), turn(), 0.05)
        os.close(writing_end)
        assert drive(counted(1, [], Interest(hangup=(reading_end,))), turn(), HANG) == 1
        os.close(reading_end)

    def test_one_descriptor_in_several_roles(self, drive: Any) -> None:
        number = os.eventfd(0)
        interest = Interest(readable=(number,), writable=(number,), hangup=(number,))
        assert drive(counted(1, [], interest), turn(), HANG) == 1
        os.close(number)

    def test_an_error_of_the_steps_leaves_the_turnstile_free(self, drive: Any) -> None:
        turnstile = turn()

        def failing() -> Steps[None]:
            yield Interest(again_in=0.001)
            raise LookupError

        with pytest.raises(LookupError):
            drive(failing(), turnstile, None)
        assert turnstile.enter(object())


# --------------------------------------------------------------------------------------- threads


def test_a_close_wakes_a_thread_that_waits(ends: Ends) -> None:
    receiver, _ = ends
    call = Call(receiver.recv)
    until_blocked(receiver)
    receiver.close()
    assert isinstance(call.raised(), kin.Closed)


def test_the_wait_of_one_end_is_not_the_wait_of_the_next_with_its_numbers() -> None:
    """A thread keeps its poll for the next wait of the same end: not for one that got the same descriptor number."""
    numbers = set()
    for message in (b"1", b"2", b"3"):
        receiver, sender = kin.channel("pipe:", codec="raw")
        with receiver, sender:
            numbers.add(receiver.fileno())
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0.001)
            call = Call(sender.send, message)
            assert receiver.recv(timeout=HANG) == message
            call.result()
        # and a wait for writing on the number that was read from
        one, other = os.pipe()
        os.set_blocking(other, False)
        with pytest.raises(kin.Timeout):
            run(counted(2, [], Interest(readable=(one,))), turn(), Deadline(0.001), "x")
        os.close(one)
        os.close(other)
    assert len(numbers) == 1


def test_a_woken_thread_takes_no_wake_into_its_next_wait(ends: Ends) -> None:
    waiter = ThreadWaiter()
    for _ in range(3):
        waiter.wake()
    waiter.wait(Interest(), Deadline(0), "x")  # returns: it was woken
    with pytest.raises(kin.Timeout):
        waiter.wait(Interest(), Deadline(0), "x")


def test_a_forked_child_waits_by_an_eventfd_of_its_own(ends: Ends, peers: Peers) -> None:
    with pytest.raises(kin.Timeout):
        ends[0].recv(timeout=0.001)
    parents = lend()
    take_back(parents)

    def child(voice: Any) -> bool:
        own = lend()
        parents.wake()  # the parent's, if they were the same
        try:
            own.wait(Interest(), Deadline(0), "x")
        except kin.Timeout:
            return own is not parents
        return False

    assert peers.fork(child).result()


def test_a_forked_child_has_given_its_parents_eventfd_back(ends: Ends, peers: Peers) -> None:
    """Later the number may be somebody else's there, as with a daemon that closes all that it has inherited."""
    with pytest.raises(kin.Timeout):
        ends[0].recv(timeout=0.001)
    parents = lend()
    number = parents._fd
    take_back(parents)
    in_use: list[ThreadWaiter] = []

    def child(voice: Any) -> list[bool]:
        seen = [is_eventfd(number)]
        os.dup2(0, number)  # the user's own, by now
        take_back(lend())
        return [*seen, os.path.exists(f"/proc/self/fd/{number}")]

    del parents
    assert peers.fork(child).result() == [False, True]
    assert is_eventfd(number)
    in_use.append(lend())  # the fork is a signal handler's, in the middle of a wait

    def returns(voice: Any) -> bool:
        take_back(in_use.pop())
        return is_eventfd(number)

    assert peers.fork(returns).result() is False
    take_back(in_use.pop())


def is_eventfd(number: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventfd]"
    except FileNotFoundError:
        return False


def test_a_thread_gives_its_eventfd_back(ends: Ends) -> None:
    receiver, sender = ends
    before = open_descriptors()
    for _ in range(3):
        call = Call(receiver.recv)
        until(lambda: receiver._receive_turn._sleeper is not None, "asleep")
        sender.send(b"x")
        call.result()
        call.thread.join()
        del call
    assert open_descriptors() == before


def test_no_descriptor_left_to_wait_with_is_an_error_of_ours(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, sender = ends

    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "eventfd", none_left)
    error = Call(receiver.recv).raised()
    assert isinstance(error, kin.LimitReached)
    gc.collect()  # the half-made waiter complains about nothing
    monkeypatch.undo()
    sender.send(b"x")
    assert receiver.recv(timeout=0) == b"x"


def test_ctrl_c_in_a_wait_loses_nothing(ends: Ends) -> None:
    receiver, sender = ends

    def interrupt() -> None:
        until_blocked(receiver)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    call = Call(interrupt)
    with pytest.raises(KeyboardInterrupt):
        receiver.recv(timeout=HANG)
    call.result()
    sender.send(b"x")
    assert receiver.recv(timeout=0) == b"x"


def test_two_threads_get_in_in_order_of_arrival(ends: Ends) -> None:
    receiver, sender = ends
    first = Call(receiver.recv)
    until_blocked(receiver)
    second = Call(receiver.recv)
    until(lambda: len(receiver._receive_turn._queue) == 1, "second in line")
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.01)  # third
    sender.send(b"1")
    sender.send(b"2")
    assert (first.result(), second.result()) == (b"1", b"2")


def test_the_interpreter_ends_quietly_with_everything_open(tmp_path: Any) -> None:
    script = """
import kinfolk as kin, threading
receiver, sender = kin.channel("pipe:")
try: receiver.recv(timeout=0.001)
except kin.Timeout: pass
fifo = kin.open_receiver("fifo:%s")
other = kin.open_sender("fifo:%s")
thread = threading.Thread(target=receiver.recv, daemon=True)
thread.start()
while not receiver.statistics().waits > 1: pass
""" % ((tmp_path / "f",) * 2)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# ----------------------------------------------------------------------------------------- tasks


def test_a_cancellation_that_comes_with_the_readiness_is_not_forgotten() -> None:
    """asyncio.wait_for forgot it before Python 3.12."""

    async def test() -> None:
        for timeout in (None, HANG):
            waiter = TaskWaiter()
            task = asyncio.ensure_future(waiter.wait(Interest(), Deadline(timeout), "x"))
            await asyncio.sleep(0)
            waiter._ready()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(test())


def test_a_cancelled_receive_loses_nothing_and_lets_the_next_in(ends: Ends) -> None:
    receiver, sender = ends

    async def test() -> None:
        for number in range(50):
            first = asyncio.ensure_future(receiver.arecv())
            second = asyncio.ensure_future(receiver.arecv())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            sender.send(b"%d" % number)
            for _ in range(number % 3):
                await asyncio.sleep(0)
            first.cancel()
            got = await asyncio.gather(first, return_exceptions=True)
            if isinstance(got[0], asyncio.CancelledError):
                assert await asyncio.wait_for(second, HANG) == b"%d" % number
            else:
                assert got[0] == b"%d" % number
                second.cancel()
                await asyncio.gather(second, return_exceptions=True)

    asyncio.run(test())


def test_a_close_wakes_tasks_inside_and_in_line(ends: Ends) -> None:
    receiver, _ = ends

    async def test() -> list[Any]:
        tasks = [asyncio.ensure_future(receiver.arecv()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        receiver.close()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), HANG)

    assert [type(result) for result in asyncio.run(test())] == [kin.Closed] * 3


def test_a_close_in_a_thread_wakes_a_task(ends: Ends) -> None:
    receiver, _ = ends

    def close() -> None:
        until_blocked(receiver)
        receiver.close()

    async def test() -> None:
        call = Call(close)
        with pytest.raises(kin.Closed):
            await receiver.arecv(timeout=HANG)
        call.result()

    asyncio.run(test())


def test_two_loops_and_a_thread_share_one_end(ends: Ends) -> None:
    receiver, sender = ends
    count = 300

    def take() -> list[bytes]:
        return list(receiver)

    async def atake() -> list[bytes]:
        return [message async for message in receiver]

    calls = [Call(take), Call(lambda: asyncio.run(atake())), Call(lambda: asyncio.run(atake()))]
    for number in range(count):
        sender.send(b"%d" % number)
    sender.close()
    results = [call.result() for call in calls]
    assert sorted(itertools.chain(*results), key=int) == [b"%d" % number for number in range(count)]
    for result in results:
        assert result == sorted(result, key=int)


def test_both_directions_of_one_end_wait_in_one_loop() -> None:
    async def test() -> None:
        one, other = kin.pair("unix:", codec="raw")
        with one, other:
            big = bytes(1 << 22)
            sending = asyncio.ensure_future(one.asend(big))
            receiving = asyncio.ensure_future(one.arecv())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not sending.done()
            assert not receiving.done()
            other.send(b"back")
            assert await asyncio.wait_for(receiving, HANG) == b"back"
            assert await other.arecv() == big
            await sending

    asyncio.run(test())


def test_nothing_stays_in_the_loop(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, _ = ends

    async def test() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(kin.Timeout):
            await receiver.arecv(timeout=0.001)
        assert not loop.remove_reader(receiver.fileno())
        task = asyncio.ensure_future(receiver.arecv())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not loop.remove_reader(receiver.fileno())

        def none_left(*_: object) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(select, "epoll", none_left)
        number = receiver.fileno()
        interest = Interest(readable=(number,), hangup=(number,))
        with pytest.raises(kin.LimitReached):
            await arun(counted(1, [], interest), turn(), NEVER, "x")
        assert not loop.remove_reader(number)
        monkeypatch.undo()

    asyncio.run(test())


def test_a_wake_after_the_end_of_the_loop_harms_nobody() -> None:
    async def test() -> TaskWaiter:
        return TaskWaiter()

    asyncio.run(test()).wake()


def test_a_loop_that_ends_under_a_waiting_task_leaves_the_end_free(ends: Ends) -> None:
    receiver, sender = ends
    loop = asyncio.new_event_loop()
    task = loop.create_task(receiver.arecv())
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    sender.send(b"x")
    assert receiver.recv(timeout=HANG) == b"x"
