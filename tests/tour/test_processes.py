"""The children of a stop: what they report, how they fail, and that none of them stays."""

from __future__ import annotations

import os
import select
import signal

import pytest

import kinfolk as kin
from kinfolk.tour import processes
from kinfolk.tour.narrator import kernel_lacks
from kinfolk.tour.processes import ChildFailed, crew


def nobody_left() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_a_child_returns_what_its_function_returns():
    with crew() as hands:
        child = hands.start("adder", lambda line, a, b: (os.getpid(), a + b), 2, 3)
        assert child.result() == (child.pid, 5)
    assert nobody_left()


def test_both_talk_on_the_way():
    def double(line):
        line.tell("ready")
        line.tell(2 * line.hear())

    with crew() as hands:
        child = hands.start("doubler", double)
        assert child.hear() == "ready"
        child.tell(21)
        assert child.hear() == 42
        assert child.result() is None


def test_a_child_that_raises_says_why():
    def fail(line):
        raise kin.NotFound("there is none", subject="fifo:/nowhere")

    with crew() as hands:
        child = hands.start("seeker", fail)
        with pytest.raises(
            ChildFailed, match=rf"the seeker, process {child.pid}, failed.*nowhere"
        ) as caught:
            child.result()
    assert isinstance(caught.value.__cause__, kin.NotFound)
    assert "in fail" in caught.value.__notes__[0]
    assert nobody_left()


def test_what_the_kernel_lacks_is_told_by_a_child_too():
    def fail(line):
        raise OSError(38, "Function not implemented")

    with crew() as hands, pytest.raises(ChildFailed) as caught:
        hands.start("caller", fail).result()
    assert kernel_lacks(caught.value)
    assert not kernel_lacks(ChildFailed("of itself"))


def test_causes_in_a_circle_are_no_hang():
    first, second = OSError("of the second"), OSError("of the first")
    first.__cause__, second.__cause__ = second, first
    assert not kernel_lacks(first)


def test_a_killed_child_is_named():
    with crew() as hands:
        child = hands.start("sleeper", lambda line: signal.pause())
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildFailed, match=r"the sleeper.*was killed by SIGKILL"):
            child.result()
    assert nobody_left()


def test_a_child_that_vanishes_is_named():
    with crew() as hands:
        child = hands.start("quitter", lambda line: os._exit(7))
        with pytest.raises(ChildFailed, match="ended with exit code 7 and without a report"):
            child.hear()


def test_a_hung_child_is_a_clear_failure(monkeypatch):
    monkeypatch.setattr(processes, "HANG_LIMIT", 1)

    def hang(line):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True:
            signal.pause()

    with crew() as hands:
        child = hands.start("sleeper", hang)
        with pytest.raises(ChildFailed, match=r"the sleeper.*said nothing for 1 s"):
            child.result()
    assert nobody_left()


def test_who_still_runs_is_ended_with_the_block():
    with pytest.raises(RuntimeError), crew() as hands:  # noqa: PT012
        child = hands.start("sleeper", lambda line: signal.pause())
        raise RuntimeError("of the stop")
    assert nobody_left()
    assert child.status is not None
    assert os.WTERMSIG(child.status) == signal.SIGKILL


def test_the_failure_of_a_child_goes_before_what_its_peer_met():
    def fail(line, connection):
        with connection:
            raise ZeroDivisionError("in the child")

    here, there = kin.pair("pipe:")
    with here, there, pytest.raises(ChildFailed, match="in the child"), crew() as hands:  # noqa: PT012
        hands.start("failing", fail, there, closes=[here])
        there.close()
        here.recv(timeout=60)
    with pytest.raises(kin.Closed), crew() as hands:  # noqa: PT012
        hands.start("well", lambda line: 5).result()
        here.recv()


def test_ends_that_a_child_does_not_want_are_closed_in_it():
    receiver, sender = kin.channel("pipe:")

    def receive(line):
        return list(receiver)  # ends only when no sender is left, also not its own copy

    with receiver, sender, crew() as hands:
        child = hands.start("receiver", receive, closes=[sender])
        receiver.close()
        sender.send(1)
        sender.close()
        assert child.result() == [1]


def test_no_child_outlives_the_hang_limit_when_its_parent_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "HANG_LIMIT", 1)
    reading, writing = os.pipe()

    def walk(line):
        with crew() as hands:
            child = hands.start("orphan", lambda line: signal.pause())
            line.tell(child.pid)
            signal.pause()

    with crew() as hands:
        walker = hands.start("walker", walk)
        walker.hear()
        os.close(writing)
        walker.kill()
        # The orphan holds the last write end: its end is the end of the pipe.
        ready, _, _ = select.select([reading], [], [], 60)
        assert ready == [reading]
        assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_parent_that_ignores_sigchld_is_served_too():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with crew() as hands:
            assert hands.start("adder", lambda line: 5).result() == 5
            hands.start("sleeper", lambda line: signal.pause())
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert nobody_left()
