"""Semaphore: so many at a time, and what a dead process held comes back."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import pickle
import signal
import struct
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest

import kinfolk as kin
from tests.conformance.peers import (
    HANG,
    Call,
    Peer,
    Peers,
    open_descriptors,
    state,
    thread_of,
    until,
)

PAGE = mmap.PAGESIZE


@pytest.fixture
def two():
    """A semaphore of two."""
    made = kin.Semaphore(2)
    yield made
    made.close()


def holds(semaphore: kin.Semaphore, voice, n: int = 1) -> None:
    """A peer that has some until it is told to go on."""
    with semaphore.hold(n=n):
        voice.say("held")
        voice.hear()


def dies_holding(semaphore: kin.Semaphore, voice, n: int = 1) -> None:
    semaphore.acquire(n=n)
    voice.say("held")
    signal.pause()


def holder(peers: Peers, semaphore: kin.Semaphore, n: int, *, dies: bool = False):
    """A peer that has so many."""
    body = dies_holding if dies else holds
    peer = peers.fork(lambda voice: body(semaphore, voice, n))
    peer.hear()
    return peer


def until_asleep(call: Call) -> None:
    """Wait until a call in another thread sleeps in the kernel."""
    until(
        lambda: call.thread.native_id and state(os.getpid(), call.thread.native_id) == "S",
        "a thread asleep",
    )


# ── so many at a time ────────────────────────────────────────────────────────────────────────


def count_up(memory: mmap.mmap, semaphore: kin.Semaphore | None, voice) -> None:
    for _ in range(3000):
        if semaphore is not None:
            semaphore.acquire()
        (number,) = struct.unpack_from("q", memory)
        struct.pack_into("q", memory, 0, number + 1)
        if semaphore is not None:
            semaphore.release()


def counted(peers: Peers, semaphore: kin.Semaphore | None) -> int:
    memory = mmap.mmap(-1, PAGE)
    for peer in [peers.fork(lambda voice: count_up(memory, semaphore, voice)) for _ in range(3)]:
        peer.result()
    return struct.unpack_from("q", memory)[0]


def test_a_counter_is_right_with_one_of_one(peers):
    assert counted(peers, kin.Semaphore()) == 9000


def test_and_wrong_with_more(peers):
    """The negative control. Three processes on one processor may be right by chance, but not again and again."""
    until(lambda: counted(peers, kin.Semaphore(3)) != 9000, "a counter that is wrong")


def test_acquire_and_release(two):
    assert (two.value, two.held) == (2, 0)
    two.acquire()
    assert (two.value, two.held) == (1, 1)
    with two as held:
        assert held is two
        assert (two.value, two.held) == (0, 2)
    two.release()
    assert (two.value, two.held) == (2, 0)


def test_several_at_once(two):
    two.acquire(n=2)
    assert two.value == 0
    two.release(2)
    with two.hold(n=2, timeout=HANG) as held:
        assert held is two
        assert two.held == 2
    assert two.value == 2


@pytest.mark.parametrize("n", [1, 31, 32, 5000])
def test_any_number_of_them(n):
    """What fits into the word, and what does not."""
    semaphore = kin.Semaphore(10_000)
    for _ in range(2):
        semaphore.acquire(n=n)
        semaphore.acquire()
        assert (semaphore.value, semaphore.held) == (9999 - n, n + 1)
        semaphore.release(n)
        semaphore.release()
        assert (semaphore.value, semaphore.held) == (10_000, 0)


def test_an_exception_releases_it(two):
    with pytest.raises(ZeroDivisionError), two:
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), two.hold(n=2):
        _ = 1 / 0
    assert two.value == 2


def test_another_process_waits_for_it(peers, two):
    peer = holder(peers, two, 2)
    with thread_of(two.acquire) as call:
        until_asleep(call)
        assert two.value == 0
        peer.say()
        peer.result()
        call.result()
    assert two.held == 1


def test_what_one_gives_another_takes(peers):
    """Whoever releases need not have acquired."""
    ping, pong = kin.Semaphore(0), kin.Semaphore(0)

    def answer(voice) -> tuple[int, int]:
        for _ in range(50):
            ping.acquire()
            pong.release()
        return ping.held, pong.held

    peer = peers.fork(answer)
    for _ in range(50):
        ping.release()
        pong.acquire()
    assert (ping.held, pong.held) == (-50, 50)
    assert peer.result() == (50, -50)


def test_who_wants_several_does_not_keep_one_from_who_wants_one(two):
    """Though it sleeps longer: it is woken, too."""
    two.acquire(n=2)
    with thread_of(two.acquire, n=2) as first:
        until_asleep(first)
        with thread_of(two.acquire) as second:
            until_asleep(second)
            two.release()
            second.result()
            two.release()
        two.release()
        first.result()


def test_other_threads_run_while_one_waits(two):
    two.acquire(n=2)
    with thread_of(two.acquire) as call:
        until_asleep(call)
        assert sum(range(1000)) == 499500  # here we are
        two.release()
        call.result()


def test_a_handful_of_threads(two):
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with two:
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    assert two.value == 2


# ── timeouts, arguments ──────────────────────────────────────────────────────────────────────


def test_timeouts(peers, two):
    peer = holder(peers, two, 2)
    for seconds in (0, 0.01):
        begun = time.monotonic()
        with pytest.raises(kin.Timeout) as caught:
            two.acquire(timeout=seconds)
        assert time.monotonic() - begun >= seconds
        assert f"process {peer.pid} (2)" in str(caught.value)
    with pytest.raises(TimeoutError), two.hold(timeout=0):
        pass
    peer.say()
    peer.result()
    two.acquire(0, 2)
    two.release(2)
    two.acquire(1e300)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", [], object()])
def test_timeouts_that_make_no_sense(timeout, two):
    with pytest.raises(kin.InvalidValue, match="timeout"):
        two.acquire(timeout)
    assert two.value == 2


@pytest.mark.parametrize("n", [0, -1, 2**24, 2**70])
def test_numbers_that_make_no_sense(n, two):
    for act in (
        lambda: two.acquire(n=n),
        lambda: two.release(n),
        lambda: two.hold(n=n).__enter__(),
    ):
        with pytest.raises(kin.InvalidValue, match="n="):
            act()
    assert two.value == 2


def test_arguments(two):
    for call in (
        lambda: two.acquire(1, 2, 3),
        lambda: two.acquire(blocking=False),
        lambda: two.acquire(1, timeout=1),
        lambda: two.release(1, 2),
        lambda: two.release(m=1),
    ):
        with pytest.raises(TypeError):
            call()
    assert two.value == 2


class Closes:
    """A number that closes a semaphore when it is read."""

    def __init__(self, semaphore: kin.Semaphore, at: int = 1) -> None:
        self._semaphore, self._at = semaphore, at

    def _read(self) -> None:
        self._at -= 1
        if self._at == 0:
            self._semaphore.close()

    def __index__(self) -> int:
        self._read()
        return 1

    def __float__(self) -> float:
        self._read()
        return 0.0


@pytest.mark.parametrize(
    "act",
    [
        lambda semaphore, number: semaphore.acquire(n=number),
        lambda semaphore, number: semaphore.acquire(number),
        lambda semaphore, number: semaphore.release(number),
        lambda semaphore, number: asyncio.run(semaphore.aacquire(n=number)),
    ],
    ids=["acquire", "timeout", "release", "aacquire"],
)
def test_closed_by_its_own_argument(act):
    semaphore = kin.Semaphore()
    with pytest.raises(kin.Closed):
        act(semaphore, Closes(semaphore))


def test_a_timeout_is_read_once():
    semaphore = kin.Semaphore()
    semaphore.acquire(Closes(semaphore, at=2))  # type: ignore[arg-type]
    assert semaphore.held == 1


@pytest.mark.parametrize("timeout", [Fraction(1, 100), Decimal("0.01")])
def test_timeouts_of_other_kinds(timeout, two):
    two.acquire(timeout, n=2)
    for call in (two.acquire, lambda seconds: asyncio.run(two.aacquire(seconds))):
        with pytest.raises(kin.Timeout, match=r"0\.01 s"):
            call(timeout)
    two.release(2)


def test_a_handler_can_not_close_it_while_it_is_waited_for(peers):
    semaphore = kin.Semaphore(0)

    def wait(voice) -> None:
        def handler(*_: object) -> None:
            with pytest.raises(kin.StillInUse):
                semaphore.close()
            semaphore.release()

        signal.signal(signal.SIGUSR1, handler)
        voice.say()
        semaphore.acquire()

    peer = peers.fork(wait)
    peer.hear()
    peer.until_asleep()
    os.kill(peer.pid, signal.SIGUSR1)
    peer.result()


def test_opened_once(two):
    with pytest.raises(kin.InvalidValue, match="opened already"):
        two.__init__(3)
    assert two.value == 2
    never = kin.Semaphore.__new__(kin.Semaphore)
    for act in (
        never.acquire,
        lambda: never.acquire(n=1),
        never.release,
        never.__enter__,
        lambda: never.hold().__enter__(),
        lambda: never.value,
        lambda: never.held,
        lambda: pickle.dumps(never),
        lambda: asyncio.run(never.aacquire()),
    ):
        with pytest.raises(kin.Closed):
            act()
    assert repr(never) == "<Semaphore anonymous, closed>"
    never.close()


def test_threads_that_use_it_for_the_first_time_together():
    for _ in range(100):
        semaphore, barrier = kin.Semaphore(4), threading.Barrier(4)

        def use(semaphore: kin.Semaphore = semaphore, barrier=barrier) -> None:
            barrier.wait()
            with semaphore:
                pass

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert semaphore._members() == [(os.getpid(), 0)]
        assert semaphore.value == 4
        semaphore.close()


# ── terms ────────────────────────────────────────────────────────────────────────────────────


def test_a_bounded_one_never_has_more_than_at_first():
    semaphore = kin.Semaphore(2, bounded=True)
    with pytest.raises(ValueError, match="released more often than acquired"):
        semaphore.release()
    semaphore.acquire()
    with pytest.raises(kin.InvalidValue):
        semaphore.release(2)
    semaphore.release()
    with pytest.raises(kin.InvalidValue, match="from 1 to 2"):  # it would be for ever
        semaphore.acquire(n=3)
    assert semaphore.value == 2


def test_another_may_have_more(two):
    two.release(10)
    two.acquire(n=12)
    assert two.value == 0


def test_the_most():
    semaphore = kin.Semaphore(kin.Semaphore.MOST - 1)
    semaphore.release()
    assert semaphore.value == kin.Semaphore.MOST
    with pytest.raises(kin.LimitReached, match="16,777,215"):
        semaphore.release()
    semaphore.acquire(n=kin.Semaphore.MOST)
    assert semaphore.value == 0


@pytest.mark.parametrize(
    "terms",
    [{"value": -1}, {"value": 2**24}, {"value": "1"}, {"value": 1.0}, {"value": True},
     {"value": 0, "bounded": True}, {"members": 0}, {"members": 2000}, {"members": "8"}],
)  # fmt: skip
def test_terms_that_make_no_sense(terms):
    with pytest.raises(kin.InvalidValue, match=next(iter(terms))):
        kin.Semaphore(**terms)


@pytest.mark.parametrize(
    "terms", [{"value": 2}, {"bounded": True}, {"undo": False}, {"members": 8}]
)
def test_other_terms_than_it_was_made_with(terms):
    memory = mmap.mmap(-1, 4 * PAGE)
    made = kin.Semaphore.inside(memory, 0, 3)
    before = open_descriptors()
    with pytest.raises(kin.InvalidValue, match=f"made with {next(iter(terms))}="):
        kin.Semaphore.inside(memory, **terms)
    assert open_descriptors() == before
    with kin.Semaphore.inside(memory):
        assert made.value == 2
    with kin.Semaphore.inside(memory, 0, 3, bounded=False, undo=True, members=64):
        assert made.value == 2


# ── what the dead held ───────────────────────────────────────────────────────────────────────


def test_what_a_killed_process_held_comes_back_to_who_waits(peers, two):
    peer = holder(peers, two, 2, dies=True)
    with thread_of(two.acquire, n=2) as call:
        until_asleep(call)
        peer.kill(reap=False)  # a zombie is as dead
        call.result()
    assert (two.value, two.held) == (0, 2)


@pytest.mark.parametrize("n", [1, 40])
def test_and_to_who_comes_later(n, peers):
    semaphore = kin.Semaphore(40)
    for _ in range(3):
        peer = holder(peers, semaphore, n, dies=True)
        assert semaphore.value == 40 - n
        peer.kill()
        semaphore.acquire(timeout=0, n=40)
        semaphore.release(40)
    assert (semaphore.value, semaphore.held) == (40, 0)


def test_it_shows_in_the_value(peers, two):
    peer = holder(peers, two, 2, dies=True)
    assert two.value == 0
    peer.kill()
    assert two.value == 2


def test_a_process_that_ends_gives_it_back_too(peers, two):
    peers.fork(lambda voice: two.acquire(n=2)).result()
    assert two.value == 2


def test_without_undo_it_does_not(peers):
    """The negative control, and what is wanted of one that one process takes from and another gives to."""
    semaphore = kin.Semaphore(2, undo=False)
    peer = holder(peers, semaphore, 2, dies=True)
    peer.kill()
    with pytest.raises(kin.Timeout):
        semaphore.acquire(timeout=0.01)
    assert (semaphore.value, semaphore.held) == (0, 0)


def test_who_has_only_given_owes_nothing(peers, two):
    peers.fork(lambda voice: two.release(3)).result()
    assert two.value == 5


def test_no_more_comes_back_than_a_bounded_one_had(peers):
    """The parent has given back for the child, who is counted still."""
    semaphore = kin.Semaphore(1, bounded=True)
    peer = holder(peers, semaphore, 1, dies=True)
    semaphore.release()
    peer.kill()
    assert semaphore.value == 1


def test_a_stopped_process_is_not_dead(peers, two):
    peer = holder(peers, two, 2)
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "a stopped peer")
    with pytest.raises(kin.Timeout):
        two.acquire(timeout=0.05)
    peer.signal(signal.SIGCONT)
    peer.say()
    peer.result()
    assert two.value == 2


def test_a_process_that_executes_another_program_holds_on(peers, two):
    def execute(voice) -> None:
        two.acquire(n=2)
        os.execv(sys.executable, [sys.executable, "-c", "import sys; print(); sys.stdin.read()"])

    reading, writing = os.pipe()
    stdin, stdout = os.pipe()

    def wired(voice) -> None:
        os.dup2(stdin, 0)
        os.dup2(writing, 1)
        os.closerange(3, 3)
        os.close(stdout)
        execute(voice)

    peer = peers.fork(wired)
    os.close(writing)
    os.close(stdin)
    assert os.read(reading, 1) == b"\n"
    assert two.value == 0
    os.close(stdout)
    peer.wait()
    os.close(reading)
    assert two.value == 2


def test_killed_waiters_take_no_wake_up_with_them(peers, two):
    """Those that are woken, and killed before they can look, leave it to the next."""
    two.acquire(n=2)

    def wait(voice) -> None:
        voice.say()
        two.acquire()
        signal.pause()

    def take_once(voice) -> None:
        voice.say()
        two.acquire()
        two.release()

    def stopped(peer: Peer) -> None:
        peer.signal(signal.SIGSTOP)
        until(lambda: state(peer.pid) == "T", "a stopped peer")

    for _ in range(5):
        waiters = [peers.fork(wait) for _ in range(3)]
        for peer in waiters:
            peer.hear()
            peer.until_asleep()
        last = peers.fork(take_once)
        last.hear()
        last.until_asleep()
        for peer in waiters:
            stopped(peer)
        two.release(2)  # goes to those that are stopped
        for peer in waiters:
            peer.kill()
        last.result()
        two.acquire(n=2)


def test_newcomers_are_watched_by_who_sleeps(peers, two):
    """One comes, takes what is left, and dies, while another sleeps who knew nothing of it."""
    peer = holder(peers, two, 1)
    with thread_of(two.acquire, n=2) as call:
        until_asleep(call)
        late = holder(peers, two, 1, dies=True)
        peer.say()
        peer.result()
        until_asleep(call)
        late.kill()
        call.result()


def test_who_sleeps_has_set_no_timer(peers, two):
    """Neither the sleeper nor the thread that watches for it."""
    if not os.path.exists("/proc/self/syscall"):
        pytest.skip("this kernel does not tell where a thread is (/proc/PID/syscall)")
    two.acquire(n=2)

    def wait(voice) -> None:
        voice.say()
        two.acquire()

    peer = peers.fork(wait)
    peer.hear()

    def timeouts() -> set[str]:
        """The fourth argument: of futex(2) an address, of epoll_wait(2) milliseconds."""
        found = set()
        for thread in os.listdir(f"/proc/{peer.pid}/task"):
            with open(f"/proc/{peer.pid}/task/{thread}/syscall") as file:
                found.add((*file.read().split(), *4 * ["running"])[4])
        return found

    forever = {"0x0", "0xffffffff", "0xffffffffffffffff"}
    until(lambda: timeouts() <= forever and len(timeouts()) == 2, "two who sleep for ever")
    two.release()
    peer.result()


# ── forks, threads ───────────────────────────────────────────────────────────────────────────


def test_a_forked_child_holds_nothing(peers, two):
    two.acquire(n=2)

    def child(voice) -> tuple[int, int]:
        assert two.held == 0
        with pytest.raises(kin.Timeout):
            two.acquire(timeout=0)
        two.release()
        return two.held, two.value

    assert peers.fork(child).result() == (-1, 1)
    assert (two.held, two.value) == (2, 1)


def test_a_child_does_not_leave_its_parents_block(peers, two):
    def child(voice) -> None:
        with pytest.raises(kin.ForkedCopy, match="before the fork"):
            two.__exit__()
        with two:
            pass

    with two:
        peers.fork(child).result()
        assert two.value == 1
    assert two.value == 2


def test_a_child_uses_it_as_its_parent_does(peers, two):
    """Also when the parent sleeps in it at the fork."""
    two.acquire(n=2)
    with thread_of(two.acquire) as call:
        until_asleep(call)

        def child(voice) -> None:
            two.release(2)
            two.acquire()

        peers.fork(child).result()
        call.result()


def test_another_object_of_the_same_semaphore(peers):
    memory = mmap.mmap(-1, 2 * PAGE)
    one, two = kin.Semaphore.inside(memory, 0, 2), kin.Semaphore.inside(memory)
    one.acquire()
    assert two.held == 1
    two.close()
    assert one.held == 1
    one.close()  # what the process holds, it holds on
    again = kin.Semaphore.inside(memory)
    assert (again.value, again.held) == (1, 1)
    peers.fork(lambda voice: again.acquire()).result()
    again.release()
    assert again.value == 2


def test_as_many_processes_as_it_was_made_for(peers):
    semaphore = kin.Semaphore(10, members=2)
    first = holder(peers, semaphore, 1)
    second = holder(peers, semaphore, 1, dies=True)
    with pytest.raises(kin.LimitReached, match=r"made for 2 at a time.*members="):
        semaphore.acquire()
    with pytest.raises(kin.LimitReached):
        semaphore.release()
    assert semaphore.value == 8  # whoever only looks needs no place
    second.kill()
    semaphore.acquire(n=9)  # its place, and what it held
    first.say()
    first.result()


@pytest.mark.parametrize("members", [1, 1024])
def test_for_few_and_for_many(members):
    semaphore = kin.Semaphore(1, members=members)
    with semaphore:
        assert semaphore.value == 0


# ── closing ──────────────────────────────────────────────────────────────────────────────────


def test_a_closed_one(two):
    two.close()
    two.close()
    for act in (
        two.acquire,
        two.release,
        two.__enter__,
        two.__exit__,
        lambda: two.value,
        lambda: two.held,
        lambda: two.acquire(n=0),
        lambda: two.acquire(timeout=-1),
    ):
        with pytest.raises(kin.Closed):
            act()
    assert "closed" in repr(two)
    assert "closed" in repr(kin.Semaphore.__new__(kin.Semaphore))


def test_waited_for_it_can_not_be_closed(peers, two):
    two.acquire(n=2)
    with thread_of(two.acquire) as call:
        until_asleep(call)
        with pytest.raises(kin.StillInUse):
            two.close()
        # What waits here waits in the child's copy for nobody.
        peers.fork(lambda voice: two.close()).result()
        two.release()
        call.result()


def test_the_memory_stays_as_long_as_it_is_open():
    memory = mmap.mmap(-1, 2 * PAGE)
    semaphore = kin.Semaphore.inside(memory)
    semaphore.acquire()
    with pytest.raises(BufferError):
        memory.close()
    semaphore.close()
    memory.close()


def pidfds() -> int:
    """How many this process has."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += "pidfd" in os.readlink(f"/proc/self/fd/{fd}")
    return count


@pytest.mark.parametrize("how", ["close", "drop"])
def test_closed_or_dropped_it_watches_no_more(how, peers):
    semaphore = kin.Semaphore(1)
    peer = holder(peers, semaphore, 1)
    before = pidfds()
    with pytest.raises(kin.Timeout):
        semaphore.acquire(timeout=0.01)
    assert pidfds() == before + 1
    if how == "close":
        semaphore.close()
    del semaphore
    assert pidfds() == before
    peer.kill()


def test_who_has_left_is_watched_no_more(peers, two):
    peer = holder(peers, two, 2)
    before = pidfds()
    with pytest.raises(kin.Timeout):
        two.acquire(timeout=0)
    peer.say()
    peer.result()  # it ends without closing
    with two:
        assert two.value == 1
    assert pidfds() == before


def test_a_forked_child_has_no_descriptor_of_what_its_parent_watches(peers, two):
    holder(peers, two, 2)
    before = pidfds()
    with pytest.raises(kin.Timeout):
        two.acquire(timeout=0)
    assert peers.fork(lambda voice: pidfds()).result() <= before


# ── signals ──────────────────────────────────────────────────────────────────────────────────


def test_a_handler_runs_while_it_is_waited_for(peers, two):
    two.acquire(n=2)

    def wait(voice) -> list[str]:
        ran = []
        signal.signal(signal.SIGUSR1, lambda *_: ran.append("handler"))
        voice.say()
        with two:
            ran.append("held")
        return ran

    peer = peers.fork(wait)
    peer.hear()
    peer.until_asleep()
    peer.signal(signal.SIGUSR1)
    peer.until_asleep()
    two.release()
    ran = peer.result()
    assert ran[-1] == "held"
    assert set(ran[:-1]) <= {"handler"}


def test_an_exception_of_a_handler_ends_the_wait(peers, two):
    two.acquire(n=2)

    def wait(voice) -> int:
        def handler(*_) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, handler)
        voice.say()
        with pytest.raises(KeyboardInterrupt):
            two.acquire()
        return two.held

    peer = peers.fork(wait)
    peer.hear()
    peer.until_asleep()
    peer.signal(signal.SIGINT)
    assert peer.result() == 0
    two.release(2)
    assert two.value == 2


# ── fairness ─────────────────────────────────────────────────────────────────────────────────


def test_nobody_starves(peers):
    """Against those who never let go for longer than an instant."""
    semaphore, turns = kin.Semaphore(1), mmap.mmap(-1, PAGE)

    def hog(voice) -> None:
        voice.say()
        while not turns[8]:
            with semaphore:
                (count,) = struct.unpack_from("q", turns)
                struct.pack_into("q", turns, 0, count + 1)
                end = time.perf_counter() + 0.0005
                while time.perf_counter() < end:
                    pass

    hogs = [peers.fork(hog) for _ in range(2)]
    for peer in hogs:
        peer.hear()
    worst = 0
    for _ in range(20):
        (before,) = struct.unpack_from("q", turns)
        with semaphore:
            (after,) = struct.unpack_from("q", turns)
        worst = max(worst, after - before)
    turns[8] = 1
    for peer in hogs:
        peer.result()
    assert worst < 1000
