"""One at a time, in order, and a close that wakes them all: against every order of events, and with real threads."""

from __future__ import annotations

import random
import signal
import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import kinfolk as kin
from kinfolk.deadlines import Deadline
from kinfolk.interest import Interest, Steps
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run
from tests.conformance.peers import Call, Peers, until


class Somebody:
    """A waiter that only notes that it was woken; of a thread of his own."""

    def __init__(self) -> None:
        self.woken = 0
        self.caller = -id(self)

    def wake(self) -> None:
        self.woken += 1


def turnstile() -> tuple[Turnstile, list[str]]:
    finished: list[str] = []
    return Turnstile("pipe:", lambda: finished.append("finished")), finished


class EveryOrder(RuleBasedStateMachine):
    """Calls of several threads in any order; whoever can go on has been woken, always."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[str] = []
        self.turn = Turnstile("pipe:", lambda: self.finished.append("finished"))
        self.inside: object | None = None
        self.asleep: Somebody | None = None
        self.queue: list[Somebody] = []
        self.on_the_way: list[Somebody] = []
        self.closed = False

    @rule()
    def somebody_comes(self) -> None:
        token, me = object(), Somebody()
        if self.closed:
            with pytest.raises(kin.Closed):
                self.turn.enter(token)
            self.turn.leave(token)
        elif self.turn.enter(token):
            assert self.inside is None
            assert not self.queue, "overtook those in line"
            self.inside = token
        else:
            self.turn.leave(token)  # as after any attempt: does nothing
            self.on_the_way.append(me)

    @precondition(lambda self: self.on_the_way)
    @rule()
    def somebody_who_was_not_let_in_stands_in_line(self) -> None:
        me = self.on_the_way.pop()
        self.turn.queue(me)
        self.queue.append(me)
        if self.closed:  # everybody looks again before sleeping
            me.woken += 1

    @precondition(lambda self: self.queue)
    @rule(position=st.integers(0, 5))
    def somebody_in_line_looks_again(self, position: int) -> None:
        me, token = self.queue[position % len(self.queue)], object()
        me.woken = 0
        if self.closed:
            with pytest.raises(kin.Closed):
                self.turn.enter_from_queue(me, token)
            self.turn.leave_queue(me)
            self.queue.remove(me)
        elif self.turn.enter_from_queue(me, token):
            assert self.inside is None
            assert self.queue[0] is me
            self.inside = token
            self.queue.pop(0)

    @precondition(lambda self: self.queue)
    @rule(position=st.integers(0, 5))
    def somebody_in_line_gives_up(self, position: int) -> None:
        me = self.queue.pop(position % len(self.queue))
        self.turn.leave_queue(me)

    @precondition(lambda self: self.inside and not self.asleep)
    @rule()
    def who_is_inside_falls_asleep(self) -> None:
        me = Somebody()
        if self.closed:
            with pytest.raises(kin.Closed):
                self.turn.asleep(me)
        else:
            self.turn.asleep(me)
            self.asleep = me

    @precondition(lambda self: self.asleep)
    @rule()
    def who_is_inside_wakes_up(self) -> None:
        self.asleep = None
        if self.closed:
            with pytest.raises(kin.Closed):
                self.turn.awake()
        else:
            self.turn.awake()

    @precondition(lambda self: self.inside)
    @rule(times=st.integers(1, 2))
    def who_is_inside_leaves(self, times: int) -> None:
        for _ in range(times):  # an interrupted leaving is repeated
            self.turn.leave(self.inside)
        self.inside = self.asleep = None

    @rule()
    def a_stranger_leaves(self) -> None:
        self.turn.leave(object())

    @rule()
    def somebody_closes(self) -> None:
        self.turn.close()
        self.closed = True

    @invariant()
    def no_wake_is_lost(self) -> None:
        if self.queue and self.inside is None:
            assert self.queue[0].woken, "nobody is inside, and the first in line sleeps"
        if self.closed:
            assert all(somebody.woken for somebody in self.queue)
            assert not self.asleep or self.asleep.woken

    @invariant()
    def it_ends_once_and_only_when_left(self) -> None:
        assert self.finished == (["finished"] if self.closed and not self.inside else [])


TestEveryOrder = EveryOrder.TestCase
TestEveryOrder.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def holding(go: threading.Event, entered: threading.Event) -> Steps[str]:
    """Steps that stay inside until told."""
    entered.set()
    while not go.is_set():
        yield Interest(again_in=0.001)
    return "done"


def test_threads_exclude_each_other_and_all_get_in() -> None:
    turn, finished = turnstile()
    inside: list[int] = []
    passed = []

    def steps(name: int, pause: float | None) -> Steps[None]:
        inside.append(name)
        try:
            assert inside == [name]
            if pause is not None:
                yield Interest(again_in=pause)
            assert inside == [name]
        finally:  # a driver closes its steps before it leaves
            inside.remove(name)

    def many(name: int) -> None:
        rng = random.Random(name)
        for _ in range(150):
            timeout = rng.choice([None, None, None, 0, 0.0005])
            pause = rng.choice([None, None, 0.0002])
            try:
                run(steps(name, pause), turn, Deadline(timeout), "test")
            except kin.Timeout:
                assert timeout is not None
            else:
                passed.append(name)

    calls = [Call(many, name) for name in range(6)]
    for call in calls:
        call.result()
    assert {*passed} == {*range(6)}
    assert not finished
    turn.close()
    assert finished == ["finished"]


def test_a_close_ends_who_is_inside_and_everybody_in_line() -> None:
    turn, finished = turnstile()

    def for_ever() -> Steps[None]:
        while True:
            yield Interest()

    calls = [Call(run, for_ever(), turn, Deadline(None), "test") for _ in range(5)]
    until(lambda: turn.waits == 1 and len(turn._queue) == 4, "all there")
    assert not finished
    turn.close()
    assert all(isinstance(call.raised(), kin.Closed) for call in calls)
    assert finished == ["finished"]
    turn.close()
    assert finished == ["finished"]


def test_who_closes_from_inside_is_finished_when_leaving() -> None:
    turn, finished = turnstile()

    def steps() -> Steps[str]:
        turn.close()
        assert not finished
        return "done"
        yield

    assert run(steps(), turn, Deadline(None), "test") == "done"
    assert finished == ["finished"]


def test_the_one_in_line_whose_turn_it_is_passes_the_turn_on_when_it_gives_up() -> None:
    turn, _ = turnstile()
    token, first, second = object(), Somebody(), Somebody()
    assert turn.enter(token)
    turn.queue(first)
    turn.queue(second)
    turn.leave(token)
    assert (first.woken, second.woken) == (1, 0)
    turn.leave_queue(first)
    assert second.woken == 1


def test_a_forked_copy_is_refused_when_another_thread_was_inside(peers: Peers) -> None:
    go, entered = threading.Event(), threading.Event()
    turn, finished = turnstile()
    call = Call(run, holding(go, entered), turn, Deadline(None), "test")
    assert entered.wait(30)

    def child(voice: Any) -> tuple[type, list[str]]:
        try:
            turn.enter(object())
        except kin.ForkedCopy as error:
            turn.close()  # which never waits for a thread that is not here
            return type(error), finished
        return type(None), finished

    assert peers.fork(child).result() == (kin.ForkedCopy, ["finished"])
    go.set()
    assert call.result() == "done"
    assert turn.enter(object())


def test_a_forked_copy_is_empty_when_nobody_was_inside(peers: Peers) -> None:
    turn, _ = turnstile()
    assert peers.fork(lambda voice: turn.enter(object())).result()
    assert peers.fork(lambda voice: turn.enter(object())).result()


def test_interrupts_at_any_moment_leave_the_door_open() -> None:
    """KeyboardInterrupts in a busy loop: without the tokens one in six left an end locked for ever."""

    class Interrupt(KeyboardInterrupt):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    rng = random.Random(7)
    before = signal.signal(signal.SIGVTALRM, interrupt)
    interrupted = 0
    try:
        for _ in range(150):
            receiver, sender = kin.channel("pipe:", codec="raw")
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, rng.uniform(0.00001, 0.001))
                while True:
                    sender.send(b"x")
                    receiver.recv()
            except Interrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            with receiver, sender:
                sender.send(b"last", timeout=5)
                while receiver.recv(timeout=5) != b"last":
                    pass
            with pytest.raises(kin.Closed):
                receiver.fileno()
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert interrupted == 150
