"""Mutex: taken by one at a time, and by the next one when that dies."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import pickle
import signal
import struct
import sys
import threading
import time

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Call, Peers, state, thread_of, until

PAGE = mmap.PAGESIZE


@pytest.fixture
def mutex():
    made = kin.Mutex()
    yield made
    made.close()


def holds(mutex: kin.Mutex, voice) -> None:
    """A peer that has it until it is told to go on."""
    with mutex:
        voice.say("held")
        voice.hear()


def dies_holding(mutex: kin.Mutex, voice) -> None:
    mutex.acquire()
    voice.say("held")
    signal.pause()


def until_asleep(call: Call) -> None:
    """Wait until a call in another thread sleeps in the kernel."""
    until(
        lambda: call.thread.native_id and state(os.getpid(), call.thread.native_id) == "S",
        "a thread asleep",
    )


# ── one at a time ────────────────────────────────────────────────────────────────────────────


def count_up(memory: mmap.mmap, mutex: kin.Mutex | None, voice) -> None:
    for _ in range(3000):
        if mutex is not None:
            mutex.acquire()
        (number,) = struct.unpack_from("q", memory)
        struct.pack_into("q", memory, 0, number + 1)
        if mutex is not None:
            mutex.release()


def counted(peers: Peers, mutex: kin.Mutex | None) -> int:
    memory = mmap.mmap(-1, PAGE)
    for peer in [peers.fork(lambda voice: count_up(memory, mutex, voice)) for _ in range(3)]:
        peer.result()
    return struct.unpack_from("q", memory)[0]


def test_a_counter_is_right_with_it(peers, mutex):
    assert counted(peers, mutex) == 9000


def test_and_wrong_without(peers):
    """The negative control. Three processes on one processor may be right by chance, but not again and again."""
    until(lambda: counted(peers, None) != 9000, "a counter that is wrong")


def test_acquire_and_release(mutex):
    assert not mutex.locked
    mutex.acquire()
    assert mutex.locked
    mutex.release()
    assert not mutex.locked
    with mutex as held:
        assert held is mutex
        assert mutex.locked
        assert not held.owner_died
    assert not mutex.locked


def test_an_exception_releases_it(mutex):
    with pytest.raises(ZeroDivisionError), mutex:
        _ = 1 / 0
    assert not mutex.locked


def test_another_process_waits_for_it(peers, mutex):
    peer = peers.fork(lambda voice: holds(mutex, voice))
    peer.hear()
    assert mutex.locked
    with thread_of(mutex.acquire) as call:
        until_asleep(call)
        assert call.thread.is_alive()
        peer.say()
        peer.result()
        call.result()
    with mutex as held:  # the thread that acquired it has ended
        assert held.owner_died


def test_the_threads_of_one_process_exclude_each_other(mutex):
    entered = []

    def enter() -> None:
        with mutex:
            entered.append(1)

    with mutex:
        with thread_of(enter) as call:
            until_asleep(call)
            assert not entered
            mutex.release()
            call.result()
            mutex.acquire()
    assert entered


def test_other_threads_run_while_one_waits(peers, mutex):
    """The GIL is given away."""
    peer = peers.fork(lambda voice: holds(mutex, voice))
    peer.hear()
    with thread_of(mutex.acquire) as call:
        until_asleep(call)
        assert sum(range(1000)) == 499500  # here we are
        peer.say()
        call.result()
    peer.result()


# ── timeouts ─────────────────────────────────────────────────────────────────────────────────


def test_timeouts(peers, mutex):
    peer = peers.fork(lambda voice: holds(mutex, voice))
    peer.hear()
    for seconds in (0, 0.01):
        begun = time.monotonic()
        with pytest.raises(kin.Timeout) as caught:
            mutex.acquire(timeout=seconds)
        assert time.monotonic() - begun >= seconds
        assert f"process {peer.pid} " in str(caught.value)
    with pytest.raises(TimeoutError), mutex.hold(timeout=0):
        pass
    peer.say()
    peer.result()
    mutex.acquire(0)
    mutex.release()
    with mutex.hold(timeout=HANG) as held:
        assert held is mutex
        assert held.locked
    assert not mutex.locked


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", [], object()])
def test_timeouts_that_make_no_sense(timeout, mutex):
    with pytest.raises(kin.InvalidValue, match="timeout"):
        mutex.acquire(timeout)
    assert not mutex.locked


def test_a_timeout_of_centuries(mutex):
    mutex.acquire(1e300)
    mutex.release()


def test_arguments(mutex):
    for call in (
        lambda: mutex.acquire(1, 2),
        lambda: mutex.acquire(blocking=False),
        lambda: mutex.release(1),
    ):
        with pytest.raises(TypeError):
            call()


# ── its owner dies ───────────────────────────────────────────────────────────────────────────


def test_a_killed_owner_is_followed_by_the_next_who_is_told(peers, mutex):
    peer = peers.fork(lambda voice: dies_holding(mutex, voice))
    peer.hear()
    got = []

    def take() -> None:
        with mutex as held:
            got.append(held.owner_died)

    with thread_of(take) as call:
        until_asleep(call)
        peer.kill(reap=False)  # a zombie is as dead
        call.result()
    assert got == [True]
    with mutex as held:
        assert not held.owner_died  # once repaired, nobody else is told


def test_who_is_told_and_dies_too_is_followed_by_one_who_is_told(peers, mutex):
    for _ in range(3):
        peer = peers.fork(lambda voice: dies_holding(mutex, voice))
        peer.hear()
        peer.kill()
    with mutex as held:
        assert held.owner_died


def test_a_thread_that_ends_counts_as_dead(mutex):
    with thread_of(mutex.acquire) as call:
        call.result()
    with mutex as held:
        assert held.owner_died


def test_a_process_that_executes_another_program_counts_as_dead(peers, mutex):
    def execute(voice) -> None:
        mutex.acquire()
        os.execv("/bin/true", ["true"])

    peer = peers.fork(execute)
    assert peer.wait() == 0
    with mutex as held:
        assert held.owner_died


def test_an_interpreter_that_ends_counts_as_dead(unique_name):
    code = f"import kinfolk as kin; held = kin.Mutex({unique_name!r}); held.acquire()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-c", code], environment) == 0
    mutex = kin.Mutex(unique_name)
    with mutex as held:
        assert held.owner_died
    mutex.unlink()


def test_several_that_a_killed_process_held(peers):
    memory = mmap.mmap(-1, 4 * PAGE)
    mutexes = [kin.Mutex.inside(memory, i * kin.Mutex.SIZE) for i in range(100)]

    def take_all(voice) -> None:
        for mutex in mutexes:
            mutex.acquire()
        for mutex in mutexes[10:90:3]:  # in the middle of the list
            mutex.release()
        voice.say()
        signal.pause()

    peer = peers.fork(take_all)
    peer.hear()
    peer.kill()
    for number, mutex in enumerate(mutexes):
        with mutex as held:
            assert held.owner_died == (number not in range(10, 90, 3))


# ── strict, given up ─────────────────────────────────────────────────────────────────────────


def test_a_strict_one_is_not_taken_after_a_death(peers):
    memory = mmap.mmap(-1, PAGE)
    strict, other = kin.Mutex.inside(memory, strict=True), kin.Mutex.inside(memory)
    peer = peers.fork(lambda voice: dies_holding(other, voice))
    peer.hear()
    with thread_of(strict.acquire) as first, thread_of(strict.acquire) as second:
        for call in (first, second):
            until_asleep(call)
        peer.kill()
        for call in (first, second):  # each hears of it
            assert isinstance(call.raised(), kin.OwnerDied)
    with pytest.raises(kin.OwnerDied, match="strict"), strict:
        pass
    assert not strict.locked
    with other as held:
        assert held.owner_died
    with strict:
        pass


def test_given_up_it_is_nobodys_any_more(peers, mutex):
    def hears(voice) -> str:
        voice.say()
        with pytest.raises(kin.OwnerDied) as caught:
            mutex.acquire()
        return str(caught.value)

    with mutex as held:
        waiters = [peers.fork(hears) for _ in range(2)]
        for peer in waiters:
            peer.hear()
            peer.until_asleep()
        held.give_up()
    for peer in waiters:
        assert "given up for good" in peer.result()
    for _ in range(2):
        with pytest.raises(kin.OwnerDied):
            mutex.acquire()
    with pytest.raises(kin.NotOwner):
        mutex.release()


# ── misuse ───────────────────────────────────────────────────────────────────────────────────


def test_who_has_it_would_wait_for_itself(mutex):
    with mutex, pytest.raises(kin.Deadlock, match="holds it already"):
        mutex.acquire()
    assert not mutex.locked


def test_who_does_not_hold_it_can_not_release_it(peers, mutex):
    for act in (mutex.release, mutex.give_up):
        with pytest.raises(kin.NotOwner, match="nobody holds it"):
            act()
        with mutex, thread_of(act) as call:
            assert "of this process holds it" in str(call.raised())
    peer = peers.fork(lambda voice: holds(mutex, voice))
    peer.hear()
    with pytest.raises(kin.NotOwner, match=f"process {peer.pid} "):
        mutex.release()
    with pytest.raises(RuntimeError):  # what threading raises
        mutex.release()
    assert mutex.locked
    peer.say()
    peer.result()


def test_a_forked_child_does_not_have_what_its_parent_holds(peers, mutex):
    def child(voice) -> None:
        with pytest.raises(kin.ForkedCopy, match="before the fork"):
            mutex.release()
        with pytest.raises(kin.Timeout):
            mutex.acquire(timeout=0)
        assert not mutex.owner_died
        voice.say()
        with mutex as held:  # once the parent is out
            assert not held.owner_died
        with pytest.raises(kin.NotOwner):
            mutex.release()

    with mutex:
        peer = peers.fork(child)
        peer.hear()
        assert mutex.locked
    peer.result()


def test_another_object_of_the_same_mutex(mutex):
    memory = mmap.mmap(-1, PAGE)
    one, two = kin.Mutex.inside(memory), kin.Mutex.inside(memory)
    with one:
        with pytest.raises(kin.Deadlock):
            two.acquire()
        with pytest.raises(kin.NotOwner, match="another Mutex object"):
            two.release()
    with two:
        assert one.locked


def test_too_many_held_by_one_thread():
    size = kin.Mutex.SIZE
    memory = mmap.mmap(-1, 1025 * size)
    mutexes = [kin.Mutex.inside(memory, i * size) for i in range(1025)]
    for mutex in mutexes[:-1]:
        mutex.acquire()
    with pytest.raises(kin.LimitReached, match="too many"):
        mutexes[-1].acquire()
    mutexes[500].release()
    mutexes[-1].acquire()
    mutexes[500] = mutexes[-1]
    for mutex in mutexes[:-1]:
        mutex.release()


def test_a_task_is_refused(mutex):
    async def main() -> None:
        async with mutex:
            pass

    with pytest.raises(kin.Unsupported, match="belongs to a thread"):
        asyncio.run(main())


# ── closing ──────────────────────────────────────────────────────────────────────────────────


def test_a_closed_one():
    mutex = kin.Mutex()
    mutex.close()
    mutex.close()
    for act in (mutex.acquire, mutex.release, mutex.give_up, lambda: mutex.locked):
        with pytest.raises(kin.Closed):
            act()
    assert not mutex.owner_died
    repr(mutex)


def test_held_or_waited_for_it_can_not_be_closed(peers, mutex):
    with mutex, pytest.raises(kin.StillInUse, match="holds it"):
        mutex.close()
    peer = peers.fork(lambda voice: holds(mutex, voice))
    peer.hear()
    with thread_of(lambda: [mutex.acquire(), mutex.release()]) as call:
        until_asleep(call)
        with pytest.raises(kin.StillInUse):
            mutex.close()
        # What waits here waits in the child's copy for nobody.
        peers.fork(lambda voice: mutex.close()).result()
        peer.say()
        call.result()
    peer.result()


def test_what_a_dead_thread_held_can_be_closed():
    mutex = kin.Mutex()
    with thread_of(mutex.acquire) as call:
        call.result()
    until(lambda: not mutex.locked, "the thread ended for the kernel, too")
    mutex.close()


def test_the_memory_stays_as_long_as_it_is_open():
    memory = mmap.mmap(-1, PAGE)
    mutex = kin.Mutex.inside(memory)
    with pytest.raises(BufferError):
        memory.close()
    mutex.close()
    memory.close()


def test_dropped_while_it_is_held(peers):
    """Nothing points into memory that is gone: neither the kernel's list nor what is linked next to it."""
    memory = mmap.mmap(-1, PAGE)

    def drop(voice) -> None:
        other = kin.Mutex()
        for i in range(3):
            kin.Mutex.inside(memory, i * kin.Mutex.SIZE).acquire()
            gc.collect()
            with other:
                pass
        kin.Mutex().acquire()  # and its memory would go with it
        with other:
            pass
        voice.say()
        signal.pause()

    peer = peers.fork(drop)
    peer.hear()
    assert kin.Mutex.inside(memory).locked
    peer.kill()
    for i in range(3):
        with kin.Mutex.inside(memory, i * kin.Mutex.SIZE) as held:
            assert held.owner_died


# ── signals ──────────────────────────────────────────────────────────────────────────────────


def test_a_handler_runs_while_it_is_waited_for(peers, mutex):
    own = kin.Mutex()

    def wait(voice) -> list[str]:
        ran = []

        def handler(*_) -> None:
            with own:  # another one may be taken meanwhile
                ran.append("handler")

        signal.signal(signal.SIGUSR1, handler)
        voice.say()
        with mutex:
            ran.append("held")
        return ran

    with mutex:
        peer = peers.fork(wait)
        peer.hear()
        peer.until_asleep()
        peer.signal(signal.SIGUSR1)
        until(lambda: own.locked or state(peer.pid) == "S", "the handler over")
    ran = peer.result()
    assert ran[-1] == "held"
    assert set(ran[:-1]) <= {"handler"}


def test_an_exception_of_a_handler_ends_the_wait(peers, mutex):
    def wait(voice) -> bool:
        def handler(*_) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, handler)
        voice.say()
        with pytest.raises(KeyboardInterrupt):
            mutex.acquire()
        return mutex.owner_died

    with mutex:
        peer = peers.fork(wait)
        peer.hear()
        peer.until_asleep()
        peer.signal(signal.SIGINT)
        assert peer.result() is False
    with mutex as held:
        assert not held.owner_died


# ── fairness ─────────────────────────────────────────────────────────────────────────────────


def test_nobody_starves(peers, mutex):
    """Two who never let go for longer than an instant, and a third who gets it all the same."""
    over = mmap.mmap(-1, PAGE)

    def hog(voice) -> int:
        voice.say()
        turns = 0
        while not over[0]:
            with mutex:
                turns += 1
                sum(range(200))
        return turns

    hogs = [peers.fork(hog) for _ in range(2)]
    for peer in hogs:
        peer.hear()
    try:
        for _ in range(20):
            with mutex.hold(timeout=HANG):
                pass
    finally:
        over[0] = 1
    for peer in hogs:
        peer.result()


# ── the rest ─────────────────────────────────────────────────────────────────────────────────


def test_how_it_looks(mutex, unique_name):
    assert repr(mutex) == "<Mutex anonymous, free>"
    with mutex:
        assert repr(mutex) == f"<Mutex anonymous, held by thread {threading.get_native_id()}>"
    named = kin.Mutex(unique_name)
    assert repr(named) == f"<Mutex {unique_name}, free>"
    named.unlink()
    assert repr(kin.Mutex.inside(mmap.mmap(-1, PAGE), 64)) == "<Mutex at 64 of mmap, free>"


def test_a_subclass_may_do_more():
    class Counting(kin.Mutex):
        acquired = 0

        def acquire(self, timeout: float | None = None) -> None:
            super().acquire(timeout)
            self.acquired += 1

    mutex = Counting()
    mutex.acquire()
    mutex.release()
    assert mutex.acquired == 1


def test_it_can_not_be_pickled_without_a_process_to_go_to(mutex):
    with pytest.raises(kin.UsageError, match="can't be pickled"):
        pickle.dumps(mutex)


def test_made_without_being_opened():
    mutex = kin.Mutex.__new__(kin.Mutex)
    with pytest.raises(kin.Closed):
        mutex.acquire()
    del mutex
