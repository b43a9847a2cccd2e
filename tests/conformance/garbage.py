"""What no kinfolk would send, and somebody who sends it: bare system calls, past the library.

A `Stranger` writes into the mechanism of a `Link` whatever it is given. The tables say, for each way in which messages are
framed, what is wrong with each piece of garbage and what a receiver has to make of it:

    CORRUPT     CorruptChannel
    NO_OBJECT   DecodeError: a whole message, with an object that can't be made
    NOTHING     no message, and no error: it is incomplete, or means nothing
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import posix_ipc
import sysv_ipc

import kinfolk as kin
from kinfolk._native import Ring
from kinfolk.channels import framing, packet_format
from kinfolk.channels.address import parse
from kinfolk.channels.codec import JSON, MSGPACK, OUT_OF_BAND, PICKLE
from kinfolk.channels.framing import ABORT, ATOMIC_CHUNK, FIRST, LAST, MAX_CHUNK
from kinfolk.channels.ring_memory import mapped
from kinfolk.watcher import core
from tests.conformance.link import Link
from tests.conformance.peers import socket_of

CORRUPT, NO_OBJECT, NOTHING = kin.CorruptChannel, kin.DecodeError, kin.Timeout

#: How messages are framed, by scheme; pipes keep chunks apart, so that they may judge one by its size.
FRAMING = {
    "pipe": "packed chunks",
    "fifo": "packed chunks",
    "unix": "chunks",
    "tcp": "chunks",
    "unix-seqpacket": "packets",
    "unix-dgram": "packets",
    "mq": "footers",
    "sysv-mq": "footers",
    "ring": "frames",
    "file": "frames",
}


@dataclass
class Garbage:
    """Writes that are wrong in one way."""

    what: str
    writes: list[bytes]
    result: type[kin.KinfolkError]
    framed: bool = False  # whether the message is whole, and only what is in it wrong


def chunk(
    body: bytes = b"",
    flags: int = FIRST | LAST,
    *,
    kind: int = 0,
    length: int | None = None,
    total: int | None = None,
    nonce: int = 7,
    magic: bytes = framing.MAGIC,
) -> bytes:
    """A chunk on a stream; what is not said is right."""
    length = len(body) if length is None else length
    total = length if total is None else total
    pid = os.getpid()
    return framing.HEADER.pack(magic, flags, kind, length, pid, nonce, 1, total) + body


def packet(
    body: bytes = b"",
    *,
    kind: int = 0,
    size: int | None = None,
    magic: bytes = b"kP",
    flags: int = 0,
    riding: int = 0,
    zero: int = 0,
) -> bytes:
    """A packet; what is not said is right."""
    size = len(body) if size is None else size
    return packet_format.HEADER.pack(magic, flags, kind, riding, zero, size) + body


def footed(body: bytes = b"", *, kind: int = 0, magic: bytes = b"kQ1") -> bytes:
    """A message in a queue."""
    return body + bytes((kind,)) + magic


def framed(body: bytes = b"", *, kind: int = 0) -> bytes:
    """A message in a ring, for `RingStranger`: its kind stands in the frame's header."""
    return bytes((kind,)) + body


class RingStranger:
    """Somebody who has mapped a ring's memory."""

    def __init__(self, sender: Any) -> None:
        self._ring = Ring(True)
        memory = sender._sending._memory
        number = memory.fileno()
        assert (
            self._ring.open(mapped(memory), number, 1 << 20, 1 << 20, False, core()) == 0
        )  # as made

    def send(self, data: bytes) -> None:
        """Wait for room, and send."""
        while not self._ring.put(data[0], (data[1:],)):
            self._ring.wait(None, self._ring.alarms)

    def close(self) -> None:
        """Go."""
        self._ring.close()


MAKERS: dict[str, Any] = {
    "packed chunks": chunk,
    "chunks": chunk,
    "packets": packet,
    "footers": footed,
    "frames": framed,
}


def table_of_buffers(*lengths: int, count: int | None = None) -> bytes:
    """What precedes buffers that are out of band; the first length is the object's."""
    count = len(lengths) - 1 if count is None else count
    return struct.pack(f"<II{len(lengths)}Q", count, 0, *lengths)


#: Whole messages that hold no object: what is wrong, the kind, the body, the result.
_BODIES = [
    ("an unknown kind", 77, b"x", CORRUPT),
    ("the highest kind", 127, b"", NOTHING),  # connections of datagrams have it
    ("an unknown kind out of band", 77 | OUT_OF_BAND, table_of_buffers(0), CORRUPT),
    ("no table of buffers", MSGPACK | OUT_OF_BAND, b"", CORRUPT),
    ("half a table of buffers", MSGPACK | OUT_OF_BAND, table_of_buffers(1, 2)[:-9], CORRUPT),
    ("2**32 - 1 buffers", MSGPACK | OUT_OF_BAND, table_of_buffers(1, 1, count=2**32 - 1), CORRUPT),
    ("a buffer of 2**63", MSGPACK | OUT_OF_BAND, table_of_buffers(0, 2**63), CORRUPT),
    ("an object of 2**64 - 1", MSGPACK | OUT_OF_BAND, table_of_buffers(2**64 - 1, 1), CORRUPT),
    ("a sum beyond 2**64", MSGPACK | OUT_OF_BAND, table_of_buffers(*[2**63] * 3), CORRUPT),
    ("half a msgpack", MSGPACK, b"\x92\x01", NO_OBJECT),
    ("a list of 2**32 - 1", MSGPACK, b"\xdd\xff\xff\xff\xff", NO_OBJECT),
    ("bytes of 2**32 - 1", MSGPACK, b"\xc6\xff\xff\xff\xff", NO_OBJECT),
    ("lists in lists in lists", MSGPACK, b"\x91" * 3000, NO_OBJECT),
    ("an array without its buffer", MSGPACK, b"\xc7\x08\x01\x93\x09\xa3<f8\x91\x01", CORRUPT),
    ("half a JSON", JSON, b'{"a"', NO_OBJECT),
    ("braces in braces", JSON, b"[" * 3000, NO_OBJECT),
    ("a pickle that is not allowed", PICKLE, b"\x80\x05N.", NO_OBJECT),
]

_PACKED = [
    ("zeros", [bytes(100)], CORRUPT),
    ("text", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], CORRUPT),
    ("a packet", [packet(bytes(50))], CORRUPT),
    ("another magic", [chunk(b"x", magic=b"kD")], CORRUPT),
    ("unknown flags", [chunk(b"x", 0xF3)], CORRUPT),
    ("a total of 2**63", [chunk(b"x", FIRST, total=2**63)], CORRUPT),
    ("a total of 2**64 - 1", [chunk(b"x", FIRST, total=2**64 - 1)], CORRUPT),
    ("a length of 2**32 - 1", [chunk(length=2**32 - 1, total=2**40)], CORRUPT),
    ("a chunk above the largest", [chunk(length=MAX_CHUNK + 1, total=MAX_CHUNK + 1)], CORRUPT),
    ("a chunk longer than its message", [chunk(b"12345", total=4)], CORRUPT),
    ("a whole message in half of it", [chunk(b"x", total=9)], CORRUPT),
    (
        "less than promised",
        [chunk(b"x", FIRST, total=9), chunk(b"x", LAST, total=9)],
        CORRUPT,
    ),
    (
        "more than promised",
        [chunk(b"12345", FIRST, total=9), chunk(b"12345", LAST, total=9)],
        CORRUPT,
    ),
    (
        "another promise than before",
        [chunk(b"x", FIRST, total=1 << 20), chunk(b"x", LAST, total=2)],
        CORRUPT,
    ),
    ("an end without a beginning", [chunk(b"x", LAST, total=9)], NOTHING),
    ("an abort of nothing", [chunk(flags=ABORT)], NOTHING),
    ("an abort that goes on", [chunk(b"x", FIRST | ABORT, total=2), chunk(b"x", LAST)], NOTHING),
    ("a beginning", [chunk(b"x", FIRST, total=1 << 30)], NOTHING),
    ("beginnings", [chunk(b"x", FIRST, total=1 << 30, nonce=n) for n in range(9)], NOTHING),
]
#: What is only incomplete where chunks are not kept apart.
_CUT = [
    ("one byte", [b"k"], CORRUPT),
    ("half a header", [chunk()[:11]], CORRUPT),
    ("half a body", [chunk(b"12345")[:-2]], CORRUPT),
    ("a body too much", [chunk(b"12345") + b"6"], CORRUPT),
    ("no body", [chunk(length=ATOMIC_CHUNK)], CORRUPT),
    ("no long body", [chunk(length=MAX_CHUNK)], CORRUPT),
]
_PACKETS = [
    ("nothing at all", [b""], CORRUPT),
    ("text", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], CORRUPT),
    ("half a header", [b"kP\0"], CORRUPT),
    ("another magic", [packet(b"x", magic=b"kC")], CORRUPT),
    ("unknown flags", [packet(b"x", flags=0xFE)], CORRUPT),
    ("reserved bytes", [packet(b"x", zero=1)], CORRUPT),
    ("a longer length", [packet(b"x", size=2)], CORRUPT),
    ("a shorter length", [packet(b"xx", size=1)], CORRUPT),
    ("a length of 2**63", [packet(b"x", size=2**63)], CORRUPT),
    ("a length of 2**64 - 1", [packet(size=2**64 - 1)], CORRUPT),
    ("descriptors that did not come", [packet(b"x", riding=3)], CORRUPT),
    ("memory that did not come", [packet(flags=1, size=1 << 20)], CORRUPT),
    ("longer than what it says", [packet(bytes(190_000), size=180_000)], CORRUPT),
]
_FOOTERS = [
    ("nothing at all", [b""], CORRUPT),
    ("one byte", [b"x"], CORRUPT),
    ("half a footer", [b"\0kQ"], CORRUPT),
    ("text", [b"a line of a C program\n"], CORRUPT),
    ("another magic", [footed(b"x", magic=b"kQ2")], CORRUPT),
    ("zeros", [bytes(1000)], CORRUPT),
]


def tables(how: str) -> list[Garbage]:
    """All garbage for one way of framing."""
    by_framing: dict[str, list[Any]] = {
        "packed chunks": _PACKED + _CUT,
        "chunks": [
            *_PACKED,
            # Without an end to each chunk, the rest of it may still come.
            *((what, writes, NOTHING) for what, writes, _ in _CUT if what != "a body too much"),
        ],
        "packets": _PACKETS,
        "footers": _FOOTERS,
        "frames": [],
    }
    make = MAKERS[how]
    whole: list[Any] = [
        (
            what,
            [make(body, kind=kind)],
            CORRUPT if kind == 127 and how != "packets" else result,
            True,
        )
        for what, kind, body, result in _BODIES
    ]
    return [Garbage(*row) for row in by_framing[how] + whole]


class Stranger:
    """Somebody at the sending side who knows nothing of kinfolk, or all too much."""

    def __init__(self, link: Link, sender: Any) -> None:
        """Open the name of ``link`` anew, or a copy of ``sender`` where there is none to open."""
        scheme, name = link.variant.scheme, parse(link.address).name
        self.socket: socket.socket | None = None
        self._queue: Any = None
        self._fd = -1
        if scheme == "pipe":
            self._fd = os.dup(sender.fileno())
        elif scheme == "fifo":
            self._fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC)
            # One packet a write, as kinfolk's: to what is no packet the kernel adds what others write.
            fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_DIRECT)
        elif scheme == "mq":
            self._queue = posix_ipc.MessageQueue(name)
        elif scheme == "sysv-mq":
            self._queue = sysv_ipc.MessageQueue(int(name), max_message_size=8192)
        elif scheme in ("ring", "file"):
            self._queue = RingStranger(sender)
        elif link.variant.way != "named":
            self.socket = socket_of(sender)
        else:
            self.socket = connected(scheme, name)

    def write(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """One system call, or as many as it takes."""
        if self._queue is not None:
            self._queue.send(data)
        elif self.socket is None:
            os.write(self._fd, data)
        elif descriptors:
            riding = array.array("i", descriptors)
            self.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, riding)])
        else:
            self.socket.send(data)

    def write_patiently(self, data: bytes) -> None:
        """The same, waiting for room; a connection that was closed for what came before is no error."""
        if self._fd >= 0:
            os.set_blocking(self._fd, True)
        if self.socket is not None:
            self.socket.setblocking(True)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.write(data)

    def close(self) -> None:
        """Go."""
        if self.socket is not None:
            self.socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        elif isinstance(self._queue, (posix_ipc.MessageQueue, RingStranger)):
            self._queue.close()

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_SOCKETS = {
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "unix-seqpacket": (socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "unix-dgram": (socket.AF_UNIX, socket.SOCK_DGRAM),
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
}


def bare_socket(scheme: str) -> socket.socket:
    """A socket of the type that a scheme uses."""
    return socket.socket(*_SOCKETS[scheme])


def where(scheme: str, name: str) -> Any:
    """The name as connect(2) and bind(2) take it."""
    if scheme != "tcp":
        return "\0" + name[1:] if name.startswith("@") else name
    host, _, port = name.rpartition(":")
    return host, int(port)


def connected(scheme: str, name: str) -> socket.socket:
    """A bare socket that is connected to a name."""
    sock = bare_socket(scheme)
    try:
        sock.connect(where(scheme, name))
    except BaseException:
        sock.close()
        raise
    return sock
