"""A process that is stopped in the middle of an operation, with a lock of the ring: others keep their time limits."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.channels import ring_memory

HANG = 30
#: Where the words of the locks are: native/sync_object.h, native/ring_layout.h.
GUARD, SENDERS, RECEIVERS = 64, 256, 512


@pytest.fixture
def somebody() -> Iterator[int]:
    """A process that lives, and does nothing."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Held:
    """A lock of a ring, as it is while some process has it."""

    def __init__(self, name: str, at: int, owner: int) -> None:
        with Path(ring_memory.path_of(name)).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._at, self._owner = at, owner

    def __enter__(self) -> None:
        self._write(self._owner)

    def __exit__(self, *_: object) -> None:
        self._write(0)
        self._map.close()

    def _write(self, owner: int) -> None:
        self._map[self._at : self._at + 4] = owner.to_bytes(4, "little")


def reserve(sender: kin.Sender, timeout: float | None) -> None:
    with sender.reserve(20_000, timeout=timeout):
        pass


SENDING: list[tuple[int, Callable[[kin.Sender, float | None], object]]] = [
    (SENDERS, lambda sender, timeout: sender.send_bytes(b"x", timeout=timeout)),
    (SENDERS, lambda sender, timeout: sender.send_bytes(bytes(20_000), timeout=timeout)),
    (SENDERS, lambda sender, timeout: sender.send_many([b"x"] * 3, timeout=timeout)),
    (GUARD, lambda sender, timeout: sender.send_bytes(bytes(20_000), timeout=timeout)),
    (GUARD, reserve),
]


@pytest.mark.parametrize(("lock", "send"), SENDING)
def test_a_sender_keeps_its_time(
    unique_name: str,
    somebody: int,
    lock: int,
    send: Callable[[kin.Sender, float | None], object],
) -> None:
    with (
        kin.open_receiver(f"ring:{unique_name}?arena=64K&capacity=4096") as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        sender.send_bytes(bytes(20_000), timeout=HANG)  # it gets its row
        with Held(unique_name, lock, somebody), pytest.raises(kin.Timeout):
            send(sender, 0.2)
        send(sender, HANG)
        assert len(receiver.recv(timeout=HANG)) == 20_000
        receiver.recv(timeout=HANG)


def test_a_receiver_keeps_its_time_and_misses_nothing(unique_name: str, somebody: int) -> None:
    with kin.open_receiver(f"ring:{unique_name}?arena=64K&capacity=4096") as receiver:
        with kin.open_sender(f"ring:{unique_name}") as sender:
            sender.send("x")
        with Held(unique_name, RECEIVERS, somebody):
            for timeout in (0, 0.2):
                with pytest.raises(kin.Timeout):  # and not the end
                    receiver.recv(timeout=timeout)
        assert receiver.recv(timeout=HANG) == "x"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_a_close_ends_it(unique_name: str, somebody: int) -> None:
    with (
        kin.open_receiver(f"ring:{unique_name}?arena=64K&capacity=4096") as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        raised: list[BaseException] = []

        def send() -> None:
            try:
                sender.send_bytes(b"x")
            except kin.Closed as error:
                raised.append(error)

        with Held(unique_name, SENDERS, somebody):
            thread = threading.Thread(target=send)
            thread.start()
            while not sender.statistics().waits:
                pass
            sender.close()
            thread.join(HANG)
            assert raised
        assert not receiver.closed


@pytest.mark.parametrize("lock", [SENDERS, GUARD])
def test_a_lock_that_was_overwritten_says_so(unique_name: str, lock: int) -> None:
    """By our own number: nobody could ever have it."""
    with (
        kin.open_receiver(f"ring:{unique_name}?arena=64K&capacity=4096"),
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        sender.send_bytes(bytes(20_000), timeout=HANG)
        with Held(unique_name, lock, os.getpid()), pytest.raises(kin.CorruptChannel):
            sender.send_bytes(bytes(20_000), timeout=HANG)
