"""multiprocessing's Pipe, SimpleQueue and Queue.

Bytes over a Pipe go by send_bytes and recv_bytes, which pickle nothing; a queue pickles whatever it
carries. Arrays go as objects, which the documentation names as the way.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

_CONTEXT = multiprocessing.get_context("fork")


class _Pipe(Wiring):
    def __init__(self, terms: Terms) -> None:
        self._receiving, self._sending = _CONTEXT.Pipe(duplex=False)
        self._objects = terms.objects

    def inlet(self, number: int) -> Inlet:
        self._sending.close()
        return Inlet(self._receiving.recv if self._objects else self._receiving.recv_bytes)

    def outlet(self, number: int) -> Outlet:
        self._receiving.close()
        return Outlet(self._sending.send if self._objects else self._sending.send_bytes)

    def leave(self) -> None:
        self._receiving.close()
        self._sending.close()


class _Queue(Wiring):
    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def inlet(self, number: int) -> Inlet:
        return Inlet(self._queue.get)

    def outlet(self, number: int) -> Outlet:
        return Outlet(self._queue.put)

    def leave(self) -> None:
        self._queue.close()


SUBJECTS = (
    Subject(
        "mp.Pipe",
        "peer",
        _Pipe,
        "one way (duplex=False), send_bytes and recv_bytes; arrays by send and recv",
        module="multiprocessing.connection",
        many_senders=False,
        many_receivers=False,
        objects=True,
    ),
    Subject(
        "mp.SimpleQueue",
        "peer",
        lambda terms: _Queue(_CONTEXT.SimpleQueue()),
        "put and get: it has nothing else",
        module="multiprocessing.queues",
        objects=True,
    ),
    Subject(
        "mp.Queue",
        "peer",
        lambda terms: _Queue(_CONTEXT.Queue()),
        "put and get, without a bound, so that no semaphore is waited for",
        module="multiprocessing.queues",
        objects=True,
    ),
)
