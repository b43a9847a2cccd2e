"""FileLock: who may have what of a file at the same time, whoever waits for it, and by which kind of lock."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.sync.file_lock import LockKind
from kinfolk.sync.lock_holds import Span
from kinfolk.sync.posix_hold import left_over
from tests.conformance.peers import HANG, Peers, open_descriptors, thread_of, until
from tests.unit.file_locks import (
    KINDS,
    each_kind,
    holding,
    is_free,
    let_go,
    open_here,
    until_waiting,
    waiting,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


# ── who may have what at the same time ───────────────────────────────────────────────────────


@each_kind
@pytest.mark.parametrize(("first", "second"), [*itertools.product([False, True], repeat=2)])
@pytest.mark.parametrize("who", ["process", "thread", "other object"])
def test_exclusive_and_shared(path, kind, first, second, who, peers):
    lock = kin.FileLock(path, kind=kind)
    with lock.hold(shared=first):
        part = {"kind": kind, "shared": second}
        if who == "process":
            free = peers.fork(lambda _: is_free(path, **part)).result()
        elif who == "thread":
            with thread_of(lambda: taken(lock, shared=second)) as call:
                free = call.result()
        else:
            with thread_of(is_free, path, **part) as call:
                free = call.result()
    assert free == (first and second)
    assert is_free(path, kind)


def taken(lock: kin.FileLock, *, shared: bool) -> bool:
    """Whether a lock can be had, by the same object."""
    try:
        with lock.hold(timeout=0, shared=shared):
            return True
    except kin.Timeout:
        return False


@pytest.mark.parametrize("kind", ["ofd", "posix"])
@pytest.mark.parametrize(
    ("start", "length", "free"),
    [
        (0, 10, True),
        (0, 11, False),
        (10, 1, False),
        (19, 1, False),
        (19, None, False),
        (20, 1, True),
        (20, None, True),
        (2**62, 2**62, True),
        (0, None, False),
    ],
)
def test_bytes(path, kind, start, length, free, peers):
    with kin.FileLock(path, kind=kind, start=10, length=10):
        part = {"kind": kind, "start": start, "length": length}
        assert peers.fork(lambda _: is_free(path, **part)).result() == free
        with thread_of(is_free, path, **part) as call:
            assert call.result() == free
    assert path.stat().st_size == 0


@pytest.mark.parametrize(("one", "other"), [*itertools.product(KINDS, repeat=2)])
def test_which_kinds_know_of_each_other(path, one, other, peers):
    with kin.FileLock(path, kind=one):
        free = peers.fork(lambda _: is_free(path, other)).result()
        with thread_of(is_free, path, other) as call:
            assert call.result() == free
    assert free == ("flock" in (one, other) and one != other)


@each_kind
def test_what_is_released_can_be_had(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    lock.acquire()
    assert lock.held
    assert "held by thread" in repr(lock)
    lock.release()
    assert not lock.held
    assert "not held here" in repr(lock)
    assert peers.fork(lambda _: is_free(path, kind)).result()
    with lock as held:
        assert held is lock
    assert open_here(path) == 0


@each_kind
def test_an_exception_releases_it(path, kind):
    lock = kin.FileLock(path, kind=kind)
    with pytest.raises(ZeroDivisionError), lock.hold():
        _ = 1 / 0
    assert not lock.held
    assert open_here(path) == 0


@each_kind
def test_another_process_waits_for_it(path, kind, peers):
    peer = peers.fork(holding(kin.FileLock(path, kind=kind)))
    peer.hear()
    lock = kin.FileLock(path, kind=kind)

    def take() -> bool:
        with lock:
            return lock.held

    with thread_of(take) as call:
        until_waiting(path)
        assert sum(range(1000)) == 499500  # other threads run meanwhile
        let_go(peer)
        assert call.result()


@each_kind
def test_a_second_thread_waits_for_the_first(path, kind):
    lock = kin.FileLock(path, kind=kind)
    order = []

    def enter() -> None:
        with lock:
            order.append("second")

    with lock:
        with thread_of(enter) as call:
            if kind == "posix":  # among threads it waits before it comes to the kernel
                until(lambda: open_here(path) == 2, "the thread came")
            else:
                until_waiting(path)
            order.append("first")
            lock.release()
            call.result()
            lock.acquire()
    assert order == ["first", "second"]


def count_up(path: Path, lock: kin.FileLock | None, turns: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    for _ in range(turns):
        if lock is not None:
            lock.acquire()
        number = descriptor if lock is None else lock.fileno()
        count = int(os.pread(number, 20, 0))
        os.pwrite(number, b"%d" % (count + 1), 0)
        if lock is not None:
            lock.release()
    if lock is None:  # closing it would drop locks of the posix kind
        os.close(descriptor)


def counted(path: Path, peers: Peers, lock: kin.FileLock | None) -> int:
    """What two processes of two threads each have counted in a file."""
    path.write_text("0")

    def run(_: Any) -> None:
        with (
            thread_of(count_up, path, lock, 150) as one,
            thread_of(count_up, path, lock, 150) as two,
        ):
            one.result()
            two.result()

    for peer in [peers.fork(run) for _ in range(2)]:
        peer.result()
    return int(path.read_text())


@each_kind
def test_a_counter_in_a_file_is_right_with_it(path, kind, peers):
    assert counted(path, peers, kin.FileLock(path, kind=kind)) == 600


def test_and_wrong_without(path, peers):
    """The negative control."""
    until(lambda: counted(path, peers, None) != 600, "a counter that is wrong")


@each_kind
def test_many_share(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    sharing = [peers.fork(holding(lock, shared=True)) for _ in range(3)]
    for peer in sharing:
        peer.hear()
    with lock.hold(shared=True, timeout=HANG):
        pass
    assert not is_free(path, kind)
    for peer in sharing:
        assert not is_free(path, kind)
        let_go(peer)
    assert is_free(path, kind)


# ── threads that share bytes of a POSIX lock ─────────────────────────────────────────────────


def test_what_other_threads_share_stays_locked(path, peers):
    """To the kernel the process is one owner, and the first to unlock would unlock for all."""
    one = kin.FileLock(path, kind="posix", length=10)
    two = kin.FileLock(path, kind="posix", start=5, length=10)

    def free(start: int) -> bool:
        return peers.fork(lambda _: is_free(path, "posix", start=start, length=1)).result()

    with two.hold(shared=True):
        with thread_of(taken, one, shared=True) as call:
            assert call.result()
        assert [free(at) for at in (0, 4, 5, 9, 10, 14, 15)] == [True, True, *[False] * 4, True]
    assert free(5)


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], [(10, 10)]),
        ([(0, 10)], [(10, 10)]),
        ([(0, 11)], [(11, 9)]),
        ([(19, 1)], [(10, 9)]),
        ([(15, 0)], [(10, 5)]),
        ([(12, 2), (16, 1)], [(10, 2), (14, 2), (17, 3)]),
        ([(16, 1), (12, 8)], [(10, 2)]),
        ([(0, 0)], []),
        ([(10, 10), (10, 10)], []),
    ],
)
def test_what_others_leave(others, left):
    assert left_over(Span(10, 10), [Span(*other) for other in others]) == left


def test_what_others_leave_of_all(path):
    assert left_over(Span(0, 0), [Span(5, 5)]) == [(0, 5), (10, 0)]


def test_closing_the_file_elsewhere_in_the_process_is_noticed(path, peers):
    lock = kin.FileLock(path, kind="posix")
    lock.acquire()
    path.read_bytes()  # opens and closes it
    assert peers.fork(lambda _: is_free(path)).result()
    with pytest.raises(kin.NotOwner, match="lost before it was released"):
        lock.release()
    assert not lock.held
    with pytest.raises(kin.NotOwner), lock.hold(shared=True):
        path.read_bytes()
    # Somebody else has got it by then.
    lock.acquire()
    path.read_bytes()
    peer = peers.fork(holding(kin.FileLock(path, kind="posix")))
    peer.hear()
    with pytest.raises(kin.NotOwner):
        lock.release()
    let_go(peer)


def test_other_locks_of_the_process_close_nothing_under_it(path, peers):
    """Any close of a descriptor of the file drops the POSIX locks: those of FileLock itself wait until there are none."""
    lock = kin.FileLock(path, kind="posix", length=1)
    with lock:
        for kind in KINDS:
            assert is_free(path, kind, start=0 if kind == "flock" else 1)
            assert not peers.fork(lambda _: is_free(path)).result()
        assert open_here(path) == 4
    assert open_here(path) == 0


# ── timeouts ─────────────────────────────────────────────────────────────────────────────────


@each_kind
@pytest.mark.parametrize("shared", [False, True])
def test_timeouts(path, kind, shared, peers):
    lock = kin.FileLock(path, kind=kind)
    peer = peers.fork(holding(lock))
    peer.hear()
    for seconds in (0, 0.01):
        begun = time.monotonic()
        with pytest.raises(kin.Timeout) as caught:
            lock.acquire(timeout=seconds, shared=shared)
        assert time.monotonic() - begun >= seconds
        assert str(path) in str(caught.value)
    assert f"process {peer.pid} (" in str(caught.value)
    with pytest.raises(TimeoutError), lock.hold(timeout=0, shared=shared):
        pass
    let_go(peer)
    lock.acquire(0, shared=shared)
    lock.release()
    assert open_here(path) == 0


@each_kind
def test_a_thread_is_named_that_holds_it(path, kind):
    lock = kin.FileLock(path, kind=kind)
    with lock:
        number = threading.get_native_id()
        with thread_of(lock.acquire, 0.01) as call:
            assert f"thread {number} of this process holds it" in str(call.raised())


@each_kind
def test_all_who_share_are_named(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    sharing = [peers.fork(holding(lock, shared=True)) for _ in range(2)]
    for peer in sharing:
        peer.hear()
    with pytest.raises(kin.Timeout) as caught:
        lock.acquire(timeout=0.01)
    named = [f"process {peer.pid} (" in str(caught.value) for peer in sharing]
    assert all(named) or (kind == "posix" and any(named))
    for peer in sharing:
        let_go(peer)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", [], object()])
def test_timeouts_that_make_no_sense(path, timeout):
    with pytest.raises(kin.InvalidValue, match="timeout"):
        kin.FileLock(path).acquire(timeout)
    assert not path.exists()


@each_kind
def test_a_timeout_of_centuries(path, kind):
    lock = kin.FileLock(path, kind=kind)
    lock.acquire(1e300)
    lock.release()


# ── misuse ───────────────────────────────────────────────────────────────────────────────────


@each_kind
@pytest.mark.parametrize("shared", [False, True])
def test_who_has_it_can_not_acquire_it_again(path, kind, shared):
    lock = kin.FileLock(path, kind=kind)
    with lock.hold(shared=shared), pytest.raises(kin.Deadlock, match="has locked it already"):
        lock.acquire(shared=shared)
    assert is_free(path, kind)


@each_kind
def test_another_object_of_the_same_file_is_no_way_around(path, kind):
    with kin.FileLock(path, kind=kind):
        with pytest.raises(kin.Deadlock, match="another FileLock"):
            kin.FileLock(path, kind=kind).acquire()
        with pytest.raises(kin.Deadlock):
            kin.FileLock(path, kind=kind).acquire(shared=True)
    with kin.FileLock(path, kind=kind).hold(shared=True):
        assert is_free(path, kind, shared=True)
        with pytest.raises(kin.Deadlock):
            kin.FileLock(path, kind=kind).acquire()
    assert open_here(path) == 0


def test_bytes_of_one_thread_that_do_not_meet(path):
    with kin.FileLock(path, length=5), kin.FileLock(path, start=5):
        with pytest.raises(kin.Deadlock):
            kin.FileLock(path, start=4, length=1).acquire()
        with pytest.raises(kin.Deadlock):
            kin.FileLock(path, kind="posix", start=4, length=1).acquire()
        assert is_free(path, "flock")


@each_kind
def test_who_does_not_hold_it_can_not_release_it(path, kind):
    lock = kin.FileLock(path, kind=kind)
    for act in (lock.release, lock.fileno, lock.downgrade, lock.unlink):
        with pytest.raises(kin.NotOwner, match="nobody acquired it"):
            act()
    with lock:
        number = threading.get_native_id()
        with thread_of(lock.release) as call:
            assert f"thread {number} of this process acquired it" in str(call.raised())
        with pytest.raises(RuntimeError):  # what threading raises
            kin.FileLock(path, kind=kind).release()
        assert lock.held
    with pytest.raises(kin.NotOwner):
        lock.release()


def test_a_circle_of_processes_is_seen_by_the_kernel(path, tmp_path, peers):
    """EDEADLK: it looks for circles of POSIX locks alone."""
    one, two = (kin.FileLock(path, kind="posix", start=at, length=1) for at in (0, 1))

    def other(voice: Any) -> None:
        with two:
            voice.say()
            with one:
                voice.say("got both")

    with one:
        peer = peers.fork(other)
        peer.hear()
        until_waiting(path)
        with pytest.raises(kin.Deadlock, match="the kernel has found the circle"):
            two.acquire()
        assert not two.held
    assert peer.hear() == "got both"
    peer.result()


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "lockf"},
        {"kind": None},
        {"kind": []},
        {"start": -1},
        {"start": "0"},
        {"start": 2**63},
        {"length": 0},
        {"length": -1},
        {"length": 1.5},
        {"start": 1, "length": 2**63 - 0},
        {"mode": 0o1600},
        {"mode": "rw"},
        {"owner": "root"},
    ],
)
def test_arguments_that_make_no_sense(path, options):
    with pytest.raises(kin.InvalidValue):
        kin.FileLock(path, **options)


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes", None, 3])
def test_names_that_make_no_sense(path):
    with pytest.raises(kin.InvalidValue, match="no file name"):
        kin.FileLock(path)


@pytest.mark.parametrize("part", [{"start": 1}, {"length": 1}])
def test_flock_has_no_parts(path, part):
    with pytest.raises(kin.Unsupported, match="whole files"):
        kin.FileLock(path, kind="flock", **part)


@each_kind
def test_dropped_while_it_is_held_it_is_released_with_a_warning(path, kind):
    def drop() -> None:
        kin.FileLock(path, kind=kind).acquire()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unreleased"):
        drop()
    assert is_free(path, kind)
    assert open_here(path) == 0


# ── exclusive becomes shared ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["ofd", "posix"])
def test_downgrade(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)

    def share_it(voice) -> None:
        voice.hear()
        holds_a_moment(lock)

    share = peers.fork(share_it)
    with lock:
        share.say()
        with thread_of(lambda: holds_a_moment(lock)) as call:
            until_waiting(path, 2 if kind == "ofd" else 1)
            lock.downgrade()
            lock.downgrade()
            call.result()
            share.result()
        assert not peers.fork(lambda _: is_free(path, kind)).result()
    assert is_free(path, kind)


def holds_a_moment(lock: kin.FileLock) -> None:
    with lock.hold(shared=True, timeout=HANG):
        pass


def test_flock_can_not_do_it_without_a_moment_in_between(path):
    lock = kin.FileLock(path, kind="flock")
    with lock:
        with pytest.raises(kin.Unsupported, match="unlocked for a moment"):
            lock.downgrade()
        assert not other_thread_could(path, "flock")


def other_thread_could(path: Path, kind: LockKind) -> bool:
    with thread_of(is_free, path, kind) as call:
        return call.result()


# ── signals ──────────────────────────────────────────────────────────────────────────────────


@each_kind
@pytest.mark.parametrize("timeout", [None, HANG])
def test_an_exception_of_a_handler_ends_the_wait(path, kind, timeout, peers):
    lock = kin.FileLock(path, kind=kind)

    def wait(voice: Any) -> tuple[bool, int]:
        def handler(*_: Any) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, handler)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(timeout)
        return lock.held, open_here(path)

    with lock:
        peer = peers.fork(wait)
        until_waiting(path)
        peer.signal(signal.SIGINT)
        assert peer.result() == (False, 0)
        assert waiting(path) == 0


@each_kind
def test_a_handler_runs_while_it_is_waited_for(path, kind, tmp_path, peers):
    lock, other = kin.FileLock(path, kind=kind), kin.FileLock(tmp_path / "other", kind=kind)

    def wait(voice: Any) -> None:
        def handler(*_: Any) -> None:
            with other:  # another one may be taken meanwhile
                voice.say("handled")

        signal.signal(signal.SIGUSR1, handler)
        with lock:
            voice.say("held")

    with lock:
        peer = peers.fork(wait)
        for _ in range(3):
            until_waiting(path)
            peer.signal(signal.SIGUSR1)
            assert peer.hear() == "handled"
    assert peer.hear() == "held"
    peer.result()


@each_kind
@pytest.mark.parametrize("how", ["ignored", "restarting", "blocked"])
def test_a_timeout_comes_whatever_the_program_does_with_the_signal(path, kind, how, peers):
    """A wait is ended by SIGURG. It must not be restarted then, although the program's handler asks for that (SA_RESTART)."""
    lock = kin.FileLock(path, kind=kind)

    def wait(voice: Any) -> str:
        if how == "ignored":
            signal.signal(signal.SIGURG, signal.SIG_IGN)
        elif how == "restarting":
            signal.signal(signal.SIGURG, lambda *_: None)
            signal.siginterrupt(signal.SIGURG, False)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
        try:
            lock.acquire(timeout=0.02)
        except kin.Timeout as error:
            return str(error)
        return ""

    with lock:
        assert f"process {os.getpid()} (" in peers.fork(wait).result()


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────


@each_kind
def test_tasks_take_turns(path, kind):
    lock = kin.FileLock(path, kind=kind)
    inside = []

    async def work(number: int) -> None:
        async with lock.hold(timeout=HANG):
            inside.append(number)
            assert lock.held
            await asyncio.sleep(0)
            assert inside == [number]
            inside.pop()

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(5)))
        assert not lock.held

    asyncio.run(main())
    assert open_here(path) == 0


@each_kind
def test_tasks_share(path, kind):
    lock = kin.FileLock(path, kind=kind)

    async def main() -> None:
        meeting = asyncio.Barrier(3)

        async def meet() -> None:
            async with lock.hold(shared=True):
                await meeting.wait()

        await asyncio.wait_for(asyncio.gather(*(meet() for _ in range(3))), HANG)

    asyncio.run(main())


@each_kind
def test_a_task_waits_for_another_process(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    peer = peers.fork(holding(lock))
    peer.hear()

    async def main() -> None:
        with pytest.raises(kin.Timeout, match=f"process {peer.pid} "):
            await lock.aacquire(0.01)
        with pytest.raises(kin.Timeout):
            await lock.aacquire(0)
        waiter = asyncio.create_task(lock.aacquire())
        while not waiting(path):
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert waiting(path) == 0
        peer.say()
        async with lock as held:
            assert held is lock

    asyncio.run(main())
    peer.result()
    assert open_here(path) == 0


@each_kind
def test_what_a_task_has_is_its_own(path, kind):
    lock = kin.FileLock(path, kind=kind)

    async def release() -> None:
        lock.release()

    async def main() -> None:
        async with lock:
            with pytest.raises(kin.Deadlock):
                await lock.aacquire()
            with pytest.raises(kin.Deadlock, match="task"):  # it would stop the loop
                lock.acquire()
            with pytest.raises(kin.NotOwner, match=r"task .* acquired it"):
                await asyncio.create_task(release())
            await asyncio.to_thread(refused, lock)
        with lock:  # the thread's
            with pytest.raises(kin.Timeout):
                await lock.aacquire(0)

    asyncio.run(main())


def refused(lock: kin.FileLock) -> None:
    with pytest.raises(kin.Timeout, match="task"):
        lock.acquire(0)


def test_outside_of_asyncio_there_is_no_task(path):
    coroutine = kin.FileLock(path).aacquire()
    with pytest.raises(kin.Unsupported, match="no task"):
        coroutine.send(None)


def test_nothing_is_left(path):
    before = open_descriptors()
    for kind in KINDS:
        lock = kin.FileLock(path, kind=kind)
        with lock, thread_of(lock.acquire, 0.001) as call:
            assert isinstance(call.raised(), kin.Timeout)
    assert open_descriptors() <= before + 1  # the eventfd of this thread


# ── fairness ─────────────────────────────────────────────────────────────────────────────────


@each_kind
def test_nobody_starves(path, kind, peers):
    """Against one that has it nearly all the time. The kernel does not queue, but there is a moment between two turns."""
    lock = kin.FileLock(path, kind=kind)

    def hog(voice: Any) -> None:
        voice.say()
        while True:
            with lock:
                for _ in range(1000):
                    pass

    greedy = peers.fork(hog)
    greedy.hear()
    for _ in range(20):
        with lock.hold(timeout=HANG):
            pass
    greedy.kill()
