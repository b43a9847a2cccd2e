"""pynng over ipc: a Unix socket, with threads of nng's own.

Pair0 between two, which is its simplest protocol; Push0 and Pull0 between many. Buffers as deep as
nng allows, for its default is none. It sends bytes and nothing else: an array goes as its bytes,
and the receiver knows what they are.
"""

from __future__ import annotations

from typing import Any

from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

#: Messages; nng's most.
_DEPTH = 8192

#: Bytes that may stand in a buffer.
_ROOM = 64 << 20


def _as_array(data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype=np.uint8)


class _Sockets(Wiring):
    deals = True

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._two = terms.shape == (1, 1)
        self._depth = max(1, min(_DEPTH, _ROOM // terms.size))

    def _address(self, number: int) -> str:
        return f"ipc://{self._terms.directory}/{self._terms.name}-{number}"

    def inlet(self, number: int) -> Inlet:
        import pynng

        kind = pynng.Pair0 if self._two else pynng.Pull0
        socket = kind(recv_buffer_size=self._depth, recv_max_size=0)
        socket.listen(self._address(number))
        if self._terms.objects:
            return Inlet(lambda: _as_array(socket.recv()))
        return Inlet(socket.recv)

    def outlet(self, number: int) -> Outlet:
        import pynng

        kind = pynng.Pair0 if self._two else pynng.Push0
        socket = kind(send_buffer_size=self._depth)
        for receiver in range(self._terms.shape.receivers):
            socket.dial(self._address(receiver), block=False)
        if self._terms.objects:
            return Outlet(lambda array: socket.send(array.tobytes()))
        return Outlet(socket.send)


SUBJECTS = (
    Subject(
        "pynng ipc",
        "peer",
        _Sockets,
        "Pair0 between two, Push0 and Pull0 between many; buffers of nng's largest depth",
        package="pynng",
        module="pynng",
        objects=True,
        meets=frozenset({"unrelated", "c-peers", "network"}),
    ),
)
