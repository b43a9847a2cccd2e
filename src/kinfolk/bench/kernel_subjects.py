"""The kernel's own, by the standard library (and posix_ipc, sysv_ipc): what everything else is
built on, and compared with.

Rules:
1. They frame messages as little as can be: a pipe and a stream socket carry messages of one size,
   known beforehand, so no length is written. That is less work than any library can do, and is
   meant so: a floor, not a rival.
2. Buffers are as the kernel gives them, for that is what a program gets that does not ask.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial

import posix_ipc
import sysv_ipc

from kinfolk.bench.shared_slot import SharedSlot
from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring

_POSSIBLE = frozenset({"crash-safe", "unrelated", "c-peers"})


def writer_to(fd: int) -> Callable[[bytes], object]:
    """Writes all of a message: one call of write(2) for what fits."""

    def send(data: bytes) -> None:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])

    return send


def reader_of(
    what: str, size: int, read: Callable[[int], bytes], read_into: Callable[[memoryview], int]
) -> Callable[[], bytes | bytearray]:
    """Reads all of a message from a pipe, a connection: one call for what comes at once."""

    def take() -> bytes | bytearray:
        data = read(size)
        if len(data) == size:
            return data
        whole = bytearray(size)
        whole[: len(data)] = data
        got, view = len(data), memoryview(whole)
        while got < size:
            more = read_into(view[got:])
            if not more:
                raise EOFError(f"the {what} ended in the middle of a message")
            got += more
        return whole

    return take


class _Pipe(Wiring):
    """Messages of at most PIPE_BUF bytes are whole, whoever else writes."""

    def __init__(self, terms: Terms) -> None:
        self._reading, self._writing = os.pipe()
        self._size = terms.size

    def inlet(self, number: int) -> Inlet:
        os.close(self._writing)
        fd, size = self._reading, self._size

        return Inlet(
            reader_of("pipe", size, partial(os.read, fd), lambda rest: os.readv(fd, [rest]))
        )

    def outlet(self, number: int) -> Outlet:
        os.close(self._reading)
        return Outlet(writer_to(self._writing))

    def leave(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


class _Stream(Wiring):
    """Connected stream sockets."""

    def __init__(
        self, terms: Terms, pair: Callable[[], tuple[socket.socket, socket.socket]]
    ) -> None:
        self._receiving, self._sending = pair()
        self._size = terms.size

    def inlet(self, number: int) -> Inlet:
        self._sending.close()
        connection, size = self._receiving, self._size

        return Inlet(reader_of("connection", size, connection.recv, connection.recv_into))

    def outlet(self, number: int) -> Outlet:
        self._receiving.close()
        return Outlet(self._sending.sendall)

    def leave(self) -> None:
        self._receiving.close()
        self._sending.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one connection over loopback, without Nagle's delay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        here, _ = listener.accept()
    for end in (here, there):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return here, there


class _PosixQueue(Wiring):
    """With the depth and size that every user may have."""

    def __init__(self, terms: Terms) -> None:
        self._queue = posix_ipc.MessageQueue(
            f"/{terms.name}",
            posix_ipc.O_CREX,
            max_messages=posix_ipc.QUEUE_MESSAGES_MAX_DEFAULT,
            max_message_size=terms.size,
        )

    def inlet(self, number: int) -> Inlet:
        receive = self._queue.receive
        return Inlet(lambda: receive()[0])

    def outlet(self, number: int) -> Outlet:
        return Outlet(self._queue.send)

    def leave(self) -> None:
        self._queue.unlink()  # it lives as long as somebody has it open
        self._queue.close()


class _SysvQueue(Wiring):
    """With the limits of the kernel."""

    def __init__(self, terms: Terms) -> None:
        self._queue = sysv_ipc.MessageQueue(
            None, sysv_ipc.IPC_CREX, max_message_size=max(terms.size, 1)
        )

    def inlet(self, number: int) -> Inlet:
        receive = self._queue.receive
        return Inlet(lambda: receive()[0])

    def outlet(self, number: int) -> Outlet:
        return Outlet(self._queue.send)

    def remove(self) -> None:
        self._queue.remove()


class _Slot(Wiring):
    """One message in shared memory, and two semaphores that say whose turn it is."""

    def __init__(self, terms: Terms) -> None:
        self._slot = SharedSlot(terms.size)

    def inlet(self, number: int) -> Inlet:
        return Inlet(self._slot.take)

    def outlet(self, number: int) -> Outlet:
        return Outlet(self._slot.put)

    def remove(self) -> None:
        self._slot.close()


def _queue_limit(path: str) -> int:
    """What a user may have; the kernel's usual value where it does not say."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 8192


SUBJECTS = (
    Subject(
        "os.pipe", "kernel", _Pipe, "os.write and os.read of whole messages of a known size",
        many_senders=False, many_receivers=False, meets=frozenset({"c-peers"}),
    ),
    Subject(
        "socketpair", "kernel", lambda terms: _Stream(terms, socket.socketpair),
        "sendall and recv of whole messages of a known size", many_senders=False,
        many_receivers=False, meets=_POSSIBLE - {"crash-safe"},
    ),
    Subject(
        "tcp socket", "kernel", lambda terms: _Stream(terms, tcp_pair),
        "as above, over loopback, with TCP_NODELAY", many_senders=False, many_receivers=False,
        meets=(_POSSIBLE | {"network"}) - {"crash-safe"},
    ),
    Subject(
        "posix_ipc mq", "kernel", _PosixQueue, "send and receive, with the kernel's default depth",
        module="posix_ipc", meets=_POSSIBLE,
        largest=_queue_limit("/proc/sys/fs/mqueue/msgsize_max"),
    ),
    Subject(
        "sysv_ipc mq", "kernel", _SysvQueue, "send and receive", module="sysv_ipc",
        largest=_queue_limit("/proc/sys/kernel/msgmax"), meets=_POSSIBLE,
    ),
    Subject(
        "mmap + semaphores", "kernel", _Slot,
        "one slot in shared memory, a posix_ipc semaphore for full and one for empty",
        module="posix_ipc", meets=_POSSIBLE - {"crash-safe"},
    ),
)  # fmt: skip
