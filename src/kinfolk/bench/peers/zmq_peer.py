"""pyzmq over ipc: a Unix socket, a thread of ZeroMQ's own in each process.

Messages of 64 KiB and more go without a copy (copy=False), as its documentation advises; below that
a copy is cheaper than the bookkeeping. Sockets wait without a high-water mark's loss: PUSH and PULL
block. Every receiver binds, every sender connects to all.
"""

from __future__ import annotations

from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

#: Bytes, from which pyzmq's documentation advises copy=False.
_LARGE = 64 << 10


def _send_array(socket: Any, array: Any) -> None:
    """As its documentation has it (Serializing messages with PyZMQ): a part that describes it, and
    its memory.
    """
    import zmq

    socket.send_json({"dtype": str(array.dtype), "shape": array.shape}, zmq.SNDMORE)
    socket.send(array, copy=False)


def _received_array(socket: Any) -> Any:
    import numpy as np

    described = socket.recv_json()
    memory = socket.recv(copy=False).buffer
    return np.frombuffer(memory, dtype=described["dtype"]).reshape(described["shape"])


class _Sockets(Wiring):
    deals = True

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._copy = terms.size < _LARGE
        self._objects = terms.objects

    def _address(self, number: int) -> str:
        return f"ipc://{self._terms.directory}/{self._terms.name}-{number}"

    def inlet(self, number: int) -> Inlet:
        import zmq

        socket = zmq.Context().socket(zmq.PULL)
        socket.bind(self._address(number))
        if self._objects:
            return Inlet(lambda: _received_array(socket))
        if self._copy:
            return Inlet(socket.recv)
        return Inlet(lambda: socket.recv(copy=False).buffer)

    def outlet(self, number: int) -> Outlet:
        import zmq

        socket = zmq.Context().socket(zmq.PUSH)
        for receiver in range(self._terms.shape.receivers):
            socket.connect(self._address(receiver))
        if self._objects:
            return Outlet(lambda array: _send_array(socket, array))
        if self._copy:
            return Outlet(socket.send)
        return Outlet(lambda data: socket.send(data, copy=False))


SUBJECTS = (
    Subject(
        "pyzmq ipc",
        "peer",
        _Sockets,
        "PUSH and PULL over ipc; copy=False from 64 KiB on, and arrays, as its documentation "
        "advises",
        package="pyzmq",
        module="zmq",
        objects=True,
        meets=frozenset({"unrelated", "c-peers", "network"}),
    ),
)
