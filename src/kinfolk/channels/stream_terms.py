"""A connected stream socket, and what was agreed for it: the ground of `unix:` and `tcp:`.

Rules:
1. Who is at the other end is asked before a byte goes either way: SO_PEERCRED on Unix sockets, in both directions, for
   anybody may listen at an abstract name. TCP does not know it, so its mechanism takes no pickles.
2. Sizes of kernel buffers that are asked for are got, or LimitReached names the limit; the kernel would quietly give less.
3. Both directions of a connection share one socket; the last of them closes it.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Self

from kinfolk.channels.address import Address, Codec
from kinfolk.channels.contract import DEFAULT_MAX_MESSAGE, Limits
from kinfolk.channels.message_reader import MessageReader
from kinfolk.channels.stream_reader import StreamReader
from kinfolk.channels.trust import check_peer, peer_of
from kinfolk.errors import Closed, LimitReached, Unsupported
from kinfolk.identity import Peer

_UNIX_NOTES = (
    "A receiver reads ahead: what it had read is lost with it, and a forked copy can't go on after it (ForkedCopy).",
    "Each sender has a connection and a buffer of its own in the kernel: capacity is that of one.",
    "The death of a peer is seen when the kernel has torn it down: usually within 1 ms, later for a process of some GiB.",
)
_TCP_NOTES = (
    "A receiver reads ahead: what it had read is lost with it, and a forked copy can't go on after it (ForkedCopy).",
    "Pickles are refused, for TCP does not say who the peer is.",
    "A peer that ends without having read everything resets the connection, and its own last messages may be lost.",
    "The buffers grow with use, capacity is their bound; a full one may take a little more when the kernels have talked.",
    "A peer whose machine or network vanished is noticed within a minute, by keepalive.",
)

# After so many seconds of silence ask so often, at such intervals (tcp(7)).
_KEEPALIVE = (socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)


@dataclass(frozen=True, slots=True)
class Terms:
    """What an address says about its streams."""

    mechanism: str
    #: the address, for messages
    subject: str
    codec: Codec
    raw: bool
    max_message: int
    capacity: int | None
    #: to what size the buffers of TCP grow; read beforehand, as no descriptor may be left once a connection is there
    largest_buffers: int

    @classmethod
    def of(cls, address: Address) -> Self:
        """Read an address with its defaults filled in. Raises Unsupported for lifetime="name"."""
        options = address.options
        if options.lifetime == "name":
            raise Unsupported(
                "a socket has no life of its own",
                subject=str(address),
                why="what is sent lies in the connection, and ends with its two ends",
                remedy="leave lifetime out, or use mq:, sysv-mq: or file: for messages that outlive everybody",
            )
        assert options.codec is not None
        return cls(
            address.scheme,
            str(address),
            options.codec,
            options.framing == "raw",
            options.max_message or DEFAULT_MAX_MESSAGE,
            options.capacity,
            _largest_buffers() if address.scheme == "tcp" else 0,
        )

    def limits(self, sock: socket.socket, *, senders: str) -> Limits:
        """The limits of an end, its buffers read from the kernel."""
        unix = sock.family == socket.AF_UNIX
        capacity = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        if not unix:
            capacity += sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            if self.capacity is None:
                capacity = self.largest_buffers
        return Limits(
            self.mechanism,
            max_message=self.max_message,
            capacity=capacity,
            senders=senders,
            receivers="one",
            descriptors=unix,
            empty_messages=not self.raw,
            notes=_UNIX_NOTES if unix else _TCP_NOTES,
        )

    def reader(self, sock: socket.socket, ahead: bytes = b"") -> MessageReader:
        """A reader for a socket on these terms."""
        return StreamReader(sock, self.max_message, self.subject, raw=self.raw, ahead=ahead)

    def set_capacity(self, sock: socket.socket) -> None:
        """Size the kernel's buffers as asked; TCP wants it before connect(2) or listen(2). Raises LimitReached."""
        if self.capacity is None:
            return
        for option, name in (
            (socket.SO_SNDBUF, "net.core.wmem_max"),
            (socket.SO_RCVBUF, "net.core.rmem_max"),
        ):
            # More than an int takes is more than any limit.
            sock.setsockopt(socket.SOL_SOCKET, option, min(self.capacity, 2**31 - 1))
            # The kernel doubles the number, for its own overhead (socket(7)).
            if (got := sock.getsockopt(socket.SOL_SOCKET, option) // 2) < self.capacity:
                raise LimitReached(
                    f"the socket can't buffer {self.capacity} bytes",
                    subject=self.subject,
                    why=f"the kernel gives {got}",
                    remedy=f"ask for less, or raise it: sysctl {name}={self.capacity}",
                    code=errno.ENOBUFS,
                )


class Stream:
    """A connected socket, owned by the directions that joined it."""

    __slots__ = ("_members", "_spare", "is_unix", "peer", "sock")

    def __init__(self, sock: socket.socket, terms: Terms) -> None:
        """Take over ``sock``. Raises UntrustedPeer, and then has closed it."""
        self.sock = sock
        self.is_unix = sock.family == socket.AF_UNIX
        self.peer: Peer | None = None
        self._members: list[None] = []
        self._spare: socket.socket | None = None
        try:
            sock.setblocking(False)
            if self.is_unix:
                self.peer = peer_of(sock)
                check_peer(self.peer, terms.codec, terms.subject)
                terms.set_capacity(sock)
            else:
                _set_up_tcp(sock)
        except BaseException:
            sock.close()
            raise

    def join(self) -> Stream:
        """One direction more."""
        self._members.append(None)
        return self

    def fileno(self) -> int:
        """The number of the socket. Raises Closed."""
        number = self.sock.fileno()
        if number < 0:
            raise Closed("this end is closed")
        return number

    def number_to_pass(self) -> int:
        """A descriptor for one of two directions that are passed on together: a process can't be given one twice."""
        if len(self._members) < 2:
            return self.fileno()
        if self._spare is None:
            self._spare = self.sock.dup()
        return self._spare.fileno()

    def leave(self) -> None:
        """One direction less. Both may leave at once, in two threads: a list is popped whole, and closing twice is nothing."""
        self._members.pop()
        if not self._members:
            self.sock.close()
            if self._spare is not None:
                self._spare.close()


def _largest_buffers() -> int:
    """To what size the kernel lets both buffers of a connection grow by themselves (tcp(7))."""
    sizes = 0
    for name in ("tcp_wmem", "tcp_rmem"):
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            sizes += int(file.read().split()[2])
    return sizes


def _set_up_tcp(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
