"""What POSIX and System V semaphores have in common: acquiring, waiting, being interrupted, ending."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.processes import keeping
from tests.conformance.peers import HANG, open_descriptors, thread_of, until
from tests.unit.semaphores import interrupt_when_asleep, sets, until_blocked, value_of


@pytest.fixture(params=["posix", "sysv"])
def make(request):
    """Makes an anonymous one of a kind, which is closed at the end."""
    made: list[kin.PosixSemaphore | kin.SysVSemaphore] = []

    def make_one(value=1, **options):
        if request.param == "posix":
            made.append(kin.PosixSemaphore(None, value))
        else:
            made.append(kin.SysVSemaphore(value=value, **options))
        return made[-1]

    yield make_one
    for semaphore in made:
        semaphore.close()


# ── acquiring and releasing ──────────────────────────────────────────────────────────────────


def test_one_at_a_time_and_as_many_as_it_says(make):
    semaphore = make(2)
    semaphore.acquire()
    semaphore.acquire(timeout=0)
    with pytest.raises(kin.Timeout):
        semaphore.acquire(0)
    semaphore.release()
    with semaphore as held:
        assert held is semaphore
        assert value_of(semaphore) == 0
    assert value_of(semaphore) == 1


def test_an_exception_puts_it_back(make):
    semaphore = make()
    with pytest.raises(ZeroDivisionError), semaphore:
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), semaphore.hold(timeout=1):
        _ = 1 / 0
    assert value_of(semaphore) == 1


def test_held_with_a_timeout(make):
    semaphore = make()
    with semaphore.hold(timeout=1) as held:
        assert held is semaphore
        with pytest.raises(kin.Timeout), semaphore.hold(timeout=0):
            pytest.fail("it is held")
    assert value_of(semaphore) == 1


def test_who_waits_goes_on_when_one_is_released(make):
    semaphore = make(0)
    with thread_of(semaphore.acquire) as call:
        until_blocked(call)
        semaphore.release()
        call.result()
    assert value_of(semaphore) == 0


def test_several_wait_by_one_object(make):
    """None of them for another: each has its own call."""
    semaphore = make(0)
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(thread_of(semaphore.acquire)) for _ in range(4)]
        for call in calls:
            until_blocked(call)
        for _ in calls:
            semaphore.release()
        for call in calls:
            call.result()
    assert value_of(semaphore) == 0


def test_other_processes_wait_for_it(make, peers):
    semaphore = make(0)

    def take(voice) -> None:
        voice.say()
        semaphore.acquire(timeout=HANG)

    others = [peers.fork(take) for _ in range(3)]
    for peer in others:
        peer.hear()
        peer.until_asleep()
    for _ in others:
        semaphore.release()
    for peer in others:
        peer.result()


def test_a_wait_ends_in_time_and_not_before(make):
    semaphore = make(0)
    for timeout in (0.001, 0.05):
        before = time.monotonic()
        with pytest.raises(kin.Timeout, match=f"for all the {timeout:g} s"):
            semaphore.acquire(timeout)
        assert time.monotonic() - before >= timeout


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "1", [], 1j])
def test_timeouts_that_make_no_sense(make, bad):
    semaphore = make()
    with pytest.raises(kin.InvalidValue, match="timeout="):
        semaphore.acquire(bad)
    assert value_of(semaphore) == 1


def test_a_count_is_right_with_it(make, peers):
    semaphore, memory = make(), kin.SharedMemory.create(size=8)

    def count(voice) -> None:
        counter = memory.array(1, "q")
        for _ in range(500):
            with semaphore:
                counter[0] += 1

    for peer in [peers.fork(count) for _ in range(3)]:
        peer.result()
    assert memory.array(1, "q")[0] == 1500
    memory.close()


# ── interrupts ───────────────────────────────────────────────────────────────────────────────


class Interrupted(Exception):
    """Raised by a signal handler."""


@pytest.fixture
def interrupting():
    def interrupt(number, frame) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_ends_a_wait(make, interrupting, threads_at_rest):
    semaphore = make(0)
    interrupt_when_asleep(signal.SIGUSR1)
    with pytest.raises(Interrupted):
        semaphore.acquire()
    semaphore.release()
    assert value_of(semaphore) == 1


@pytest.fixture
def handling():
    """Has a function called by SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda function: signal.signal(signal.SIGUSR1, lambda number, frame: function())
    signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_returns_does_not(make, handling, threads_at_rest):
    semaphore = make(0)
    handling(semaphore.release)
    interrupt_when_asleep(signal.SIGUSR1)
    semaphore.acquire(timeout=HANG)
    assert value_of(semaphore) == 0


def test_a_handler_may_wait_for_another_one(make, handling, threads_at_rest):
    outer, inner = make(0), make(0)

    def handle() -> None:
        with thread_of(inner.release):
            inner.acquire(timeout=HANG)
        outer.release()

    handling(handle)
    interrupt_when_asleep(signal.SIGUSR1)
    outer.acquire(timeout=HANG)


def test_interrupted_at_any_moment_a_block_has_taken_nothing(make, peers):
    """Somebody takes and puts back, and is interrupted at random; what it takes it has put back in the end."""
    semaphore, other = make(), make()

    def disturbed(voice) -> int:
        def interrupt(number, frame) -> None:
            raise Interrupted

        signal.signal(signal.SIGALRM, interrupt)
        seen, chance = 0, random.Random(1)
        while seen < 300:
            try:
                # Again after a second: what is raised in a callback of Python's own is lost.
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 5e-4), 1)
                while True:
                    with semaphore:
                        pass
            except Interrupted:
                seen += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
        return seen

    def rival(voice) -> None:
        voice.say()
        while True:
            with semaphore, other:
                pass

    competitor = peers.fork(rival)
    competitor.hear()
    assert peers.fork(disturbed).result() == 300
    other.acquire()  # between the two of the rival, who now can't get on
    until(lambda: value_of(semaphore) == 0, "the rival has it, and nobody else")
    other.release()
    semaphore.acquire(timeout=HANG)


def test_what_was_taken_is_given_back_when_python_fails_afterwards(make):
    semaphore = make(0)

    class Failing(type(semaphore)):  # type: ignore[misc]
        def _wait(self, taking, timeout) -> None:
            semaphore.release()
            super()._wait(taking, timeout)
            assert taking.done
            raise Interrupted

    if isinstance(semaphore, kin.PosixSemaphore):
        failing = Failing._at(semaphore._place)
    else:
        failing = Failing.__new__(Failing)
        failing._begin(semaphore.id, "set", False)
    with pytest.raises(Interrupted):
        failing.acquire()
    assert value_of(semaphore) == 1
    with pytest.raises(Interrupted), failing, failing:
        pytest.fail("there is but one")
    assert value_of(semaphore) == 2


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────


def test_tasks_wait_while_the_loop_runs(make):
    semaphore = make(0)

    async def main() -> list[str]:
        done = []

        async def take(name: str) -> None:
            async with semaphore:
                done.append(name)

        tasks = [asyncio.create_task(take("one")), asyncio.create_task(take("two"))]
        await asyncio.sleep(0)
        done.append("loop")
        semaphore.release()
        await asyncio.gather(*tasks)
        return done

    assert sorted(asyncio.run(main())) == ["loop", "one", "two"]
    assert value_of(semaphore) == 1


def test_a_task_waits_up_to_its_timeout(make):
    semaphore = make(0)

    async def main() -> None:
        for timeout in (0, 0.01):
            with pytest.raises(kin.Timeout, match=f"for all the {timeout:g} s"):
                await semaphore.aacquire(timeout)
        with pytest.raises(kin.InvalidValue):
            await semaphore.aacquire(-1)

    asyncio.run(main())


def test_a_cancelled_task_has_taken_nothing(make):
    """Also when it is cancelled in the moment in which it gets it."""
    semaphore = make(0)

    async def main() -> int:
        got = 0
        for turn in range(200):
            task = asyncio.create_task(semaphore.aacquire())
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            semaphore.release()
            task.cancel()
            try:
                await task
                got += 1
            except asyncio.CancelledError:
                pass
        return got

    assert asyncio.run(main()) + value_of(semaphore) == 200


def test_a_block_of_a_task_puts_it_back(make):
    semaphore = make()

    async def main() -> None:
        async with semaphore:
            assert value_of(semaphore) == 0
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    assert value_of(semaphore) == 1


# ── the end ──────────────────────────────────────────────────────────────────────────────────


def test_a_close_ends_who_waits(make):
    semaphore = make(0)
    with thread_of(semaphore.acquire) as one, thread_of(semaphore.acquire) as other:
        until_blocked(one)
        until_blocked(other)
        semaphore.close()
        assert isinstance(one.raised(), kin.Closed)
        assert isinstance(other.raised(), kin.Closed)
    semaphore.close()
    for use in (semaphore.acquire, semaphore.release, semaphore.__enter__):
        with pytest.raises(kin.Closed):
            use()
    assert "closed" in repr(semaphore)


def test_a_close_ends_tasks_too(make):
    semaphore = make(0)

    async def main() -> None:
        task = asyncio.create_task(semaphore.aacquire())
        await asyncio.sleep(0.01)
        semaphore.close()
        with pytest.raises(kin.Closed):
            await task
        with pytest.raises(kin.Closed):
            await semaphore.aacquire()

    asyncio.run(main())


def test_made_without_being_opened():
    for kind in (kin.PosixSemaphore, kin.SysVSemaphore):
        semaphore: Any = kind.__new__(kind)
        with pytest.raises(kin.Closed):
            semaphore.acquire()
        with pytest.raises(kin.Closed):
            semaphore.release()
        semaphore.close()
        del semaphore


@pytest.mark.parametrize("kind", [kin.PosixSemaphore, kin.SysVSemaphore])
def test_dropped_ones_leave_nothing(kind):
    before, there = open_descriptors(), sets()
    for _ in range(10):
        kind().acquire()
        kind().close()
    assert open_descriptors() == before
    assert sets() == there


# ── forks, and other processes ───────────────────────────────────────────────────────────────


def test_a_forked_child_does_not_leave_its_parents_block(make, peers):
    semaphore = make(2)

    def child(voice) -> str:
        with semaphore:
            pass
        try:
            semaphore.__exit__()
        except kin.ForkedCopy as error:
            return str(error)
        return "left"

    with semaphore:
        assert "before the fork" in peers.fork(child).result()
        assert value_of(semaphore) == 1
    assert value_of(semaphore) == 2


def take_one(semaphore) -> None:
    """What a started process does."""
    semaphore.acquire(timeout=HANG)
    os._exit(0)


def test_passed_to_a_process_that_is_started(make):
    semaphore = make(0)
    try:
        child = kin.spawn(take_one, semaphore)
        semaphore.release()
        assert child.wait(timeout=HANG).code == 0
        assert value_of(semaphore) == (1 if isinstance(semaphore, kin.SysVSemaphore) else 0)
    finally:
        keeping.keeping().end(0)


def test_it_goes_nowhere_by_itself(make):
    with pytest.raises(kin.UsageError, match="can't be pickled"):
        pickle.dumps(make())


@pytest.mark.parametrize("kind", ["PosixSemaphore(None, 0)", "SysVSemaphore(value=0)"])
def test_a_program_ends_though_a_daemon_thread_waits(kind):
    """In silence, and it leaves nothing."""
    before = sets()
    program = f"""
import threading, kinfolk as kin
semaphore = kin.{kind}
threading.Thread(target=semaphore.acquire, daemon=True).start()
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=HANG, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert not sets() - before


# ── fairness ─────────────────────────────────────────────────────────────────────────────────


def test_nobody_starves(make, peers):
    """Two who never let go for longer than an instant, and a third who gets it all the same."""
    semaphore = make()

    def hog(voice: Any) -> None:
        voice.say()
        while True:
            with semaphore:
                for _ in range(1000):
                    pass

    hogs = [peers.fork(hog) for _ in range(2)]
    for peer in hogs:
        peer.hear()
    for _ in range(20):
        semaphore.acquire(timeout=HANG)
        semaphore.release()
    for peer in hogs:
        peer.kill()


def test_no_task_starves(make, peers):
    semaphore = make()

    def hog(voice: Any) -> None:
        voice.say()
        while True:
            with semaphore:
                for _ in range(1000):
                    pass

    async def main() -> None:
        for _ in range(20):
            await semaphore.aacquire(timeout=HANG)
            semaphore.release()

    greedy = peers.fork(hog)
    greedy.hear()
    asyncio.run(main())
    greedy.kill()
