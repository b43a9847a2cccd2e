"""Ctrl-C at any instruction of a call that waits: the end can be used afterwards, however often it strikes."""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import kinfolk as kin
from kinfolk._native import Finally
from tests.conformance.peers import HANG, Call, until, until_blocked

HOME = os.path.dirname(kin.__file__)


class Interrupt(KeyboardInterrupt):
    """Not pytest's."""


#: Some end the call before it sleeps, some in its sleep: little of the time shall be spent where interrupts are harmless.
TIMEOUTS = (*(0,) * 20, *(0.00001 * number for number in range(20)), 0.001)


class Storm:
    """Signals to the main thread at random moments; they raise Interrupt inside `shelterless`."""

    def __init__(self) -> None:
        self.struck = 0
        self._armed = False

    def strike(self, _: int, frame: FrameType | None) -> None:
        if self._armed and not in_finalizer(frame):
            self._armed = False
            self.struck += 1
            raise Interrupt

    @contextlib.contextmanager
    def raging(self) -> Iterator[None]:
        dice = random.Random(5)
        over = threading.Event()
        main = threading.main_thread().ident or 0

        def rage() -> None:
            while not over.wait(dice.uniform(0.0001, 0.0015)):
                signal.pthread_kill(main, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, self.strike)
        thread = threading.Thread(target=rage)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            signal.signal(signal.SIGUSR1, before)

    def until(self, struck: int, function: Callable[[], object]) -> None:
        """Call it again and again until so many interrupts have struck."""
        end = time.monotonic() + HANG
        while self.struck < struck:
            assert time.monotonic() < end, f"{self.struck} interrupts"
            self.shelterless(function)

    def shelterless(self, function: Callable[[], object]) -> None:
        """Call it where interrupts strike."""
        try:
            self._armed = True
            function()
        except Interrupt:
            pass
        finally:
            self._armed = False


def in_finalizer(frame: FrameType | None) -> bool:
    """Whether it is in a __del__ or a callback of weakref's: what is raised there comes to nobody, and Python complains of it."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__") == "weakref":
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize("address", ["sysv-mq:", "pipe:", "unix:"])
def test_no_interrupt_poisons_an_end(address: str) -> None:
    """Timeouts as well: what is left after an exception is left whatever interrupts it."""
    storm = Storm()
    receiver, sender = kin.channel(address)

    def receive() -> None:
        for timeout in TIMEOUTS:
            with contextlib.suppress(kin.Timeout):
                receiver.recv(timeout=timeout)

    with receiver, sender:
        with storm.raging():
            storm.until(1500, receive)
        sender.send("afterwards", timeout=HANG)
        assert receiver.recv(timeout=HANG) == "afterwards"


# ── at the start of each function that a call calls, where a handler may run ─────────────────


def interrupted_at(number: int, function: Callable[[], object]) -> bool:
    """Call it, with an interrupt at the start of the so manieth function of kinfolk; False when it calls fewer."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        code = frame.f_code
        # Python swallows what is raised in a __del__.
        if event == "call" and code.co_filename.startswith(HOME) and code.co_name != "__del__":
            count += 1
            if count == number:
                raise Interrupt

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        function()
    except Interrupt:
        return True
    except kin.Timeout:
        return count >= number  # a timeout that was raised while the interrupt was
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("address", ["sysv-mq:", "pipe:", "unix:"])
@pytest.mark.parametrize("timeout", [0, 0.001])
def test_a_receive_that_times_out(address: str, timeout: float) -> None:
    for number in itertools.count(1):
        receiver, sender = kin.channel(address)
        with receiver, sender:
            struck = interrupted_at(number, functools.partial(receiver.recv, timeout=timeout))
            sender.send("afterwards", timeout=HANG)
            assert receiver.recv(timeout=HANG) == "afterwards", number
        if not struck:
            assert number > 5
            return


@pytest.mark.parametrize("address", ["sysv-mq:", "pipe:", "unix:"])
def test_a_message_that_comes_and_one_that_goes(address: str) -> None:
    """Either may be lost with the interrupt, as nobody can tell; what comes afterwards is not."""
    for number in itertools.count(1):
        receiver, sender = kin.channel(address, codec="raw")
        with receiver, sender:

            def both(receiver: kin.Receiver = receiver, sender: kin.Sender = sender) -> None:
                sender.send(b"x")
                receiver.recv()

            struck = interrupted_at(number, both)
            sender.send(b"afterwards", timeout=HANG)
            while receiver.recv(timeout=HANG) != b"afterwards":
                pass
        if not struck:
            assert number > 10
            return


def test_a_call_in_line_that_gives_up() -> None:
    for number in itertools.count(1):
        receiver, sender = kin.channel("pipe:")
        with receiver, sender:
            inside = Call(receiver.recv, timeout=HANG)
            until_blocked(receiver)
            struck = interrupted_at(number, functools.partial(receiver.recv, timeout=0.001))
            behind = Call(receiver.recv, timeout=HANG)
            until(functools.partial(len, receiver._receive_turn._queue), "somebody in line")
            sender.send(1)
            sender.send(2)
            assert [inside.result(), behind.result()] == [1, 2], number
        if not struck:
            assert number > 5
            return


# ── what it stands on ────────────────────────────────────────────────────────────────────────


def test_finally_calls_again_what_was_interrupted() -> None:
    calls = []

    def leave(token: str) -> None:
        calls.append(token)
        if len(calls) < 3:
            raise Interrupt

    with pytest.raises(Interrupt), Finally(leave, "token"):
        pass
    assert calls == ["token"] * 3


def test_finally_calls_once_what_was_not_and_keeps_the_exception() -> None:
    calls: list[str] = []
    with pytest.raises(LookupError), Finally(calls.append, "token"):
        raise LookupError
    assert calls == ["token"]


def test_finally_gives_up_on_what_always_fails() -> None:
    def leave(token: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Finally(leave, None):
        pass


def test_a_plain_finally_is_interrupted_before_it_begins() -> None:
    """The negative control: why `Finally` is there."""
    storm = Storm()
    entered, left = [0], [0]

    def leave() -> None:
        left[0] += 1

    def use() -> None:
        for _ in range(100):
            entered[0] += 1
            try:
                pass
            finally:
                leave()

    end = time.monotonic() + HANG
    with storm.raging():
        while entered == left and time.monotonic() < end:
            storm.shelterless(use)
    assert entered != left


def loops_in_blocks(tree: ast.AST) -> list[int]:
    """The lines of loops that stand in a block of Finally, or another one of its kind."""
    return [
        inner.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.With | ast.AsyncWith)
        and any(
            "Finally(" in ast.unparse(item) or "Leaving(" in ast.unparse(item)
            for item in node.items
        )
        for inner in ast.walk(node)
        if isinstance(inner, ast.While | ast.For | ast.AsyncFor)
    ]


def test_no_loop_stands_in_a_block_of_finally() -> None:
    """CPython 3.12 and later may leave the jump back, where a signal is looked for, out of the block around it."""
    for path in Path(HOME).rglob("*.py"):
        assert loops_in_blocks(ast.parse(path.read_text())) == [], path


def test_a_loop_that_does_is_found() -> None:
    assert loops_in_blocks(ast.parse("with Finally(f, x):\n  while g(): pass")) == [2]
