"""Event: everybody who waits for it goes once it is set, in whatever process, and whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import mmap
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk.processes import keeping
from kinfolk.sync import names
from tests.conformance.peers import HANG, open_descriptors, thread_of, until
from tests.unit.test_mutex import until_asleep

PAGE = mmap.PAGESIZE
FUTEX_PRIVATE_FLAG = 128


@pytest.fixture
def event():
    made = kin.Event()
    yield made
    made.close()


@pytest.fixture
def name(unique_name: str) -> Iterator[str]:
    """A name that is unlinked at the end."""
    yield unique_name
    path = names.path_of("event", unique_name)
    if os.path.lexists(path):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(runtime_directory.path_name())


def waits(event, voice) -> bool:
    voice.say("about to wait")
    return event.wait()


# ── set, clear, wait ─────────────────────────────────────────────────────────────────────────


def test_set_and_clear(event):
    assert not event.is_set()
    event.clear()
    for _ in range(3):
        event.set()
        event.set()
        assert event.is_set()
        assert event.wait()
        assert event.wait(0)
        event.clear()
        assert not event.is_set()
        assert not event.wait(0)


def test_all_processes_that_wait_go(peers, event):
    waiting = [peers.fork(lambda voice: waits(event, voice)) for _ in range(3)]
    for peer in waiting:
        peer.hear()
        peer.until_asleep()
    event.set()
    assert all(peer.result() for peer in waiting)


def test_set_by_another_process(peers, event):
    with thread_of(event.wait) as one, thread_of(event.wait) as two:
        for call in (one, two):
            until_asleep(call)
        peers.fork(lambda voice: event.set()).result()
        assert one.result()
        assert two.result()


def test_who_sleeps_goes_though_it_is_cleared_at_once(peers, event):
    """As with threads. multiprocessing's does not hold this, see below."""
    for _ in range(20):
        peer = peers.fork(lambda voice: waits(event, voice))
        peer.hear()
        peer.until_asleep()
        event.set()
        event.clear()
        assert peer.result()


def test_the_standard_librarys_loses_them(peers):
    """The negative control: whoever is woken looks at the flag, which may be gone."""
    standard = multiprocessing.get_context("fork").Event()

    def lost() -> bool:
        peer = peers.fork(lambda voice: (voice.say(), standard.wait(0.2))[1])
        peer.hear()
        peer.until_asleep()
        standard.set()
        standard.clear()
        return not peer.result()

    until(lost, "somebody who was not told")


def test_other_threads_run_while_one_waits(event):
    with thread_of(event.wait) as call:
        until_asleep(call)
        assert sum(range(1000)) == 499500
        event.set()
        assert call.result()


def test_what_was_written_before_is_seen_after(peers, event):
    memory, answer = mmap.mmap(-1, PAGE), kin.Event()

    def reads(voice) -> list[int]:
        seen = []
        for _ in range(200):
            event.wait()
            seen.append(struct.unpack_from("q", memory)[0])
            event.clear()
            answer.set()
        return seen

    peer = peers.fork(reads)
    for number in range(200):
        struct.pack_into("q", memory, 0, number)
        event.set()
        answer.wait()
        answer.clear()
    assert peer.result() == list(range(200))
    answer.close()


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_timeouts_are_no_errors(timeout, event):
    begun = time.monotonic()
    assert event.wait(timeout) is False
    assert event.wait(timeout=timeout) is False
    assert time.monotonic() - begun >= 2 * timeout
    event.set()
    assert event.wait(timeout) is True


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", [], object()])
def test_timeouts_that_make_no_sense(timeout, event):
    with pytest.raises(kin.InvalidValue, match="timeout"):
        event.wait(timeout)
    with pytest.raises(kin.InvalidValue, match="timeout"):
        asyncio.run(event.await_set(timeout))


def test_arguments(event):
    for call in (
        lambda: event.wait(1, 2),
        lambda: event.wait(seconds=1),
        lambda: event.set(1),
        lambda: event.clear(1),
        lambda: event.is_set(1),
    ):
        with pytest.raises(TypeError):
            call()


# ── deaths, signals, forks ───────────────────────────────────────────────────────────────────


def test_killed_waiters_are_missed_by_nobody(peers, event):
    waiting = [peers.fork(lambda voice: waits(event, voice)) for _ in range(4)]
    for peer in waiting:
        peer.hear()
        peer.until_asleep()
    for peer in waiting[::2]:
        peer.kill()
    event.set()
    assert all(peer.result() for peer in waiting[1::2])


def test_whoever_sets_it_may_die(peers, event):
    def sets_and_stays(voice) -> None:
        event.set()
        voice.say()
        signal.pause()

    peer = peers.fork(sets_and_stays)
    peer.hear()
    peer.kill()
    assert event.wait(0)


def test_a_handler_runs_while_one_waits_and_may_set_it(peers, event):
    def waits_with_handler(voice) -> bool:
        signal.signal(signal.SIGUSR1, lambda *_: event.set())
        return waits(event, voice)

    peer = peers.fork(waits_with_handler)
    peer.hear()
    peer.until_asleep()
    peer.signal(signal.SIGUSR1)
    assert peer.result()


def test_an_exception_of_a_handler_ends_the_wait(peers, event):
    def interrupted(voice) -> None:
        with pytest.raises(KeyboardInterrupt):
            waits(event, voice)
        event.close()

    peer = peers.fork(interrupted)
    peer.hear()
    peer.until_asleep()
    peer.signal(signal.SIGINT)
    peer.result()


# ── tasks ────────────────────────────────────────────────────────────────────────────────────


def test_tasks_wait_too(peers, event):
    async def main() -> list[bool]:
        tasks = [asyncio.create_task(event.await_set()) for _ in range(3)]
        await asyncio.sleep(0)
        peers.fork(lambda voice: event.set()).result()
        return [*await asyncio.gather(*tasks), await event.await_set(), await event.await_set(0)]

    assert asyncio.run(main()) == [True] * 5


def test_many_tasks_share_a_thread(event):
    async def main() -> list[bool]:
        before = threading.active_count()
        tasks = [asyncio.create_task(event.await_set()) for _ in range(100)]
        late = asyncio.create_task(event.await_set(0.01))
        await asyncio.sleep(0)
        until(helper_asleep, "the helper asleep")
        assert threading.active_count() <= before + 1
        assert not await late
        tasks[0].cancel()  # the one that has the thread
        tasks[7].cancel()
        await asyncio.wait((tasks[0], tasks[7]))
        event.set()
        event.clear()
        return [await task for task in tasks[1:7] + tasks[8:]]

    assert asyncio.run(main()) == [True] * 98


def test_tasks_of_a_forked_child(peers, event):
    """In the middle of a wait of the parent's."""

    async def main() -> bool:
        task = asyncio.create_task(event.await_set())
        await asyncio.sleep(0)
        until(helper_asleep, "the helper asleep")
        peers.fork(lambda voice: [asyncio.run(event.await_set(0.001)), event.set()]).result()
        return await task

    assert asyncio.run(main())


def test_a_task_out_of_time(event):
    async def main() -> None:
        assert await event.await_set(0) is False
        begun = time.monotonic()
        assert await event.await_set(0.01) is False
        assert time.monotonic() - begun >= 0.01

    asyncio.run(main())


def helper_asleep() -> bool:
    """Whether a helper thread sleeps on a futex that processes share (proc_pid_syscall(5)): in the native wait."""
    for thread in threading.enumerate():
        if thread.name == "kinfolk helper":
            path = Path(f"/proc/self/task/{thread.native_id}/syscall")
            _, *arguments = path.read_text().split()
            if arguments and not int(arguments[1], 16) & FUTEX_PRIVATE_FLAG:
                return True
    return False


def test_a_cancelled_task_leaves_it_as_it_is(peers, event):
    """And other processes that wait asleep."""
    peer = peers.fork(lambda voice: waits(event, voice))
    peer.hear()
    peer.until_asleep()

    async def main() -> None:
        for _ in range(20):
            task = asyncio.create_task(event.await_set())
            await asyncio.sleep(0)
            until(helper_asleep, "the helper asleep")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await event.await_set()

    asyncio.run(main())
    event.set()
    assert peer.result()


def test_a_loop_that_ends_ends_the_wait(event):
    async def main() -> None:
        asyncio.get_running_loop().create_task(event.await_set())
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    event.close()


def test_an_interpreter_that_ends_while_a_task_waits():
    code = """
import asyncio, threading, kinfolk as kin
event, begun = kin.Event(), threading.Event()
async def main():
    begun.set()
    await event.await_set()
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
begun.wait()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        check=False,
        timeout=HANG,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ── closing ──────────────────────────────────────────────────────────────────────────────────


def test_a_closed_one():
    with kin.Event() as event:
        event.set()
    event.close()
    for act in (event.set, event.clear, event.is_set, event.wait):
        with pytest.raises(kin.Closed, match="this event is closed"):
            act()
    with pytest.raises(kin.Closed):
        asyncio.run(event.await_set())
    assert repr(event) == "<Event anonymous, closed>"


def test_waited_for_it_can_not_be_closed(peers, event):
    with thread_of(event.wait) as call:
        until_asleep(call)
        with pytest.raises(kin.StillInUse, match="waits for it"):
            event.close()
        # What waits here waits in the child's copy for nobody.
        peers.fork(lambda voice: event.close()).result()
        event.set()
        call.result()

    async def main() -> None:
        event.clear()
        task = asyncio.create_task(event.await_set())
        await asyncio.sleep(0)
        until(helper_asleep, "the helper asleep")
        with pytest.raises(kin.StillInUse):
            event.close()
        event.set()
        await task

    asyncio.run(main())


def test_the_memory_stays_as_long_as_it_is_open():
    memory = mmap.mmap(-1, PAGE)
    event = kin.Event.inside(memory)
    with pytest.raises(BufferError):
        memory.close()
    event.close()
    memory.close()


def test_made_without_being_opened():
    event = kin.Event.__new__(kin.Event)
    with pytest.raises(kin.Closed):
        event.set()
    event.close()
    repr(event)
    with pytest.raises(kin.Unsupported):
        event.unlink()


# ── where it lies ────────────────────────────────────────────────────────────────────────────


def test_by_name(name, peers):
    event = kin.Event(name)
    peers.fork(lambda voice: kin.Event(name).set()).result()
    assert event.is_set()
    assert kin.Event(name).is_set()  # the name outlives everybody
    assert repr(event) == f"<Event {name}, set>"
    event.unlink()
    assert not kin.Event(name).is_set()  # another one
    with pytest.raises(kin.NotFound):
        event.unlink()
    kin.Event(name).unlink()


def test_a_mutex_of_the_same_name_is_another_thing(name):
    mutex, event = kin.Mutex(name), kin.Event(name)
    event.set()
    assert not mutex.locked
    mutex.unlink()
    event.unlink()


def test_inside_memory(peers, unique_name):
    memory = kin.SharedMemory.create(f"shm:/{unique_name}", PAGE)
    event = kin.Event.inside(memory, 64)

    def other(voice) -> None:
        attached = kin.SharedMemory.attach(f"shm:/{unique_name}")
        kin.Event.inside(attached, 64).set()

    peers.fork(other).result()
    assert event.wait(0)
    assert repr(event) == f"<Event at 64 of shm:/{unique_name}, set>"
    event.close()
    memory.unlink()
    memory.close()


@pytest.mark.parametrize("offset", [1, 32, -64, PAGE - 128, PAGE, 2**62])
def test_offsets_where_none_can_lie(offset):
    with pytest.raises(kin.InvalidValue, match=r"192 bytes, at a multiple of 64"):
        kin.Event.inside(mmap.mmap(-1, PAGE), offset)


def test_what_else_lies_there():
    memory = mmap.mmap(-1, PAGE)
    kin.Mutex.inside(memory)
    with pytest.raises(kin.CorruptObject, match="no event, but another object"):
        kin.Event.inside(memory)
    memory[PAGE // 2 + 150] = 1
    with pytest.raises(kin.CorruptObject, match="no event"):
        kin.Event.inside(memory, PAGE // 2)


@pytest.mark.parametrize("was_set", [False, True])
def test_from_before_a_reboot_it_is_as_it_was(was_set):
    memory = mmap.mmap(-1, PAGE)
    before = kin.Event.inside(memory)
    if was_set:
        before.set()
    memory[24] ^= 0xFF  # of the boot id
    assert kin.Event.inside(memory).is_set() is was_set


def set_all(*events: kin.Event) -> None:
    """What a started process does."""
    for event in events:
        event.set()


def test_passed_to_processes(name):
    memory = kin.SharedMemory.create("memfd:", PAGE)
    events = (kin.Event(), kin.Event(name), kin.Event.inside(memory, 256))
    try:
        assert kin.spawn(set_all, *events).wait(timeout=HANG).code == 0
        assert all(event.is_set() for event in events)
    finally:
        keeping.keeping().end(0)
    child = multiprocessing.get_context("spawn").Process(
        target=set_all, args=(event := kin.Event(),)
    )
    child.start()
    assert event.wait(HANG)
    child.join(HANG)
    child.close()
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def test_it_can_not_be_pickled_without_a_process_to_go_to(event):
    with pytest.raises(kin.UsageError, match="can't be pickled"):
        pickle.dumps(event)


def test_dropped_ones_leave_no_descriptor(name):
    before = open_descriptors()
    for _ in range(20):
        kin.Event()
        kin.Event(name)
        kin.Event().close()
    assert open_descriptors() == before


def test_for_a_plain_user(as_plain_user, unique_name):
    def body() -> bool:
        event = kin.Event(unique_name)
        try:
            event.set()
            return event.wait(0) and kin.Event(unique_name).is_set()
        finally:
            event.unlink()

    assert as_plain_user.run(body)
