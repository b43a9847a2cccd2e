"""``unix:`` — stream sockets of the Unix domain, between processes of one machine (unix(7)).

    unix:/run/app.sock    a socket file, made with its mode and removed by its last holder
    unix:@app             an abstract name, without a file; anybody of this network namespace can connect to it
    unix:                 no name: a socketpair

Both ways between two (`listen`, `connect`, `pair`), or one way from many (`open_receiver`, `open_sender`, `channel`). Who is
at the other end the kernel says (`peer`), and descriptors can be passed (`send_fds`). See
`kinfolk.channels.socket_transport` for what travels, `fan_in` for the many, `socket_names` for the names.

Options: mode, capacity (SO_SNDBUF), max_message, codec, framing, lifetime (peers only).
"""

from __future__ import annotations

import socket

from kinfolk.channels import socket_names
from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    Duplex,
    ListenTransport,
    Mechanism,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.fan_in import FanIn
from kinfolk.channels.listening import BACKLOG, Door, StreamListener
from kinfolk.channels.socket_transport import StreamReceiver, StreamSender, duplex
from kinfolk.channels.stream_terms import Stream, Terms
from kinfolk.interest import Steps, ready


class UnixStreamMechanism(Mechanism):
    """Unix stream sockets."""

    scheme = "unix"
    options = frozenset({"codec", "framing", "mode", "capacity", "max_message", "lifetime"})

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the name and receive from everybody who connects to it."""
        return FanIn((yield from _open_door(address)))

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver to listen at the name, and connect."""
        terms = Terms.of(address)
        stream = yield from _connect(address, terms)
        sender = StreamSender(stream, terms, one_way=True, senders="many")
        sender.announce()
        return sender

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """A socketpair; with a name, a receiver there and its first sender."""
        if not address.name:
            terms = Terms.of(address)
            one, other = _socketpair(terms)
            return StreamReceiver(one, terms), StreamSender(other, terms, one_way=True)
        receiver = yield from self.open_receiver(address)
        try:
            return receiver, (yield from self.open_sender(address))
        except BaseException:
            receiver.close()
            raise

    def connect(self, address: Address) -> Steps[Duplex]:
        """Wait for somebody to listen at the name, and connect."""
        terms = Terms.of(address)
        return duplex((yield from _connect(address, terms)), terms)

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Make the name and listen there."""
        return StreamListener((yield from _open_door(address)))

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """A socketpair."""
        if address.name:
            raise self._lacks("a pair has no name", address)
        terms = Terms.of(address)
        one, other = _socketpair(terms)
        return ready((duplex(one, terms), duplex(other, terms)))


def _open_door(address: Address) -> Steps[Door]:
    terms = Terms.of(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        terms.set_capacity(sock)
        name = yield from socket_names.bind(sock, address, backlog=BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Door(sock, terms, name)


def _connect(address: Address, terms: Terms) -> Steps[Stream]:
    return Stream((yield from socket_names.connecting(address, _attempt)), terms)


def _attempt(where: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _socketpair(terms: Terms) -> tuple[Stream, Stream]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        return Stream(one, terms), Stream(other, terms)
    except BaseException:
        one.close()
        other.close()
        raise


MECHANISM: Mechanism = UnixStreamMechanism()
