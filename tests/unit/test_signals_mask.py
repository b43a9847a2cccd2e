"""Blocking: restored exactly, in any order of ends; and who else would take a signal."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.signals import mask as signals_mask
from tests.conformance.peers import HANG, Peers, Voice, thread_of
from tests.unit.striking import striking_at

pytestmark = pytest.mark.usefixtures("threads_at_rest")

BLOCKABLE = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def mask() -> set[int]:
    return set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def test_inside_blocked_outside_not() -> None:
    before = mask()
    with kin.signals.blocked(["USR1", "RTMIN+1"]):
        assert mask() == before | {signal.SIGUSR1, signal.SIGRTMIN + 1}
    assert mask() == before


@pytest.mark.parametrize("number", BLOCKABLE)
def test_every_signal(number: int) -> None:
    before = mask()
    with kin.signals.blocked(number):
        assert number in mask()
    assert mask() == before


def test_what_was_blocked_stays_so_whatever_happened_inside() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with kin.signals.blocked(["USR1", "USR2"]):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1, signal.SIGUSR2])
        assert signal.SIGUSR2 in mask()
        assert signal.SIGUSR1 not in mask()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_nobody_named_is_not_touched() -> None:
    before = mask()
    with kin.signals.blocked("USR1"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    assert mask() == before | {signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_holds_end_in_any_order() -> None:
    """Tasks of one loop share a thread, and end as they like."""
    before = mask()

    async def hold(name: str, entered: asyncio.Event, end: asyncio.Event) -> None:
        with kin.signals.blocked(["USR1", name]):
            entered.set()
            await end.wait()

    async def main() -> None:
        events = [asyncio.Event() for _ in range(4)]
        first = asyncio.create_task(hold("USR2", *events[:2]))
        await events[0].wait()
        second = asyncio.create_task(hold("HUP", *events[2:]))
        await events[2].wait()
        assert mask() == before | {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP}
        events[1].set()
        await first
        assert mask() == before | {signal.SIGUSR1, signal.SIGHUP}
        events[3].set()
        await second
        assert mask() == before

    asyncio.run(main())


def test_what_came_meanwhile_comes_at_the_end() -> None:
    came: list[kin.signals.Arrived] = []
    with kin.signals.handle("USR1", came.append):
        with kin.signals.blocked("USR1"):
            kin.signals.send(os.getpid(), "USR1")
            assert not came
        assert len(came) == 1


def test_a_handler_that_raises_at_the_end_leaves_the_mask_as_it_was() -> None:
    def refuse(arrived: kin.signals.Arrived) -> None:
        raise RuntimeError(arrived.name)

    before = mask()
    with kin.signals.handle("USR1", refuse):
        with pytest.raises(RuntimeError, match="SIGUSR1"), kin.signals.blocked(["USR1", "USR2"]):
            kin.signals.send(os.getpid(), "USR1")
        assert mask() == before
        with pytest.raises(ZeroDivisionError), kin.signals.blocked("USR2"):
            raise ZeroDivisionError
    assert mask() == before


def test_a_handler_that_raises_anywhere_leaves_no_trace(peers: Peers) -> None:
    """Also while the block is entered or left: pthread_sigmask(3) runs handlers after the change."""

    def refuse(arrived: kin.signals.Arrived) -> None:
        raise RuntimeError(arrived.name)

    def child(voice: Voice) -> None:
        before = mask()
        with kin.signals.handle("ALRM", refuse):
            for number in range(500):
                with contextlib.suppress(RuntimeError):
                    signal.setitimer(signal.ITIMER_REAL, 0.00003 + number % 97 * 1e-6)
                    while True:
                        with kin.signals.blocked(["USR1", "USR2"]):
                            pass
                assert mask() == before

    peers.fork(child).result()


def test_a_mask_is_a_threads_and_inherited() -> None:
    with kin.signals.blocked("USR1"):
        with thread_of(mask) as inside:
            assert signal.SIGUSR1 in inside.result()

        def own() -> set[int]:
            with kin.signals.blocked("USR2"):
                pass
            return mask()

        with thread_of(own) as other:
            assert signal.SIGUSR1 in other.result()
            assert signal.SIGUSR2 not in other.result()


def test_a_forked_child_goes_on_with_it(peers: Peers) -> None:
    def child(voice: Voice) -> tuple[bool, bool]:
        inside = signal.SIGUSR1 in mask()
        block.__exit__(None, None, None)
        return inside, signal.SIGUSR1 in mask()

    block = kin.signals.blocked("USR1")
    with block:
        assert peers.fork(child).result() == (True, False)
        assert signal.SIGUSR1 in mask()


# -------------------------------------------------------------------------------- other threads


def test_a_thread_that_would_take_the_signal_is_named() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="the taker")
    thread.start()
    before = mask()
    try:
        for opening in (kin.signals.stream, lambda s: kin.signals.wait(s, timeout=0)):
            with pytest.raises(kin.Unsupported, match="SIGUSR1") as raised:
                opening("USR1")
            assert f"{thread.native_id} (the taker)" in str(raised.value)
            assert "blocked" in str(raised.value)
            assert mask() == before
    finally:
        end.set()
        thread.join()
    with kin.signals.stream("USR1"):  # once it has ended, nothing stands against it
        pass


def test_threads_that_block_it_are_no_obstacle() -> None:
    end = threading.Event()
    with kin.signals.blocked(["USR1", "USR2"]):
        with thread_of(end.wait, HANG):
            try:
                with kin.signals.stream("USR1") as stream:
                    kin.signals.send(os.getpid(), "USR1", 5)
                    assert stream.recv(timeout=HANG).value == 5
            finally:
                end.set()


def test_the_librarys_own_threads_take_no_signals() -> None:
    """The watcher and a helper: both are there after a task has waited in a queue of System V."""

    async def main() -> None:
        receiver, sender = kin.channel("sysv-mq:")
        with receiver, sender:
            with pytest.raises(kin.Timeout):
                await receiver.arecv(timeout=0.001)

    asyncio.run(main())
    assert any("kinfolk" in thread.name for thread in threading.enumerate())
    everything = [number for number in BLOCKABLE if number != signal.SIGCHLD]
    with kin.signals.stream(everything) as stream:
        assert stream.signals == set(everything)


_BEGINNERS = """
import faulthandler, os
import kinfolk as kin
from kinfolk.signals import mask
looking = {}
in_between = mask._IN_BETWEEN
if not looking:
    mask._IN_BETWEEN = 0
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # so that a new thread begins when this one lets it
for _ in range(100):
    faulthandler.dump_traceback_later(1000)
    with kin.signals.stream("USR1") as stream:
        kin.signals.send(os.getpid(), "USR1")
        while any(in_between & (mask._blocked_in(int(tid)) or 0) for tid in os.listdir("/proc/self/task")):
            os.sched_yield()
        stream.recv(timeout=40)
"""


@pytest.mark.parametrize("looking", [True, False])
def test_a_thread_that_has_only_just_begun(looking: bool) -> None:
    """Its mask shows every signal blocked, and is about to be that of its creator, until it blocks them itself.

    A C thread, for Python waits until its own have begun. Not looking for that is the negative control: the signal is
    taken, and its default ends the process.
    """
    ended = subprocess.run([sys.executable, "-c", _BEGINNERS.format(looking)], check=False)
    assert ended.returncode == (0 if looking else -signal.SIGUSR1)


class Striking:
    """The signal module as `mask` sees it: before and after each change of the mask a signal comes, whose handler runs there."""

    def __init__(self) -> None:
        self.steps = 0
        self.striking = False

    def __getattr__(self, name: str) -> Any:
        return getattr(signal, name)

    def pthread_sigmask(self, how: int, signals: Iterable[int]) -> set[int]:
        self._strike()
        before = signal.pthread_sigmask(how, signals)
        self._strike()
        return before

    def _strike(self) -> None:
        if not self.striking:  # else without an end
            self.striking = True
            self.steps += 1
            signal.raise_signal(signal.SIGALRM)
            self.striking = False


def test_a_handler_may_block_signals_itself(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it runs while the mask is being changed, at each step of that."""
    striking = Striking()

    def child(voice: Voice) -> tuple[int, int]:
        calls = 0

        def block(arrived: kin.signals.Arrived) -> None:
            nonlocal calls
            with kin.signals.blocked(["USR1", "USR2", "HUP"]):
                assert {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP} <= mask()
                calls += 1

        before = mask()
        with kin.signals.handle("ALRM", block):
            monkeypatch.setattr(signals_mask, "python", striking)
            for _ in range(3):
                with kin.signals.blocked(["USR1", "USR2"]):
                    assert {signal.SIGUSR1, signal.SIGUSR2} <= mask()
            monkeypatch.undo()
        assert mask() == before
        return calls, striking.steps

    calls, steps = peers.fork(child).result()
    assert calls == steps > 20


@pytest.mark.parametrize(
    ("held", "inside"),
    [
        (["USR1"], ["USR1"]),
        (["USR1"], ["USR2"]),
        (["USR1", "USR2"], ["USR1"]),
        (["USR1"], ["USR1", "USR2"]),
    ],
)
def test_at_every_instruction(peers: Peers, held: list[str], inside: list[str]) -> None:
    """The same, wherever in Python's code of it the handler runs."""

    def child(voice: Voice) -> int:
        ran = 0

        def block(arrived: kin.signals.Arrived) -> None:
            nonlocal ran
            sys.settrace(None)
            with kin.signals.blocked(inside):
                assert {kin.signals.number_of(name) for name in inside} <= mask()
                ran += 1

        before = mask()
        with kin.signals.handle("ALRM", block):
            for number in itertools.count():
                ran = 0
                sys.settrace(striking_at(number, signal.SIGALRM, signals_mask.__name__))
                with kin.signals.blocked(held):
                    sys.settrace(None) if ran else None
                    assert {kin.signals.number_of(name) for name in held} <= mask()
                sys.settrace(None)
                assert mask() == before, number
                if not ran:
                    return number
        raise AssertionError

    assert peers.fork(child).result() > 50
