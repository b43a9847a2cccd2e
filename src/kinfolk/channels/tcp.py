"""``tcp:host:port`` — TCP, for comparison on one machine and for peers in other languages or elsewhere (tcp(7)).

    tcp:127.0.0.1:7000    tcp:[::1]:7000    tcp:db.example.org:7000
    tcp:127.0.0.1:0       a port that the kernel chooses: ask the listener for its `address`
    tcp:                  both ends in this process, on a loopback port (`channel`, `pair`)

TCP does not know who its peer is, so no pickle is ever taken or sent: codec msgpack, json or raw. Everybody who can reach the
port can connect, and nothing is encrypted: listen on loopback unless you know better.

Options: capacity (SO_SNDBUF, SO_RCVBUF), max_message, codec, framing, lifetime (peers only).

Rules:
1. A refused connection counts as a listener that is not there yet, and is tried again.
2. Trying again and again on loopback meets itself in the end, when the kernel picks the very port as the source of the attempt
   (RFC 9293, simultaneous open): such a connection is dropped.
3. A name is resolved in a thread of its own, as the resolver blocks; numbers are not.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import threading
from dataclasses import replace
from typing import Any

from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    Duplex,
    ListenTransport,
    Mechanism,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.fan_in import FanIn
from kinfolk.channels.listening import BACKLOG, Door, StreamListener, listening_at
from kinfolk.channels.socket_transport import StreamReceiver, StreamSender, duplex
from kinfolk.channels.stream_terms import Stream, Terms
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, Busy, UntrustedPeer
from kinfolk.interest import Interest, Steps

_NAME = re.compile(r"(\[(?P<six>[^]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})", re.ASCII)
_LOOPBACK = "127.0.0.1:0"
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between attempts

#: family and sockaddr
_Place = tuple[int, Any]


class TcpMechanism(Mechanism):
    """TCP."""

    scheme = "tcp"
    options = frozenset({"codec", "framing", "capacity", "max_message", "lifetime"})
    default_codec = "msgpack"

    def completed(self, address: Address) -> Address:
        """Refuses pickle."""
        if address.options.codec == "pickle":
            raise UntrustedPeer(
                "pickles are not exchanged over TCP",
                subject=str(address),
                why="loading a pickle runs whatever it says, and TCP does not know who sent it",
                remedy="use codec=msgpack or codec=json, or unix: on one machine",
            )
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Listen at a port and receive from everybody who connects to it."""
        if address.name.endswith(":0"):
            raise AddressError(
                "no sender could find a receiver whose port the kernel chooses",
                subject=str(address),
                remedy="name a port, or use kin.listen, which tells its address",
            )
        return FanIn((yield from _open_door(address)))

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver to listen at the port, and connect."""
        terms = Terms.of(address)
        stream = yield from _connect(address, terms)
        sender = StreamSender(stream, terms, one_way=True, senders="many")
        sender.announce()
        return sender

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """A connection used one way; with a port, a receiver there and its first sender."""
        if not address.name:
            terms = Terms.of(address)
            near, far = yield from _both_ends(address, terms)
            return StreamReceiver(near, terms), StreamSender(far, terms, one_way=True)
        receiver = yield from self.open_receiver(address)
        try:
            return receiver, (yield from self.open_sender(address))
        except BaseException:
            receiver.close()
            raise

    def connect(self, address: Address) -> Steps[Duplex]:
        """Wait for somebody to listen at the port, and connect."""
        terms = Terms.of(address)
        return duplex((yield from _connect(address, terms)), terms)

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Listen at a port."""
        return StreamListener((yield from _open_door(address)))

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two connected ends of this process."""
        terms = Terms.of(address)
        near, far = yield from _both_ends(address, terms)
        return duplex(near, terms), duplex(far, terms)


def _both_ends(address: Address, terms: Terms) -> Steps[tuple[Stream, Stream]]:
    door = yield from _open_door(address if address.name else replace(address, name=_LOOPBACK))
    try:
        there = replace(address, name=listening_at(door.sock, terms).removeprefix("tcp:"))
        near = yield from _connect(there, terms)
        try:
            return near, (yield from _admit(door, near))
        except BaseException:
            near.sock.close()
            raise
    finally:
        door.close()


def _admit(door: Door, near: Stream) -> Steps[Stream]:
    """The connection of ``near``, among those that others may have made."""
    while True:
        stream = door.admit()
        if stream is None:
            yield Interest(readable=(door.fileno(),))
        elif stream.sock.getpeername() == near.sock.getsockname():
            return stream
        else:
            stream.sock.close()


def _open_door(address: Address) -> Steps[Door]:
    terms = Terms.of(address)
    family, place = (yield from _resolve(address))[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections in TIME_WAIT do not keep a port; a live listener does.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        terms.set_capacity(sock)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _explained(error, address) from None
    return Door(sock, terms)


def _connect(address: Address, terms: Terms) -> Steps[Stream]:
    places = yield from _resolve(address)
    pause = _SHORTEST
    while True:
        for place in places:
            sock = yield from _attempt(place, address, terms)
            if sock is not None:
                return Stream(sock, terms)
        yield Interest(again_in=pause)
        pause = min(_LONGEST, pause * 2)


def _attempt(place: _Place, address: Address, terms: Terms) -> Steps[socket.socket | None]:
    """Connect; None when nobody listens there."""
    sock = socket.socket(place[0], socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        terms.set_capacity(sock)
        code = sock.connect_ex(place[1])
        if code == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLOUT)
            # On one machine it is there already: who may not wait (timeout=0) gets it too.
            if not poll.poll(0):
                yield Interest(writable=(sock.fileno(),))
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0 and sock.getsockname() != sock.getpeername():
            return sock
        if code not in (0, errno.ECONNREFUSED):
            raise _explained(OSError(code, os.strerror(code)), address)
    except BaseException:
        sock.close()
        raise
    sock.close()
    return None


# ── names ────────────────────────────────────────────────────────────────────────────────────


def _split(address: Address) -> tuple[str, int]:
    match = _NAME.fullmatch(address.name)
    host = match and (match["six"] or match["host"])
    if not match or not host or int(match["port"]) > 0xFFFF:
        raise AddressError(
            "this is no host and port",
            subject=str(address),
            remedy="write tcp:127.0.0.1:7000, tcp:[::1]:7000 or tcp:host:7000; 0.0.0.0 listens to every network",
        )
    return host, int(match["port"])


def _resolve(address: Address) -> Steps[list[_Place]]:
    host, port = _split(address)
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass  # a name, or nonsense
    question = _Question(host, port)
    try:
        while not question.answered:
            yield Interest(readable=(question.fileno(),))
    finally:
        question.leave()
    if question.error is not None:
        raise AddressError(
            f"the host {host!r} can't be found",
            subject=str(address),
            why=question.error.strerror or str(question.error),
            remedy="check the name, or give a number such as 127.0.0.1 or [::1]",
        )
    return question.places


class _Question:
    """A host name that a thread looks up; it may outlive who asked, until the resolver gives up."""

    def __init__(self, host: str, port: int) -> None:
        self.answered = False
        self.places: list[_Place] = []
        self.error: OSError | None = None
        self._lock = threading.Lock()  # of the descriptor, between the answer and who leaves
        self._bell: Descriptor | None = Descriptor(
            os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), "resolver"
        )
        threading.Thread(target=self._ask, args=(host, port), name="resolve", daemon=True).start()

    def _ask(self, host: str, port: int) -> None:
        try:
            self.places = _look_up(host, port, 0)
        except (OSError, UnicodeError) as error:  # a label of IDNA may be too long
            self.error = error if isinstance(error, OSError) else OSError(str(error))
        with self._lock:
            self.answered = True
            if self._bell is not None:
                os.eventfd_write(self._bell.fileno(), 1)

    def fileno(self) -> int:
        assert self._bell is not None
        return self._bell.fileno()

    def leave(self) -> None:
        with self._lock:
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()


def _look_up(host: str, port: int, flags: int) -> list[_Place]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, place) for family, _, _, _, place in found]


def _explained(error: OSError, address: Address) -> OSError | AddressError:
    if error.errno == errno.EADDRINUSE:
        return Busy(
            "somebody listens at this port",
            subject=str(address),
            remedy="choose another, 0 for any, or end the process that has it (ss -tlp)",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressError(
            "this machine has no such network address",
            subject=str(address),
            remedy="listen at 127.0.0.1, or at 0.0.0.0 for every network",
        )
    return error


MECHANISM: Mechanism = TcpMechanism()
