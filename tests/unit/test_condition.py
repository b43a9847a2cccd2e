"""Condition: who waits is told of what others change under the mutex, whoever of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import pickle
import resource
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk.processes import keeping
from kinfolk.sync import names
from tests.conformance.peers import HANG, Peer, Peers, open_descriptors, thread_of, until
from tests.faults.test_interrupted_waits import Storm
from tests.unit.test_mutex import until_asleep

PAGE = mmap.PAGESIZE


@pytest.fixture
def condition():
    made = kin.Condition()
    yield made
    made.close()


@pytest.fixture
def name(unique_name: str) -> Iterator[str]:
    """A name that is unlinked at the end."""
    yield unique_name
    path = names.path_of("condition", unique_name)
    if os.path.lexists(path):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(runtime_directory.path_name())


class Number:
    """One, in shared memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PAGE)

    def __call__(self) -> int:
        return int(struct.unpack_from("q", self._memory)[0])

    def set(self, value: int) -> None:
        struct.pack_into("q", self._memory, 0, value)


def waits(condition: kin.Condition, voice) -> tuple[bool, bool]:
    """A peer that waits once: whether it was notified, whether the mutex tells of a death."""
    with condition as held:
        voice.say("about to wait")
        return condition.wait(), held.owner_died


def waits_for(condition: kin.Condition, number: Number, voice) -> int:
    with condition:
        voice.say("about to wait")
        return condition.wait_for(number)


def is_member(condition: kin.Condition, voice) -> None:
    """A peer that only is there."""
    condition._join(None)
    voice.say("a member")
    signal.pause()


def until_waiting(peer: Peer, condition: kin.Condition) -> None:
    """It says so holding the mutex, so whoever has that next finds it waiting."""
    peer.hear()
    with condition:
        pass
    peer.until_asleep()


# ── waiting and notifying ────────────────────────────────────────────────────────────────────


def test_the_mutex_is_held_within(condition):
    with condition as held:
        assert isinstance(held, kin.Mutex)
        assert held.locked
        assert not held.owner_died
        assert not condition.wait(0)
        assert not condition.wait(timeout=0.001)
        assert held.locked
    assert not held.locked
    condition.acquire()
    assert held.locked
    condition.release()
    with condition.hold(timeout=HANG) as again:
        assert again is held
        with thread_of(condition.acquire, timeout=0) as call:
            assert isinstance(call.raised(), kin.Timeout)


def test_a_wait_is_over_when_another_process_notifies(peers, condition):
    number = Number()
    peer = peers.fork(lambda voice: waits_for(condition, number, voice))
    until_waiting(peer, condition)
    with condition:
        number.set(7)
        condition.notify()
    assert peer.result() == 7


def test_a_notify_is_for_as_many_as_it_says(peers, condition):
    def waits_and_stays(voice) -> None:
        assert waits(condition, voice) == (True, False)
        voice.say("gone")
        voice.hear()  # for its end would wake the others

    waiting = [peers.fork(waits_and_stays) for _ in range(6)]
    for peer in waiting:
        until_waiting(peer, condition)
    gone: set[Peer] = set()
    for count in (1, 2, 3):
        before = len(gone)
        with condition:
            condition.notify(count)
        while len(gone) < before + count:
            gone |= {peer for peer in waiting if peer.talk.poll()}
        for peer in set(waiting) - gone:
            peer.until_asleep()
        assert {peer for peer in waiting if peer.talk.poll()} == gone
        assert len(gone) == before + count
    for peer in waiting:
        peer.hear()
        peer.say()
        peer.result()


def test_all_are_notified(peers, condition):
    waiting = [peers.fork(lambda voice: waits(condition, voice)) for _ in range(3)]
    for peer in waiting:
        until_waiting(peer, condition)
    with condition:
        condition.notify_all()
    assert all(peer.result() == (True, False) for peer in waiting)


def test_a_notify_that_nobody_waits_for_is_none(condition):
    with condition:
        condition.notify()
        condition.notify_all()
        assert not condition.wait(0)


def test_threads_of_one_process(condition):
    things: list[int] = []

    def take() -> int:
        with condition:
            condition.wait_for(lambda: things)
            return things.pop()

    with thread_of(take) as one, thread_of(take) as two:
        for call in (one, two):
            until_asleep(call)
        for thing in (1, 2):
            with condition:
                things.append(thing)
                condition.notify()
        assert {one.result(), two.result()} == {1, 2}


def test_a_mutex_of_ones_own_choice(peers):
    mutex, number = kin.Mutex(), Number()
    first, second = kin.Condition(mutex), kin.Condition(mutex)

    def answers(voice) -> None:
        with first as held:
            assert held is mutex
            voice.say()
            first.wait_for(number)
            number.set(0)
            second.notify()

    peer = peers.fork(answers)
    peer.hear()
    with mutex:
        number.set(1)
        first.notify()
        assert second.wait_for(lambda: number() == 0, HANG)
    peer.result()
    for each in (first, second, mutex):
        each.close()


def test_waiting_for_something(peers, condition):
    number = Number()
    with condition:
        assert condition.wait_for(lambda: 5) == 5
        begun = time.monotonic()
        assert condition.wait_for(number, timeout=0.01) == 0
        assert time.monotonic() - begun >= 0.01
        assert condition.wait_for(number, 0) == 0
        with pytest.raises(ZeroDivisionError):
            condition.wait_for(lambda: 1 / 0)
    peer = peers.fork(lambda voice: waits_for(condition, number, voice))
    until_waiting(peer, condition)
    for value in (0, 0, 3):
        with condition:
            number.set(value)
            condition.notify()
    assert peer.result() == 3


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", [], object()])
def test_timeouts_that_make_no_sense(timeout, condition):
    with condition:
        for act in (condition.wait, lambda timeout: condition.wait_for(int, timeout)):
            with pytest.raises(kin.InvalidValue, match="timeout"):
                act(timeout)
    with pytest.raises(kin.InvalidValue, match="timeout"):
        condition.acquire(timeout)


@pytest.mark.parametrize("n", [0, -1, -(10**30)])
def test_numbers_that_make_no_sense(n, condition):
    with condition, pytest.raises(kin.InvalidValue, match=f"n={n} makes no sense"):
        condition.notify(n)


def test_arguments(condition):
    with condition:
        condition.notify(n=10**30)
        for call in (
            lambda: condition.wait(1, 2),
            lambda: condition.notify(1, 2),
            lambda: condition.notify_all(1),
        ):
            with pytest.raises(TypeError):
                call()


# ── who does not hold the mutex ──────────────────────────────────────────────────────────────


def test_without_the_mutex(peers, condition):
    mutex = condition._mutex
    for act in (condition.wait, condition.notify, condition.notify_all):
        with pytest.raises(kin.NotOwner, match="does not hold the mutex: nobody holds it"):
            act()
        with pytest.raises(RuntimeError):  # what threading raises
            act()
        with condition:
            with thread_of(act) as call:
                assert "of this process holds it" in str(call.raised())
            peers.fork(lambda voice: refused(act)).result()  # noqa: B023
    assert not mutex.locked


def refused(act: Callable[[], object]) -> None:
    """In a forked child, which does not hold what its parent holds."""
    with pytest.raises(kin.NotOwner):
        act()


def test_a_task_is_refused(condition):
    async def main() -> None:
        async with condition:
            pass

    with pytest.raises(kin.Unsupported, match="belongs to a thread"):
        asyncio.run(main())


# ── deaths ───────────────────────────────────────────────────────────────────────────────────


def test_who_was_woken_and_is_killed_is_made_up_for(peers, condition):
    """The only notify goes to one that is stopped, and then killed."""
    number = Number()
    first = peers.fork(lambda voice: waits_for(condition, number, voice))
    until_waiting(first, condition)
    second = peers.fork(lambda voice: waits_for(condition, number, voice))
    until_waiting(second, condition)
    first.signal(signal.SIGSTOP)
    with condition:
        number.set(1)
        condition.notify()
    first.kill(reap=False)
    assert second.result() == 1


def test_who_changes_something_and_is_killed_before_it_says_so(peers, condition):
    number = Number()

    def changes(voice) -> None:
        with condition:
            number.set(1)
            voice.say()
            signal.pause()

    waiting = [peers.fork(lambda voice: waits(condition, voice)) for _ in range(2)]
    for peer in waiting:
        until_waiting(peer, condition)
    peer = peers.fork(changes)
    peer.hear()
    peer.kill(reap=False)
    told = sorted(peer.result() for peer in waiting)
    assert told == [(True, False), (True, True)]  # once repaired, nobody else is told


def test_any_members_death_wakes_but_nobodys_coming_or_leaving(peers, condition):
    waiting = peers.fork(lambda voice: waits(condition, voice))
    until_waiting(waiting, condition)

    def comes_and_goes(voice) -> None:
        with condition:
            pass
        condition.close()

    for _ in range(5):
        peers.fork(comes_and_goes).result()
    waiting.until_asleep()
    assert not waiting.talk.poll()

    member = peers.fork(lambda voice: is_member(condition, voice))
    member.hear()
    member.kill()
    assert waiting.result() == (True, False)


def test_a_thread_waits_while_another_process_dies(peers, condition):
    with condition:
        member = peers.fork(lambda voice: is_member(condition, voice))
        member.hear()
        killer = threading.Timer(0.01, member.kill)
        killer.start()
        assert condition.wait(HANG)
    killer.join()


def test_an_owner_that_dies_while_one_comes_back(peers, condition):
    """Notified, it waits for the mutex, whose owner is killed."""

    def notifies_and_dies(voice) -> None:
        with condition:
            condition.notify()
            voice.say()
            signal.pause()

    waiting = peers.fork(lambda voice: waits(condition, voice))
    until_waiting(waiting, condition)
    owner = peers.fork(notifies_and_dies)
    owner.hear()
    waiting.until_asleep()
    owner.kill()
    assert waiting.result() == (True, True)


def test_given_up_meanwhile(peers, condition):
    def hears(voice) -> str:
        with pytest.raises(kin.OwnerDied) as caught:
            waits(condition, voice)
        return str(caught.value)

    waiting = [peers.fork(hears) for _ in range(2)]
    for peer in waiting:
        until_waiting(peer, condition)
    with condition as held:
        held.give_up()
    for peer in waiting:
        assert "given up for good" in peer.result()
    with pytest.raises(kin.OwnerDied), condition:
        pass


def test_with_a_strict_mutex_a_death_is_told_without_it(peers):
    condition = kin.Condition(kin.Mutex(strict=True))

    def hears(voice) -> None:
        with pytest.raises(kin.OwnerDied, match="strict"):
            waits(condition, voice)

    def dies(voice) -> None:
        condition.acquire()
        voice.say()
        signal.pause()

    waiting = peers.fork(hears)
    waiting.hear()
    member = peers.fork(dies)
    member.hear()
    waiting.until_asleep()
    member.kill()
    waiting.result()
    condition.close()


# ── signals ──────────────────────────────────────────────────────────────────────────────────


def test_a_handler_runs_without_the_mutex(peers, condition):
    number = Number()

    def waits_with_handler(voice) -> int:
        def handler(*_) -> None:
            with condition:
                number.set(number() + 1)
                condition.notify()

        signal.signal(signal.SIGUSR1, handler)
        return waits_for(condition, number, voice)

    peer = peers.fork(waits_with_handler)
    until_waiting(peer, condition)
    peer.signal(signal.SIGUSR1)
    assert peer.result() == 1


def test_an_exception_of_a_handler_comes_once_the_mutex_is_held_again(peers, condition):
    def interrupted(voice) -> bool:
        with condition as held:
            voice.say()
            with pytest.raises(KeyboardInterrupt):
                condition.wait()
            voice.say()
            voice.hear()
            return held._holder == threading.get_native_id()

    peer = peers.fork(interrupted)
    until_waiting(peer, condition)
    with condition:
        for _ in range(2):  # the second one while it waits for the mutex
            peer.signal(signal.SIGINT)
            until(lambda: sleeps_again(peer), "it comes back")
            assert not peer.talk.poll()
    peer.hear()
    assert condition._mutex.locked
    peer.say()
    assert peer.result()


def sleeps_again(peer: Peer) -> bool:
    """Whether it sleeps, and no signal is on its way."""
    peer.until_asleep()
    with open(f"/proc/{peer.pid}/status") as file:
        return "ShdPnd:\t0000000000000000" in file.read()


def test_what_is_raised_passes_the_notify_on(peers, condition):
    """Notified and interrupted at once: somebody else is to look."""
    number = Number()

    def interrupted(voice) -> None:
        with pytest.raises(KeyboardInterrupt):
            waits_for(condition, number, voice)

    first = peers.fork(interrupted)
    until_waiting(first, condition)
    second = peers.fork(lambda voice: waits_for(condition, number, voice))
    until_waiting(second, condition)
    with condition:
        number.set(1)
        condition.notify()
        first.signal(signal.SIGINT)
        until(lambda: sleeps_again(first), "it waits for the mutex")
    first.result()
    assert second.result() == 1


# ── closing ──────────────────────────────────────────────────────────────────────────────────


def test_a_closed_one():
    condition = kin.Condition()
    condition.close()
    condition.close()
    for act in (
        condition.acquire,
        condition.release,
        condition.wait,
        condition.notify,
        condition.notify_all,
        lambda: condition.wait_for(bool),
        condition.__enter__,
    ):
        with pytest.raises(kin.Closed):
            act()
    assert repr(condition) == "<Condition anonymous, mutex closed>"


def test_another_mutex_than_the_others_go_by(name, peers):
    mutex, other, number = kin.Mutex(), kin.Mutex(), Number()
    condition = kin.Condition(mutex, name)

    def misled(voice) -> None:
        wrong = kin.Condition(other, name)
        with wrong:
            for act in (wrong.wait, wrong.notify, wrong.notify_all):
                with pytest.raises(kin.InvalidValue, match="another mutex goes with it"):
                    act()
            assert other.locked
        wrong.close()

    peer = peers.fork(lambda voice: waits_for(condition, number, voice))
    until_waiting(peer, condition)
    peers.fork(misled).result()
    with condition:
        number.set(7)
        condition.notify()
    assert peer.result() == 7
    condition.close()


def test_another_mutex_once_nobody_goes_by_the_first(name, peers):
    first = kin.Condition(kin.Mutex(), name)

    def uses_it(_) -> None:
        with first:
            first.notify()

    peers.fork(uses_it).result()
    peers.fork(lambda voice: is_member(first, voice)).kill()
    with first:
        first.notify()
    second = kin.Condition(kin.Mutex(), name)
    with second, pytest.raises(kin.InvalidValue, match="another mutex"):
        second.notify()
    first.close()
    with second:
        second.notify()
        assert not second.wait(0)
    second.close()


def test_waited_for_neither_it_nor_its_mutex_can_be_closed(condition):
    mutex = kin.Mutex()
    other = kin.Condition(mutex)

    def wait() -> None:
        with other:
            other.wait()

    with thread_of(wait) as call:
        until_asleep(call)
        with mutex:
            pass
        for each in (other, mutex):
            with pytest.raises(kin.StillInUse):
                each.close()
        with other:
            other.notify()
        call.result()
    other.close()
    mutex.close()
    with condition, pytest.raises(kin.StillInUse):
        condition.close()


def test_a_closed_mutex():
    mutex = kin.Mutex()
    condition = kin.Condition(mutex)
    mutex.close()
    for act in (condition.wait, condition.notify, condition.acquire):
        with pytest.raises(kin.Closed, match="this mutex is closed"):
            act()
    condition.close()


def test_made_without_being_opened():
    condition = kin.Condition.__new__(kin.Condition)
    for act in (condition.wait, condition.notify, condition.__enter__):
        with pytest.raises(kin.Closed):
            act()
    repr(condition)
    condition.close()


def test_nothing_stays_open():
    before = open_descriptors()
    for _ in range(10):
        made, others = kin.Condition(), Peers()
        member = others.fork(lambda voice, made=made: is_member(made, voice))
        member.hear()
        with made:
            assert not made.wait(0)  # it watches the member
        made.close()
        others.end()
    del made, member
    assert open_descriptors() == before


# ── members ──────────────────────────────────────────────────────────────────────────────────


def test_as_many_members_as_it_was_made_for(peers):
    condition = kin.Condition(members=2)
    member = peers.fork(lambda voice: is_member(condition, voice))
    member.hear()

    def is_one_too_many(voice) -> None:
        for act in (condition.acquire, condition.__enter__):
            with pytest.raises(kin.LimitReached, match="made for 2 at a time"):
                act()

    peers.fork(is_one_too_many).result()
    member.kill(reap=False)
    peers.fork(lambda voice: condition.acquire()).result()  # the dead make room
    condition.close()


def test_it_is_as_it_was_made(name):
    made = kin.Condition(name=name, members=3)
    assert kin.Condition(name=name).size(3) == kin.Condition.SIZE - 61 * 64
    kin.Condition(name=name, members=3)
    with pytest.raises(kin.InvalidValue, match="made with members=3, not 4"):
        kin.Condition(name=name, members=4)
    made.unlink()


@pytest.mark.parametrize("members", [0, -1, 1025, 1.5, "3", True])
def test_numbers_of_members_that_make_no_sense(members):
    with pytest.raises(kin.InvalidValue, match="members="):
        kin.Condition(members=members)
    with pytest.raises(kin.InvalidValue, match="members="):
        kin.Condition.size(members)


@pytest.mark.parametrize("mutex", ["name", 5, threading.Lock()])
def test_what_is_no_mutex(mutex):
    with pytest.raises(kin.InvalidValue, match=r"goes with a kinfolk\.Mutex"):
        kin.Condition(mutex)


def test_no_descriptor_to_watch_the_others(peers, condition):
    """It is said with the mutex held, and nothing is lost by it."""
    member = peers.fork(lambda voice: [condition._join(None), voice.say(), voice.hear()])
    member.hear()

    def waits_in_vain(voice) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with condition as held:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            with pytest.raises(kin.LimitReached, match="can't watch"):
                condition.wait()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert held._holder == threading.get_native_id()
            assert not condition.wait(0)

    peers.fork(waits_in_vain).result()
    member.say()
    member.result()


def test_a_forked_child_is_a_member_once_it_uses_it(peers, condition):
    number = Number()

    def changes_and_dies(voice) -> None:
        with condition:
            number.set(1)
            voice.say()
            signal.pause()

    with thread_of(lambda: waits_for(condition, number, Silence())) as call:
        until_asleep(call)
        peer = peers.fork(changes_and_dies)
        peer.hear()
        peer.kill()
        assert call.result() == 1


class Silence:
    """A voice for threads."""

    def say(self, *_: object) -> None:
        """Nothing."""


# ── where it lies ────────────────────────────────────────────────────────────────────────────


def test_by_name(name, peers):
    condition = kin.Condition(name=name)
    number = Number()

    def other(voice) -> int:
        return waits_for(kin.Condition(name=name), number, voice)

    peer = peers.fork(other)
    until_waiting(peer, condition)
    with condition:
        number.set(1)
        condition.notify()
    assert peer.result() == 1
    assert repr(condition) == f"<Condition {name}, mutex free>"
    assert repr(condition._mutex) == f"<Mutex of condition {name}, free>"
    condition.unlink()
    with pytest.raises(kin.NotFound):
        condition.unlink()


def test_inside_memory(peers, unique_name):
    memory = kin.SharedMemory.create(f"shm:/{unique_name}", 3 * PAGE)
    condition = kin.Condition.inside(memory, 64)
    number = Number()

    def other(voice) -> int:
        attached = kin.SharedMemory.attach(f"shm:/{unique_name}")
        return waits_for(kin.Condition.inside(attached, 64), number, voice)

    peer = peers.fork(other)
    until_waiting(peer, condition)
    with condition:
        number.set(1)
        condition.notify_all()
    assert peer.result() == 1
    with pytest.raises(kin.StillInUse):
        memory.close()
    condition.close()
    memory.unlink()
    memory.close()


@pytest.mark.parametrize("offset", [1, 32, -64, 2 * PAGE - 4416, 2 * PAGE, 2**62])
def test_offsets_where_none_can_lie(offset):
    with pytest.raises(kin.InvalidValue, match=r"4480 bytes, at a multiple of 64"):
        kin.Condition.inside(mmap.mmap(-1, 2 * PAGE), offset)


def test_what_else_lies_there():
    memory = mmap.mmap(-1, 2 * PAGE)
    kin.Mutex.inside(memory)
    with pytest.raises(kin.CorruptObject, match="no condition, but another object"):
        kin.Condition.inside(memory)
    for where in (130, 200, 330, 4470):
        blank = mmap.mmap(-1, 2 * PAGE)
        blank[where] = 1
        with pytest.raises(kin.CorruptObject, match="no condition"):
            kin.Condition.inside(blank)


def test_overwritten_memory_is_no_crash(peers):
    """Whatever a broken process writes there."""

    def body(voice) -> int:
        refused = 0
        for byte in (0, 1, 0x7F, 0xFF):
            memory = mmap.mmap(-1, 2 * PAGE)
            condition = kin.Condition.inside(memory)
            memory[320 : 2 * PAGE] = bytes([byte]) * (2 * PAGE - 320)  # the members
            try:
                with condition:
                    condition.notify()
                    condition.wait(0)
                kin.Condition.inside(memory)
            except kin.KinfolkError:
                refused += 1
        return refused

    assert peers.fork(body).result() >= 3


def test_from_before_a_reboot_it_is_repaired():
    memory = mmap.mmap(-1, 2 * PAGE)
    before = kin.Condition.inside(memory)
    for header in (0, 192):
        memory[header + 24] ^= 0xFF
    struct.pack_into("I", memory, 192 + 64, 4711)  # its mutex was held
    with kin.Condition.inside(memory) as held:
        assert held.owner_died
    del before


def give(condition: kin.Condition, mutex: kin.Mutex | None, memory: kin.SharedMemory) -> None:
    """What a started process does."""
    with condition as held:
        assert mutex in (None, held)
        memory.buf[PAGE - 1] = 1
        condition.notify()


def test_passed_to_processes(name):
    memory, mutex = kin.SharedMemory.create("memfd:", 3 * PAGE), kin.Mutex()
    cases = [
        (kin.Condition(), None),
        (kin.Condition(name=name), None),
        (kin.Condition.inside(memory, PAGE), None),
        (kin.Condition(mutex, members=4), mutex),
    ]
    try:
        for condition, other in cases:
            memory.buf[PAGE - 1] = 0
            process = kin.spawn(give, condition, other, memory)
            with condition:
                assert condition.wait_for(lambda: memory.buf[PAGE - 1], HANG) == 1
            assert process.wait(timeout=HANG).code == 0
    finally:
        keeping.keeping().end(0)


def test_what_can_not_be_pickled(condition):
    with pytest.raises(kin.UsageError, match="can't be pickled"):
        pickle.dumps(condition)
    with pytest.raises(kin.UsageError, match="a part of the other"):
        pickle.dumps(condition._mutex)


def test_for_a_plain_user(as_plain_user, unique_name):
    def body() -> bool:
        condition = kin.Condition(name=unique_name)
        pid = os.fork()
        if pid == 0:
            with condition:
                condition.notify()
            os._exit(0)
        try:
            with condition:
                return condition.wait(HANG) in (True, False)
        finally:
            os.waitpid(pid, 0)
            condition.unlink()

    assert as_plain_user.run(body)


def test_many_at_once(peers):
    """A bounded store of four places, six processes, each thing once."""
    memory = mmap.mmap(-1, PAGE)
    mutex = kin.Mutex()
    filled, emptied = kin.Condition(mutex), kin.Condition(mutex)
    count = Number()

    def gives(voice, start: int) -> None:
        for thing in range(start, start + 200):
            with mutex:
                emptied.wait_for(lambda: count() < 4)
                memory[count()] = thing % 256
                count.set(count() + 1)
                filled.notify()

    def takes(voice) -> int:
        total = 0
        for _ in range(200):
            with mutex:
                filled.wait_for(count)
                count.set(count() - 1)
                total += memory[count()]
                emptied.notify()
        return total

    givers = [peers.fork(gives, start) for start in (0, 1000, 2000)]
    takers = [peers.fork(takes) for _ in givers]
    for peer in givers:
        peer.result()
    expected = sum(thing % 256 for start in (0, 1000, 2000) for thing in range(start, start + 200))
    assert sum(peer.result() for peer in takers) == expected
    for each in (filled, emptied, mutex):
        each.close()


# ── fairness ─────────────────────────────────────────────────────────────────────────────────


def test_nobody_who_waits_starves(peers, condition):
    """One is notified at a time, and three always wait again: none of them is passed over for ever."""
    over, turns = Number(), [Number() for _ in range(3)]

    def waits_again(voice, mine: Number) -> None:
        voice.say()
        with condition:
            while not over():
                condition.wait()
                mine.set(mine() + 1)

    waiters = [peers.fork(waits_again, mine) for mine in turns]
    for peer in waiters:
        peer.hear()

    def notified() -> bool:
        with condition:
            condition.notify()
            return min(mine() for mine in turns) >= 20

    until(notified, "20 turns of each")
    with condition:
        over.set(1)
        condition.notify_all()
    for peer in waiters:
        peer.result()


def test_who_was_notified_gets_the_mutex_of_those_who_always_have_it(peers, condition):
    over = Number()

    def hog(voice) -> None:
        voice.say()
        while not over():
            with condition:
                condition.notify()
                sum(range(200))

    hogs = [peers.fork(hog) for _ in range(2)]
    for peer in hogs:
        peer.hear()
    try:
        for _ in range(20):
            with condition.hold(timeout=HANG):
                assert condition.wait(HANG)
    finally:
        over.set(1)
    for peer in hogs:
        peer.result()


# ── the rest ─────────────────────────────────────────────────────────────────────────────────


def test_a_subclass_may_do_more():
    class Counting(kin.Condition):
        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            return super().wait(timeout)

    with Counting() as held:
        assert held.locked
    condition = Counting()
    with condition:
        condition.wait_for(bool, 0)
    assert condition.waits == 1
    condition.close()


def test_an_interrupt_at_any_moment_leaves_the_mutex_free(condition):
    """Also between an acquire and the block, and at its end."""
    storm = Storm()

    def use() -> None:
        for timeout in (*(0,) * 10, 0.0001):
            with condition:
                condition.wait(timeout)
                condition.notify()

    with storm.raging():
        storm.until(300, use)
    assert not condition._mutex.locked
    with condition:
        assert not condition.wait(0)


def test_in_python_it_would_not():
    """The negative control: a `with` that Python enters may be left before it is entered."""

    class Plain(kin.Condition):
        def __enter__(self) -> kin.Mutex:
            held = super().__enter__()
            return held  # noqa: RET504 - here an interrupt comes

    condition = Plain()
    storm = Storm()

    def use() -> None:
        if not condition._mutex.locked:
            with condition:
                pass

    end = time.monotonic() + HANG
    with storm.raging():
        while not condition._mutex.locked and time.monotonic() < end:
            storm.shelterless(use)
    assert condition._mutex.locked
    condition.release()
    condition.close()
