"""Ctrl-C at any instruction of a call that waits: the end can be used afterwards, however often it strikes."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import kinfolk as kin
from kinfolk._native import Finally
from tests.conformance.peers import HANG


class Interrupt(KeyboardInterrupt):
    """Not pytest's."""


class Storm:
    """Signals to the main thread at random moments; they raise Interrupt inside `shelterless`."""

    def __init__(self) -> None:
        self.struck = 0
        self._armed = False

    def strike(self, *_: object) -> None:
        if self._armed:
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

    def shelterless(self, function: Callable[[], object]) -> None:
        """Call it where interrupts strike."""
        try:
            self._armed = True
            function()
        except Interrupt:
            pass
        finally:
            self._armed = False


@pytest.mark.parametrize("address", ["sysv-mq:", "pipe:", "unix:"])
def test_no_interrupt_poisons_an_end(address: str) -> None:
    """Timeouts as well: what is left after an exception is left whatever interrupts it."""
    storm = Storm()
    receiver, sender = kin.channel(address)

    def receive() -> None:
        with contextlib.suppress(kin.Timeout):
            receiver.recv(timeout=0.001)

    with receiver, sender:
        with storm.raging():
            end = time.monotonic() + HANG
            while storm.struck < 1500 and time.monotonic() < end:
                storm.shelterless(receive)
        assert storm.struck == 1500
        sender.send("afterwards", timeout=HANG)
        assert receiver.recv(timeout=HANG) == "afterwards"


def test_no_interrupt_leaves_a_ghost_in_line() -> None:
    """Who gave up in line and was interrupted then is not waited for."""
    storm = Storm()
    receiver, sender = kin.channel("pipe:")
    go = threading.Event()

    def holding() -> Iterator[str]:
        go.wait(HANG)
        yield "x"

    def send() -> None:
        with contextlib.suppress(kin.Timeout):
            sender.send("never", timeout=0.001)

    with receiver, sender:
        inside = threading.Thread(target=sender.send_many, args=(holding(),))
        inside.start()
        try:
            with storm.raging():
                while storm.struck < 800:
                    storm.shelterless(send)
            assert not sender._send_turn._queue
        finally:
            go.set()
            inside.join()
        sender.send("afterwards", timeout=HANG)
        assert receiver.recv_many(9, timeout=HANG) == ["x", "afterwards"]


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
