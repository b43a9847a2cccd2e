"""``unix-seqpacket:/path``, ``unix-seqpacket:@abstract`` — Unix sockets that keep messages whole.

    open_receiver / open_sender     many senders, each with a connection of its own, into one receiver
    listen / connect                connections, both ways
    channel, pair (no name)         one connection between a process and those that inherit or are passed an end

The mechanism to choose when in doubt: boundaries, order, exactly one receiver, backpressure, the end of either side, who
the peer is, and descriptors, all from the kernel. Any number of forked copies may send and receive on one connection;
each packet goes to one of them. See `kinfolk.channels.packet_transport` for what travels.

Options: mode, capacity (SO_SNDBUF), max_message, codec, framing, lifetime (peers only).

With framing="raw" a C program is the peer, one packet a message; one of no bytes is the end to most of them, so none is sent.
"""

from __future__ import annotations

import socket

from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    Duplex,
    Limits,
    ListenTransport,
    Mechanism,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.packet_limits import check_lifetime, packet_limits, set_options, socket_pair
from kinfolk.channels.packet_transport import PacketReceiver, PacketSender
from kinfolk.channels.socket_names import SocketName, bind, connecting
from kinfolk.channels.trust import check_peer, peer_of
from kinfolk.errors import AddressError, UntrustedPeer
from kinfolk.waiting import Interest, Steps, ready

#: Connections that may wait to be accepted; net.core.somaxconn may cut it down.
BACKLOG = 4096


class UnixSeqpacketMechanism(Mechanism):
    """Unix sockets of type SOCK_SEQPACKET."""

    scheme = "unix-seqpacket"
    options = frozenset({"codec", "framing", "capacity", "max_message", "mode", "lifetime"})

    def completed(self, address: Address) -> Address:
        """A connection lives as long as its peers, and no longer."""
        check_lifetime(address)
        return super().completed(address)

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver, and connect."""
        sock = yield from _connected(address)
        return PacketSender(sock, _limits(address, sock), str(address), raw=_is_raw(address))

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Two connected sockets without a name, or a receiver at a name and its first sender."""
        if address.name:
            receiver = yield from self.open_receiver(address)
            try:
                return receiver, (yield from self.open_sender(address))
            except BaseException:
                receiver.close()
                raise
        receiving, sending = socket_pair(address, socket.SOCK_SEQPACKET)
        limits, raw = _limits(address, sending), _is_raw(address)
        return (
            PacketReceiver(receiving, limits, str(address), raw=raw),
            PacketSender(sending, limits, str(address), raw=raw),
        )

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two connected sockets."""
        if address.name:
            raise AddressError(
                "a pair has no name", subject=str(address), remedy="use listen and connect"
            )
        one, other = socket_pair(address, socket.SOCK_SEQPACKET)
        return ready((_duplex(one, address), _duplex(other, address)))

    def connect(self, address: Address) -> Steps[Duplex]:
        """Wait for a listener, and connect."""
        return _duplex((yield from _connected(address)), address)

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Make the name and listen there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            set_options(sock, address)
            name = yield from bind(sock, address, backlog=BACKLOG)
            return SeqpacketListener(sock, name, address)
        except BaseException:
            sock.close()
            raise


class SeqpacketListener(ListenTransport):
    """A listening socket and its name."""

    def __init__(self, sock: socket.socket, name: SocketName, address: Address) -> None:
        self._socket, self._name, self._address = sock, name, address
        self.limits = _limits(address, sock)
        self.refused = 0

    def accept(self) -> Steps[Duplex]:
        """The next connection whose user may send what this end decodes."""
        while True:
            try:
                sock = self._socket.accept()[0]
            except BlockingIOError:
                yield Interest(readable=(self._socket.fileno(),))
                continue
            try:
                _prepare(sock, self._address)
            except UntrustedPeer:
                self.refused += 1
                continue
            return _duplex(sock, self._address)

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening; the last holder of the socket removes its name."""
        self._socket.close()
        self._name.release()

    @property
    def address(self) -> str:
        """The address as it was given."""
        return str(self._address)


def _connected(address: Address) -> Steps[socket.socket]:
    def attempt(where: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            set_options(sock, address)
            sock.connect(where)
        except BaseException:
            sock.close()
            raise
        return sock

    sock = yield from connecting(address, attempt)
    _prepare(sock, address)
    return sock


def _prepare(sock: socket.socket, address: Address) -> None:
    """Make sure of the peer of a connected socket, and of the buffer. Closes it on any error."""
    try:
        check_peer(peer_of(sock), address.options.codec or "pickle", str(address))
        set_options(sock, address)
    except BaseException:
        sock.close()
        raise


def _duplex(sock: socket.socket, address: Address) -> Duplex:
    limits, raw = _limits(address, sock), _is_raw(address)
    try:
        second = sock.dup()
    except BaseException:
        sock.close()
        raise
    return Duplex(
        PacketReceiver(sock, limits, str(address), raw=raw),
        PacketSender(second, limits, str(address), raw=raw),
    )


def _limits(address: Address, sock: socket.socket) -> Limits:
    return packet_limits(UnixSeqpacketMechanism.scheme, sock, address.options, presence=True)


def _is_raw(address: Address) -> bool:
    return address.options.framing == "raw"


MECHANISM = UnixSeqpacketMechanism()
