"""``unix-seqpacket:`` — Unix sockets that keep messages whole, between processes of one machine (unix(7)).

    unix-seqpacket:/run/app.sock    a socket file, made with its mode and removed by its last holder
    unix-seqpacket:@app             an abstract name, without a file
    unix-seqpacket:                 no name: a socketpair

Boundaries, order, backpressure, the end of either side, who the peer is, and descriptors, all from the kernel. Any number of
forked copies may send and receive on one connection, and each packet goes to one of them; a receiver at a name
(`open_receiver`) takes in many connections, and is in one process at a time. See `kinfolk.channels.packet_transport` for
what travels, `fan_in` for the many, `socket_names` for the names.

Options: mode, capacity (SO_SNDBUF), max_message, codec, framing, lifetime (peers only).

With framing="raw" C programs are the peers, one packet a message. One without bytes looks like the end to most of them,
so none is sent.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from kinfolk.channels import socket_names
from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    Duplex,
    Limits,
    ListenTransport,
    Mechanism,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.fan_in import FanIn
from kinfolk.channels.listening import BACKLOG, Door
from kinfolk.channels.packet_limits import packet_limits, set_options
from kinfolk.channels.packet_reader import PacketReader
from kinfolk.channels.packet_transport import PacketReceiver, PacketSender
from kinfolk.channels.stream_terms import Stream, Terms
from kinfolk.interest import Interest, Steps, ready


@dataclass(frozen=True, slots=True)
class PacketTerms(Terms):
    """What an address says about its connections."""

    def limits(self, sock: socket.socket, *, senders: str) -> Limits:
        """The limits of a channel whose receiver is over many connections."""
        return packet_limits(self.mechanism, sock, self.max_message, raw=self.raw, receivers="one")

    def reader(self, sock: socket.socket, ahead: bytes = b"") -> PacketReader:
        """A reader for a connection on these terms."""
        return PacketReader(sock, self.max_message, self.subject, raw=self.raw)

    def set_capacity(self, sock: socket.socket) -> None:
        """Prepare a connected socket: its buffer, and that it tells who sent each packet."""
        set_options(sock, self.capacity, self.subject)

    def connection_limits(self, sock: socket.socket) -> Limits:
        """The limits of one connection."""
        return packet_limits(self.mechanism, sock, self.max_message, raw=self.raw)

    def receiver(self, sock: socket.socket) -> PacketReceiver:
        """The receiving direction of a connection."""
        return PacketReceiver(sock, self.connection_limits(sock), self.subject, raw=self.raw)

    def sender(self, sock: socket.socket) -> PacketSender:
        """The sending direction of a connection."""
        return PacketSender(sock, self.connection_limits(sock), self.subject, raw=self.raw)

    def duplex(self, sock: socket.socket, second: socket.socket | None = None) -> Duplex:
        """Both directions of a connection, each with a descriptor of its own; takes over both, whatever happens."""
        try:
            second = second or sock.dup()
            return Duplex(self.receiver(sock), self.sender(second))
        except BaseException:
            sock.close()
            if second is not None:
                second.close()
            raise


class UnixSeqpacketMechanism(Mechanism):
    """Unix sockets of type SOCK_SEQPACKET."""

    scheme = "unix-seqpacket"
    options = frozenset({"codec", "framing", "mode", "capacity", "max_message", "lifetime"})

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the name and receive from everybody who connects to it."""
        return FanIn((yield from _open_door(address, PacketTerms.of(address))))

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver to listen at the name, and connect."""
        terms = PacketTerms.of(address)
        sock = yield from _connect(address, terms)
        limits = terms.limits(sock, senders="many")  # the receiver's: one process accepts
        return PacketSender(sock, limits, terms.subject, raw=terms.raw)

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """A socketpair; with a name, a receiver there and its first sender."""
        if not address.name:
            terms = PacketTerms.of(address)
            one, other = _socketpair(terms)
            return terms.receiver(one), terms.sender(other)
        receiver = yield from self.open_receiver(address)
        try:
            return receiver, (yield from self.open_sender(address))
        except BaseException:
            receiver.close()
            raise

    def connect(self, address: Address) -> Steps[Duplex]:
        """Wait for somebody to listen at the name, and connect."""
        terms = PacketTerms.of(address)
        return terms.duplex((yield from _connect(address, terms)))

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Make the name and listen there."""
        terms = PacketTerms.of(address)
        return SeqpacketListener((yield from _open_door(address, terms)), terms)

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """A socketpair."""
        if address.name:
            raise self._lacks("a pair has no name", address)
        terms = PacketTerms.of(address)
        one, other = _socketpair(terms)
        try:
            here = terms.duplex(one)
        except BaseException:
            other.close()
            raise
        try:
            return ready((here, terms.duplex(other)))
        except BaseException:
            here.close()
            raise


class SeqpacketListener(ListenTransport):
    """Gives connections."""

    def __init__(self, door: Door, terms: PacketTerms) -> None:
        """Take over ``door``."""
        self._door, self._terms = door, terms
        self.limits = terms.connection_limits(door.sock)

    @property
    def refused(self) -> int:  # type: ignore[override]
        """Connections of users who may not."""
        return self._door.refused

    def accept(self) -> Steps[Duplex]:
        """The next connection."""
        while (sockets := self._admitted()) is None:
            yield Interest(readable=(self._door.fileno(),))
        return self._terms.duplex(*sockets)

    def _admitted(self) -> tuple[socket.socket, socket.socket] | None:
        """The next connection, twice. Raises OSError, and then it still waits."""
        # What was accepted can't go back into the backlog: so the second descriptor is got before, and replaced.
        second = self._door.sock.dup()
        try:
            stream = self._door.admit()
            if stream is not None:
                os.dup2(stream.sock.fileno(), second.fileno(), inheritable=False)
                return stream.sock, second
        except BaseException:
            second.close()
            raise
        second.close()
        return None

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self._door.fileno()

    def close(self) -> None:
        """Stop listening and remove the name, if no forked copy goes on."""
        self._door.close()

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._terms.subject


def _open_door(address: Address, terms: PacketTerms) -> Steps[Door]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Accepted sockets inherit that they want credentials, so that no packet comes before they do.
        set_options(sock, terms.capacity, terms.subject)
        name = yield from socket_names.bind(sock, address, backlog=BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Door(sock, terms, name)


def _connect(address: Address, terms: PacketTerms) -> Steps[socket.socket]:
    def attempt(where: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            set_options(sock, terms.capacity, terms.subject)
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return sock

    return Stream((yield from socket_names.connecting(address, attempt)), terms).sock


def _socketpair(terms: PacketTerms) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        return Stream(one, terms).sock, Stream(other, terms).sock
    except BaseException:
        one.close()
        other.close()
        raise


MECHANISM: Mechanism = UnixSeqpacketMechanism()
