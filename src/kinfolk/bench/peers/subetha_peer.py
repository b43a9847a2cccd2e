"""subetha: rings of slots in a mapped file. SpscRing is polled; Channel blocks, and carries less than a slot.

Both have slots of 64 bytes; a ring gives back all of a slot, of which the message is the beginning. An end that waits for a SpscRing asks again and again, as its own benchmark does; one that waits for a
Channel sleeps in it.
"""

from __future__ import annotations

import os
from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

_CAPACITY = 1024

#: Bytes in the largest message of each, of slots of 64.
_IN_RING, _IN_CHANNEL = 64, 52

_BATCH = 256


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
        push = self._open().push

        def send(data: bytes) -> None:
            while not push(data):
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
        send_for = self._open().send_for

        def send(data: bytes) -> None:
            while not send_for(data, 1.0):
                pass

        return Outlet(send)


SUBJECTS = (
    Subject(
        "subetha SpscRing",
        "peer",
        _Ring,
        "push, and pop_many where a stream is taken; both ask until they get",
        waiting="spinning",
        package="subetha-ipc",
        module="subetha",
        largest=_IN_RING,
        many_senders=False,
        many_receivers=False,
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
