"""A ring with many ends in one process, against a list: whatever is done, in whatever order."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import kinfolk as kin

np = pytest.importorskip("numpy")

HANG = 30
SIZES = st.sampled_from([0, 1, 7, 60, 900, 1016, 1017, 4096, 5000, 9000, 20_000, 32_000])
_names = itertools.count()


class Ring(RuleBasedStateMachine):
    """Messages are a number each, which all their bytes are."""

    views = Bundle("views")
    rooms = Bundle("rooms")

    def __init__(self) -> None:
        super().__init__()
        self.senders: list[Any] = []
        self.receivers: list[Any] = []
        self.queue: list[tuple[int, int]] = []  # length, number
        self.kept: dict[int, tuple[Any, int, int]] = {}
        self.open: dict[int, tuple[Any, Any, int, int]] = {}
        self.number = 0
        self.next = itertools.count()

    @initialize()
    def begin(self) -> None:
        """Open the first of each side."""
        name = f"ring:model-{os.getpid()}-{next(_names)}"
        self.receivers.append(kin.open_receiver(f"{name}?capacity=4096&arena=64K"))
        self.senders.append(kin.open_sender(name, timeout=HANG))

    def one_more(self) -> int:
        self.number = self.number % 250 + 1
        return self.number

    def may_be_full(self) -> bool:
        return bool(self.queue or self.kept or self.open)

    # ── sending ──────────────────────────────────────────────────────────────────────────────

    @rule(size=SIZES, which=st.integers(0, 3), how=st.sampled_from(["bytes", "array", "many"]))
    def send(self, size: int, which: int, how: str) -> None:
        """One message, or two, if there is room."""
        sender, number = self.senders[which % len(self.senders)], self.one_more()
        body = np.full(size, number, "u1")
        if size > 30_000 and how != "bytes":
            return  # with its description it is too large
        try:
            if how == "bytes":
                sender.send_bytes(body.tobytes(), timeout=0)
            elif how == "array":
                sender.send(body, timeout=0)
            else:
                sender.send_many([body], timeout=0)
        except kin.Timeout:
            assert self.may_be_full()
        else:
            self.queue.append((size, number))

    @rule(target=rooms, size=SIZES, which=st.integers(0, 3))
    def reserve(self, size: int, which: int) -> int:
        """Begin to build one; others go on meanwhile."""
        reservation = self.senders[which % len(self.senders)].reserve(size, timeout=0)
        number, key = self.one_more(), next(self.next)
        try:
            view = reservation.__enter__()
        except kin.Timeout:
            assert self.may_be_full()
            return -1
        view[:] = bytes([number]) * size
        self.open[key] = reservation, view, size, number
        return key

    @rule(key=consumes(rooms), sent=st.booleans())
    def end_room(self, key: int, sent: bool) -> None:
        """Send what was built, or drop it."""
        if key not in self.open:
            return
        reservation, view, size, number = self.open.pop(key)
        assert bytes(view) == bytes([number]) * size, "somebody else has written there"
        del view
        if not sent:
            reservation.__exit__(KeyError, KeyError(), None)
            return
        try:
            reservation.__exit__(None, None, None)
        except kin.Timeout:
            assert self.queue, "a frame of a block takes hardly any room"
        else:
            self.queue.append((size, number))

    # ── receiving ────────────────────────────────────────────────────────────────────────────

    @rule(target=views, which=st.integers(0, 3), copy=st.booleans(), how=st.sampled_from("omb"))
    def receive(self, which: int, copy: bool, how: str) -> int:
        """The next message, which is looked at now and then; or there is none."""
        receiver = self.receivers[which % len(self.receivers)]
        try:
            if how == "o":
                got = receiver.recv(timeout=0, copy=copy)
            elif how == "m":
                (got,) = receiver.recv_many(1, timeout=0, copy=copy)
            else:
                got = receiver.recv_bytes(timeout=0)
        except kin.Timeout:
            assert not self.queue, "what was sent does not come"
            return -1
        assert self.queue, "what was not sent comes"
        size, number = self.queue.pop(0)
        body = np.frombuffer(got, "u1")
        if how == "b":  # of an array, its description too
            body = body[len(body) - size :]
        key = next(self.next)
        self.kept[key] = body, size, number
        self.look(key)
        return key

    def look(self, key: int) -> None:
        body, size, number = self.kept[key]
        assert len(body) == size
        assert (body == number).all(), "another message lies there"

    @rule(key=consumes(views))
    def forget(self, key: int) -> None:
        """Its block goes back."""
        self.kept.pop(key, None)

    @invariant()
    def what_is_kept_stays(self) -> None:
        """Whatever is sent meanwhile."""
        for key in self.kept:
            self.look(key)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: len(self.senders) < 4)
    @rule(which=st.integers(0, 3))
    def another_sender(self, which: int) -> None:
        """A clone."""
        self.senders.append(self.senders[which % len(self.senders)].clone())

    @precondition(lambda self: len(self.receivers) < 4)
    @rule(which=st.integers(0, 3))
    def another_receiver(self, which: int) -> None:
        """A clone."""
        self.receivers.append(self.receivers[which % len(self.receivers)].clone())

    @precondition(lambda self: len(self.senders) > 1 and not self.open)
    @rule(which=st.integers(0, 3))
    def a_sender_goes(self, which: int) -> None:
        """Nothing of what it sent goes with it."""
        self.senders.pop(which % len(self.senders)).close()

    @precondition(lambda self: len(self.receivers) > 1)
    @rule(which=st.integers(0, 3))
    def a_receiver_goes(self, which: int) -> None:
        """What was received by it stays."""
        self.receivers.pop(which % len(self.receivers)).close()

    @precondition(lambda self: not self.open)
    @rule()
    def all_senders_go(self) -> None:
        """Then what is left comes, and the end; and both sides are opened anew, while views of the old ring are kept."""
        while self.senders:
            self.senders.pop().close()
        for size, number in self.queue:
            body = self.receivers[0].recv_bytes(timeout=0)
            assert body.endswith(bytes([number]) * size)
        self.queue.clear()
        for receiver in self.receivers:
            with pytest.raises(kin.EndOfChannel):
                receiver.recv(timeout=0)
            receiver.close()
        self.receivers.clear()
        self.begin()

    @precondition(lambda self: not self.open)
    @rule()
    def all_receivers_go(self) -> None:
        """Then nothing can be sent; and both sides are opened anew."""
        while self.receivers:
            self.receivers.pop().close()
        for sender in self.senders:
            with pytest.raises(kin.BrokenChannel):
                sender.send(1, timeout=0)
            sender.close()
        self.senders.clear()
        self.queue.clear()
        self.begin()

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        """All comes, and all of the arena is free."""
        try:
            if self.senders:
                self.end_all()
        finally:
            for end in (*self.senders, *self.receivers):
                end.close()

    def end_all(self) -> None:
        for reservation, view, _, _ in self.open.values():
            view.release()
            reservation.__exit__(KeyError, KeyError(), None)
        self.open.clear()
        self.kept.clear()
        for size, number in self.queue:
            assert self.receivers[0].recv_bytes(timeout=0).endswith(bytes([number]) * size)
        with pytest.raises(kin.Timeout):
            self.receivers[0].recv(timeout=0)
        gc.collect()
        half = self.senders[0].limits.max_message
        with contextlib.suppress(InterruptedError):
            with self.senders[0].reserve(half, timeout=0) as first:
                with self.senders[-1].reserve(half, timeout=0) as second:
                    assert len(first) == len(second) == half
                    raise InterruptedError


def test_it_is_as_a_list() -> None:
    run_state_machine_as_test(
        Ring, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )


@pytest.mark.soak
def test_it_is_as_a_list_for_long() -> None:
    run_state_machine_as_test(
        Ring, settings=settings(max_examples=1500, stateful_step_count=120, deadline=None)
    )


def test_a_ring_that_loses_one_is_found() -> None:
    """The negative control: of 9,000 bytes, none arrive."""

    class Loses(Ring):
        @rule(size=SIZES, which=st.integers(0, 3))
        def lose(self, size: int, which: int) -> None:
            """It says that it was sent."""
            if size == 9000 and len(self.queue) < 2:
                self.queue.append((size, self.one_more()))

    with pytest.raises((AssertionError, kin.KinfolkError)):
        run_state_machine_as_test(
            Loses,
            settings=settings(
                max_examples=200, deadline=None, phases=[Phase.generate], database=None
            ),
        )
