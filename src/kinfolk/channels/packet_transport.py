"""Messages over sockets that keep packets whole: what `unix-seqpacket:` and `unix-dgram:` share.

One message is one packet, which the kernel delivers whole or not at all, to one of those who receive. So a process
that is killed leaves nothing half done, and any number of forked copies may send and receive on one socket. See
`kinfolk.channels.packet_format` for what one looks like.

With framing="raw" a packet is the bare bytes of a message, as C programs send them.

Rules:
1. The packet of a large message is padded, so that the socket buffer holds few of them: memory in flight stays bounded. It is
   copied only once the buffer has drained; a full channel costs no memory.
2. Who is there, where the socket does not tell, is a `Presence`'s to say; senders need not ask, for the kernel refuses
   what is sent to a socket that nobody has.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

from kinfolk import memfd
from kinfolk.ancillary import rights
from kinfolk.channels.contract import (
    Buffer,
    Limits,
    Message,
    Passed,
    ReceiveTransport,
    SendTransport,
    sending_ended,
)
from kinfolk.channels.kernel_buffers import bytes_unread, bytes_waiting
from kinfolk.channels.packet_format import HEADER, write_header
from kinfolk.channels.packet_limits import (
    LARGE_SHARE,
    buffer_size,
    largest_inline,
)
from kinfolk.channels.packet_reader import PacketReader
from kinfolk.channels.presence import Presence
from kinfolk.channels.socket_names import SocketName
from kinfolk.channels.trust import peer_of
from kinfolk.errors import (
    BrokenChannel,
    Closed,
    LimitReached,
)
from kinfolk.identity import Peer
from kinfolk.interest import Interest, Steps

#: Up to here the kernel makes a packet of single pages, which it always finds.
_SINGLE_PAGES = 1 << 16

_MOST_PIECES = 1000  # sendmsg(2) takes IOV_MAX, 1024

_SEND = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)

_RECEIVER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN)


class PacketSender(SendTransport):
    """The sending direction of a packet socket."""

    def __init__(
        self,
        sock: socket.socket,
        limits: Limits,
        subject: str,
        *,
        raw: bool,
        presence: Presence | None = None,
        peer: Peer | None = None,
    ) -> None:
        """Take over the socket, and the ``presence`` that tells receivers of this end where the socket does not."""
        self._socket, self.limits, self._subject = sock, limits, subject
        self._raw, self._presence = raw, presence
        self._peer = peer or _connected_peer(sock)
        self._inline = largest_inline(sock)
        self._eof = False
        sock.setblocking(False)

    def send(self, message: Message) -> Steps[None]:
        """Send one message as one packet."""
        self._check_not_ended()
        descriptors = message.descriptors
        if self._raw:
            yield from self._send_packet(list(message.parts), descriptors)
            return
        size = message.size
        header = write_header(message, size)
        if size <= self._inline:
            try:
                yield from self._send_packet([header, *message.parts], descriptors)
                return
            except OSError as error:
                # Memory is so fragmented that there is no run of pages for a packet as long as this.
                if error.errno != errno.ENOBUFS or size < _SINGLE_PAGES:
                    raise
        yield from self._send_large(message, size)

    def try_send(self, message: Message) -> bool:
        """Send a message that is a packet of its own, if there is room."""
        self._check_not_ended()
        size = message.size
        pieces: Sequence[Buffer] = message.parts
        if not self._raw:
            if size > self._inline:
                return False
            pieces = [write_header(message, size), *pieces]
        if message.descriptors or len(pieces) > _MOST_PIECES:
            return False
        try:
            self._socket.sendmsg(pieces, (), _SEND)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return False
            self._explain(error)
            raise

    def _send_large(self, message: Message, size: int) -> Steps[None]:
        while not self._is_drained():
            yield Interest(writable=(self._socket.fileno(),))
        header = write_header(message, size, large=True)
        body = memfd.sealed(message.parts, self._subject)
        try:
            padding = bytes(max(0, buffer_size(self._socket) // LARGE_SHARE - HEADER.size))
            riding = (body.fileno(), *message.descriptors)
            yield from self._send_packet([header, padding], riding)
        finally:
            body.close()

    def _is_drained(self) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLOUT)
        return bool(poll.poll(0))

    def _send_packet(self, pieces: list[Buffer], descriptors: Sequence[int]) -> Steps[None]:
        if len(pieces) > _MOST_PIECES:
            pieces = [b"".join(pieces)]
        riding = rights(descriptors, self._subject)
        while True:
            try:
                self._socket.sendmsg(pieces, riding, _SEND)
                return
            except BlockingIOError:
                yield Interest(writable=(self._socket.fileno(),))
            except OSError as error:
                self._explain(error)
                raise

    def _explain(self, error: OSError) -> None:
        if error.errno in _RECEIVER_GONE:
            raise BrokenChannel(
                "every receiver has gone",
                subject=self._subject,
                remedy="open a new channel once a receiver is there",
            ) from error
        if error.errno == errno.ETOOMANYREFS:
            raise LimitReached(
                "too many descriptors are on their way",
                subject=self._subject,
                why="those that this user has sent and nobody has received count against the limit on open files",
                remedy="let the receivers catch up, or raise it: ulimit -n",
                code=error.errno,
            ) from error

    def _check_not_ended(self) -> None:
        if self._eof:
            raise sending_ended(self._subject)

    def send_eof(self) -> None:
        """End this direction, for every copy of the socket: the peer gets EndOfChannel."""
        self._eof = True
        if self._presence is not None:
            self._presence.leave()
        self._socket.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        """Writable when there is room, or no receiver any more."""
        return _number(self._socket, self._subject)

    def peer(self) -> Peer | None:
        """Who connected or listened, where the kernel says so."""
        return self._peer

    def depth(self) -> int:
        """Bytes sent and not yet received, with what the kernel adds to each packet."""
        return bytes_unread(self._socket.fileno())

    def close(self) -> None:
        """Close; what was sent is still delivered."""
        self._socket.close()
        if self._presence is not None:
            self._presence.leave()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same socket in another process."""
        presence = passed_presence(self._presence)
        arguments = self.limits, self._subject, self._raw, self._peer
        return rebuild_sender, (Passed(self._socket.fileno()), *presence, *arguments)


class PacketReceiver(ReceiveTransport):
    """The receiving direction of a packet socket."""

    def __init__(
        self,
        sock: socket.socket,
        limits: Limits,
        subject: str,
        *,
        raw: bool,
        presence: Presence | None = None,
        peer: Peer | None = None,
        name: SocketName | None = None,
        connections: bool = False,
    ) -> None:
        """Take over the socket, the ``presence`` of the senders where the socket does not tell, and its ``name``.

        ``peer`` is who is at the other end, where the socket does not tell that either; ``connections``: see
        `PacketReader`.
        """
        self._socket, self.limits, self._subject = sock, limits, subject
        self._raw, self._presence, self._name = raw, presence, name
        self._peer = peer or _connected_peer(sock)
        self._reader = PacketReader(
            sock, limits.max_message, subject, raw=raw, connections=connections
        )
        gone = () if presence is None else (presence.fileno(),)
        self.interest = Interest(readable=(sock.fileno(),), hangup=gone)

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Messages that their senders may not send."""
        return self._reader.dropped

    def receive(self) -> Steps[Message]:
        """The next message."""
        while (message := self.try_receive()) is None:
            yield self.interest
        return message

    def try_receive(self) -> Message | None:
        """The next message, if one is here."""
        message = self._reader.next_message()
        if message is None and self._presence is not None and self._presence.others_gone():
            # What they sent before they left may have come since the socket was found empty.
            message = self._reader.next_message()
            if message is None and self._reader.dry and self._presence.end(self._found_somebody):
                self._reader.end()
        return message

    def _found_somebody(self) -> bool:
        assert self._presence is not None
        return not self._presence.others_gone() or bytes_waiting(self._socket.fileno()) > 0

    def hangups(self) -> tuple[int, ...]:
        """The presence of the senders."""
        return self.interest.hangup

    def fileno(self) -> int:
        """Readable when a packet is there."""
        return _number(self._socket, self._subject)

    def peer(self) -> Peer | None:
        """Who connected or listened, where the kernel says so."""
        return self._peer

    def depth(self) -> int | None:
        """Bytes that wait, headers included; None for datagrams, of which the kernel tells the next one's."""
        if self._socket.type != socket.SOCK_SEQPACKET:
            return None
        return bytes_waiting(self._socket.fileno())

    def unlink(self) -> None:
        """Remove the name of the socket."""
        if self._name is None:
            super().unlink()
        else:
            self._name.unlink()

    def close(self) -> None:
        """Close; the last holder of a named socket removes its name."""
        # In this order a sender that finds us present has connected to our socket, and nobody else's.
        if self._presence is not None:
            self._presence.leave()
        self._socket.close()
        if self._name is not None:
            self._name.release()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same socket in another process."""
        presence = passed_presence(self._presence)
        arguments = self.limits, self._subject, self._raw, self._peer, self._name
        return rebuild_receiver, (Passed(self._socket.fileno()), *presence, *arguments)


def rebuild_sender(
    fd: int,
    presence: int | None,
    path: str | None,
    limits: Limits,
    subject: str,
    raw: bool,
    peer: Peer | None,
) -> PacketSender:
    """A sender around descriptors that came from another process."""
    present = None if presence is None else Presence.passed(presence, path)
    sock = socket.socket(fileno=fd)
    return PacketSender(sock, limits, subject, raw=raw, presence=present, peer=peer)


def rebuild_receiver(
    fd: int,
    presence: int | None,
    path: str | None,
    limits: Limits,
    subject: str,
    raw: bool,
    peer: Peer | None,
    name: SocketName | None,
) -> PacketReceiver:
    """A receiver around descriptors that came from another process."""
    present = None if presence is None else Presence.passed(presence, path)
    sock = socket.socket(fileno=fd)
    return PacketReceiver(sock, limits, subject, raw=raw, presence=present, peer=peer, name=name)


def passed_presence(presence: Presence | None) -> tuple[Passed | None, str | None]:
    """A presence among the arguments of `passable`."""
    return (None, None) if presence is None else (Passed(presence.fileno()), presence.path)


def _number(sock: socket.socket, subject: str) -> int:
    number = sock.fileno()
    if number < 0:
        raise Closed("this end is closed", subject=subject)
    return number


def _connected_peer(sock: socket.socket) -> Peer | None:
    """Who connected, or listened; the kernel does not say so of datagram sockets."""
    return peer_of(sock) if sock.type == socket.SOCK_SEQPACKET else None
