"""subetha: rings of slots in a mapped file. SpscRing is polled; Channel blocks, and carries less
than a slot.

Both have slots of 64 bytes; a ring gives back all of a slot, of which the message is the beginning.
An end that waits for a SpscRing asks again and again, as its own benchmark does; one that waits for
a Channel sleeps in it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

_CAPACITY = 1024

#: Bytes in the largest message of each, of slots of 64.
_IN_RING, _IN_CHANNEL = 64, 52

_BATCH = 256

#: Blocks for arrays, and how the number of one is written into a slot.
_BLOCKS, _INDEX = 16, struct.Struct("<Q")


class _Ring(Wiring):
    def __init__(self, terms: Terms) -> None:
        import subetha

        self._path = os.path.join(terms.directory, terms.name)
        self._size = terms.size
        subetha.SpscRing(self._path, _CAPACITY)

    def _open(self) -> Any:
        import subetha

        return subetha.SpscRing.open(self._path, _CAPACITY)

    def inlet(self, number: int) -> Inlet:
        ring = self._open()
        pop, pop_many, size = ring.pop, ring.pop_many, self._size

        def take() -> bytes:
            while (data := pop()) is None:
                pass
            message: bytes = data[:size]
            return message

        def take_many() -> list[bytes]:
            batch: list[bytes]
            while not (batch := pop_many(_BATCH)):
                pass
            return [data[:size] for data in batch]

        return Inlet(take, take_many)

    def outlet(self, number: int) -> Outlet:
        ring = self._open()
        push, push_many = ring.push, ring.push_many

        def send(data: bytes) -> None:
            while not push(data):
                pass

        def send_many(batch: Sequence[bytes]) -> None:
            while batch := batch[push_many(batch) :]:
                pass

        return Outlet(send, send_many=send_many)


class _Frames(Wiring):
    """Arrays: blocks of a FrameRegion, which its documentation has for payloads too large for a
    slot, and their numbers in a ring.
    """

    def __init__(self, terms: Terms) -> None:
        import subetha

        self._path = os.path.join(terms.directory, terms.name)
        self._size = terms.size
        subetha.SpscRing(f"{self._path}.ring", _CAPACITY)
        subetha.FrameRegion(f"{self._path}.frames", terms.size, _BLOCKS)

    def _open(self) -> tuple[Any, Any]:
        import subetha

        ring = subetha.SpscRing.open(f"{self._path}.ring", _CAPACITY)
        return ring, subetha.FrameRegion.open(f"{self._path}.frames", self._size, _BLOCKS)

    def inlet(self, number: int) -> Inlet:
        import numpy as np

        ring, frames = self._open()
        pop, take_block, size = ring.pop, frames.take_block, self._size

        def take() -> Any:
            while (data := pop()) is None:
                pass
            return np.frombuffer(take_block(_INDEX.unpack_from(data)[0], size), dtype=np.uint8)

        return Inlet(take)

    def outlet(self, number: int) -> Outlet:
        ring, frames = self._open()
        push, write_new = ring.push, frames.write_new

        def send(array: Any) -> None:
            payload = array.tobytes()
            while (index := write_new(payload)) is None:
                pass
            while not push(_INDEX.pack(index)):
                pass

        return Outlet(send)


class _Channel(Wiring):
    def __init__(self, terms: Terms) -> None:
        import subetha

        self._path = os.path.join(terms.directory, terms.name)
        shape = terms.shape
        self._made = subetha.Channel(
            self._path, _CAPACITY, senders=shape.senders, readers=shape.receivers
        )

    def _open(self) -> Any:
        import subetha

        return subetha.Channel.open(self._path, _CAPACITY)

    def inlet(self, number: int) -> Inlet:
        channel = self._open()
        receive, receive_many = channel.recv_for, channel.recv_many

        def take() -> bytes:
            while (data := receive(1.0)) is None:
                pass
            message: bytes = data
            return message

        def take_many() -> list[bytes]:
            batch: list[bytes] = receive_many(_BATCH)
            return batch or [take()]

        return Inlet(take, take_many)

    def outlet(self, number: int) -> Outlet:
        channel = self._open()
        send_for, send_many = channel.send_for, channel.send_many

        def send(data: bytes) -> None:
            while not send_for(data, 1.0):
                pass

        def send_batch(batch: Sequence[bytes]) -> None:
            while batch := batch[send_many(batch) :]:
                send(batch[0])  # which waits for room
                batch = batch[1:]

        return Outlet(send, send_many=send_batch)


SUBJECTS = (
    Subject(
        "subetha SpscRing",
        "peer",
        lambda terms: _Frames(terms) if terms.objects else _Ring(terms),
        "push, and pop_many where a stream is taken; arrays in a FrameRegion; ask until they get",
        waiting="spinning",
        package="subetha-ipc",
        module="subetha",
        largest=_IN_RING,
        many_senders=False,
        many_receivers=False,
        objects=True,
        meets=frozenset({"unrelated", "c-peers"}),
    ),
    Subject(
        "subetha Channel",
        "peer",
        _Channel,
        "send_for and recv_for, which sleep; recv_many where a stream is taken",
        package="subetha-ipc",
        module="subetha",
        largest=_IN_CHANNEL,
        meets=frozenset({"unrelated", "c-peers"}),
    ),
)
