"""Messages over a connected stream socket: what `unix:` and `tcp:` share.

    small message   one chunk, FIRST and LAST, in one sendmsg(2) that the kernel takes whole or not at all
    larger message  chunks of up to 1 MiB, then an empty LAST one: it alone commits the message, so that one which
                    is given up in the middle of whatever chunk can still be aborted
    framing="raw"   bare bytes, as socat and C programs write them

Rules:
1. Sockets are non-blocking and never raise SIGPIPE; waiting is the driver's (`kinfolk.waiting`).
2. A chunk that is given up half sent, or that the kernel refuses in the middle, is finished, and its message aborted, before
   the next one begins; raw bytes are finished. What was refused at its first byte leaves no trace.
3. One process writes and one reads a stream at a time: a forked copy that tries meets the other's `Claim`, and two ends
   of one process meet there too.
4. A process that ends in the middle of a larger message leaves the stream *torn* for its forked copies, which must not write
   into the half chunk. The socket itself remembers that, in an option which means nothing here (SO_OOBINLINE: nobody sends
   urgent data), as everything else dies with the process.
5. A copy may not read on where another process may have read ahead: see `stream_reader`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

from kinfolk.ancillary import Rights, rights
from kinfolk.channels.claims import RECEIVING, SENDING, Claim
from kinfolk.channels.contract import (
    Buffer,
    Duplex,
    Message,
    Passed,
    ReceiveTransport,
    SendTransport,
    sending_ended,
)
from kinfolk.channels.framing import HEADER, MAX_CHUNK, Chunker
from kinfolk.channels.kernel_buffers import bytes_unread, bytes_waiting
from kinfolk.channels.message_reader import pass_ahead
from kinfolk.channels.stream_reader import LOST
from kinfolk.channels.stream_terms import Stream, Terms
from kinfolk.errors import (
    BrokenChannel,
    Busy,
    KinfolkError,
    LimitReached,
)
from kinfolk.identity import Peer
from kinfolk.interest import Interest, Steps

_FLAGS = int(socket.MSG_NOSIGNAL)
_MOST_PIECES = 1024  # IOV_MAX
_SMALL_UNIX = 32 << 10  # one socket buffer of the kernel's holds it (unix_stream_sendmsg)
_SMALL_TCP = 4 << 10  # surely fits where poll(2) says that there is room


class StreamSender(SendTransport):
    """The sending direction of a connected socket."""

    def __init__(
        self, stream: Stream, terms: Terms, *, one_way: bool, senders: str = "one"
    ) -> None:
        """Join ``stream``; ``one_way`` if nothing is received there, so that the peer's end is our end."""
        self._stream, self._terms, self._one_way = stream.join(), terms, one_way
        self._sock = stream.sock
        self.limits = terms.limits(stream.sock, senders=senders)
        self._chunker = Chunker()
        self._claim = Claim(stream.sock.fileno(), SENDING, terms.subject, sole=True)
        self._room = Interest(writable=(stream.sock.fileno(),))
        self._pid = 0  # of the process that has sent here
        self._rest = b""  # of a chunk (or of raw bytes) that was given up half sent
        self._abort_owed = self._eof = False
        self._in_doubt = (
            False  # how much of a write went out, after a KeyboardInterrupt in the middle
        )
        self._poll: select.poll | None = None
        room = stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 - 64
        self._small = min(_SMALL_UNIX, room) - HEADER.size
        if not stream.is_unix:
            self._small = _SMALL_TCP
            self._poll = select.poll()
            self._poll.register(stream.sock.fileno(), select.POLLOUT | select.POLLRDHUP)

    def announce(self) -> None:
        """Tell the receiver that a sender has come, with a chunk that means nothing else."""
        if not self._terms.raw:
            with contextlib.suppress(OSError):  # the first message meets it too
                self._sock.sendmsg([self._chunker.abort()], (), _FLAGS)

    def send(self, message: Message) -> Steps[None]:
        """Send one message."""
        self._begin()
        riding = rights(message.descriptors, self._terms.subject)
        if self._rest or self._abort_owed:
            yield from self._settle()
        if self._terms.raw:
            yield from self._write(message.parts, riding)
        elif self._is_small(message):
            yield from self._write_when_room(self._chunker.single(message), riding)
        else:
            yield from self._send_large(message, riding)

    def try_send(self, message: Message) -> bool:
        """Send a small message, if nothing is owed."""
        if self._rest or self._abort_owed or self._terms.raw or not self._is_small(message):
            return False
        self._begin()
        riding = rights(message.descriptors, self._terms.subject)
        return self._write_whole(self._chunker.single(message), riding)

    def _is_small(self, message: Message) -> bool:
        return message.size <= self._small and len(message.parts) < _MOST_PIECES

    def _begin(self) -> None:
        self._claim.take()
        if self._pid != os.getpid():
            self._begin_in_this_process()
        if self._in_doubt:
            self._break_off()
            raise BrokenChannel(
                "the stream was left in the middle of a message",
                subject=self._terms.subject,
                why="an earlier call was interrupted while it wrote",
                remedy="connect again",
            )
        if self._eof:
            raise sending_ended(self._terms.subject)

    def _begin_in_this_process(self) -> None:
        self._rest, self._abort_owed = b"", False  # a copy's: they are the original's to settle
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE):
            raise BrokenChannel(
                "the stream was left in the middle of a message",
                subject=self._terms.subject,
                why="another process that sent here gave up or ended there",
                remedy="connect again",
            )
        self._pid = os.getpid()

    def _break_off(self) -> None:
        with contextlib.suppress(OSError):  # the peer may have gone already
            self._sock.shutdown(socket.SHUT_RDWR)

    def _torn(self, torn: bool) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, torn)

    def _send_large(self, message: Message, riding: Rights) -> Steps[None]:
        self._torn(True)
        try:
            for pieces in self._chunker.chunks(message, MAX_CHUNK, committed=True):
                if len(pieces) > 1:
                    yield from self._write(pieces, riding)
                    self._abort_owed, riding = True, ()
                else:
                    yield from self._write_when_room(pieces)
        except (GeneratorExit, KinfolkError, OSError):
            self._abort_owed = self._abort_owed or bool(self._rest)
            self._torn(self._abort_owed)
            raise
        self._abort_owed = False
        self._torn(False)

    def _settle(self) -> Steps[None]:
        """Bring to an end what an earlier call left half done."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield from self._write([rest], (), owed=True)
        if self._abort_owed:
            yield from self._write_when_room([self._chunker.abort()])
            self._abort_owed = False
            self._torn(False)

    def _write_when_room(self, pieces: Sequence[Buffer], riding: Rights = ()) -> Steps[None]:
        while not self._write_whole(pieces, riding):
            yield self._room

    def _write_whole(self, pieces: Sequence[Buffer], riding: Rights) -> bool:
        """Write what the kernel takes whole or not at all; False when there is no room now."""
        if self._poll is not None and not self._has_room():
            return False
        try:
            sent = self._sock.sendmsg(pieces, riding, _FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _explained(error, self._terms.subject) from None
        if self._poll is not None and sent < sum(map(len, pieces)):
            # TCP, against all expectation: nobody may go on behind half a chunk.
            self._break_off()
            raise BrokenChannel(
                "the kernel took half of a chunk",
                subject=self._terms.subject,
                remedy="connect again",
            )
        return True

    def _has_room(self) -> bool:
        assert self._poll is not None
        for _, events in self._poll.poll(0):
            if self._one_way and events & select.POLLRDHUP:
                raise BrokenChannel("the receiver has gone", subject=self._terms.subject)
            return bool(events & ~select.POLLRDHUP)
        return False

    def _write(
        self, pieces: Sequence[Buffer], riding: Rights, *, owed: bool = False
    ) -> Steps[None]:
        """Write what the kernel may take a part at a time; what rides goes with the first byte.

        Given up or refused, it keeps the rest if it is ``owed``: if some of it went out, now or earlier.
        """
        rest = [memoryview(piece) for piece in pieces]
        self._in_doubt = True
        try:
            while rest:
                try:
                    sent = self._sock.sendmsg(rest[:_MOST_PIECES], riding, _FLAGS)
                except BlockingIOError:
                    yield self._room
                    continue
                except OSError as error:
                    raise _explained(error, self._terms.subject) from None
                owed, riding = True, ()
                _skip(rest, sent)
        except (GeneratorExit, KinfolkError, OSError):
            if owed:  # a copy, for the caller may change his buffers from now on
                self._rest = b"".join(rest)
            self._in_doubt = False
            raise
        self._in_doubt = False  # not after a KeyboardInterrupt

    def fileno(self) -> int:
        """Writable when there is room; reports an error when the peer has gone."""
        return self._stream.fileno()

    def depth(self) -> int:
        """Bytes that the peer has not read (unix), or not confirmed (tcp); with the kernel's own overhead."""
        return bytes_unread(self._sock.fileno())

    def peer(self) -> Peer | None:
        """Who connected, or listened."""
        return self._stream.peer

    def send_eof(self) -> None:
        """shutdown(2): the peer gets EndOfChannel; the other direction goes on."""
        self._eof = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # the peer has gone, and knows all about ends
                raise

    def close(self) -> None:
        """Leave; the last of both directions closes the socket."""
        self._stream.leave()
        self._claim.closed()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same direction of the same socket in another process."""
        number = self._stream.number_to_pass()
        return rebuild_sender, (Passed(number), self._terms, self._one_way, self.limits.senders)


class StreamReceiver(ReceiveTransport):
    """The receiving direction of a connected socket."""

    def __init__(self, stream: Stream, terms: Terms, *, ahead: bytes = b"") -> None:
        """Join ``stream``; ``ahead`` is what another end had read of it."""
        self._stream, self._terms = stream.join(), terms
        self.limits = terms.limits(stream.sock, senders="one")
        self._reader = terms.reader(stream.sock, ahead)
        self.reads_ahead = not terms.raw
        self._claim = Claim(stream.sock.fileno(), RECEIVING, terms.subject, sole=True)
        self.interest = Interest(readable=(stream.sock.fileno(),))
        self._passed_on = False

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Incomplete messages that were dropped."""
        return self._reader.dropped

    def receive(self) -> Steps[Message]:
        """Read until a message is whole."""
        while (message := self.try_receive()) is None:
            yield self.interest
        return message

    def try_receive(self) -> Message | None:
        """Read what is here."""
        self._begin()
        return self._reader.next_message()

    def _begin(self) -> None:
        self._claim.take()
        if self._passed_on:
            raise Busy(
                "this end was passed on, with messages that it had read",
                subject=self._terms.subject,
                remedy="close it",
            )

    def buffered(self) -> bool:
        """Whether a message was read ahead."""
        return self._reader.buffered()

    def fileno(self) -> int:
        """Readable when bytes are there or the peer has gone."""
        return self._stream.fileno()

    def depth(self) -> int:
        """Bytes in the socket, headers included."""
        return bytes_waiting(self._stream.fileno())

    def peer(self) -> Peer | None:
        """Who connected, or listened."""
        return self._stream.peer

    def close(self) -> None:
        """Leave; the last of both directions closes the socket."""
        self._reader.discard()
        self._stream.leave()
        self._claim.closed()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same direction of the same socket in another process, with what was read ahead."""
        ahead = pass_ahead(self._reader, self._terms.subject)
        self._passed_on = bool(ahead)
        return rebuild_receiver, (Passed(self._stream.fileno()), self._terms, ahead)

    def keep(self) -> None:
        """Go on with what was read ahead."""
        self._passed_on = False
        self._reader.keep_ahead()


def duplex(stream: Stream, terms: Terms) -> Duplex:
    """Both directions of a connection."""
    return Duplex(StreamReceiver(stream, terms), StreamSender(stream, terms, one_way=False))


def rebuild_sender(fd: int, terms: Terms, one_way: bool, senders: str) -> StreamSender:
    """A sender around a descriptor that came from another process."""
    stream = Stream(socket.socket(fileno=fd), terms)
    return StreamSender(stream, terms, one_way=one_way, senders=senders)


def rebuild_receiver(fd: int, terms: Terms, ahead: bytes) -> StreamReceiver:
    """A receiver around a descriptor that came from another process."""
    return StreamReceiver(Stream(socket.socket(fileno=fd), terms), terms, ahead=ahead)


def _skip(pieces: list[memoryview], count: int) -> None:
    """Take the first ``count`` bytes off."""
    done = 0
    while done < len(pieces) and count >= len(pieces[done]):
        count -= len(pieces[done])
        done += 1
    del pieces[:done]
    if count:
        pieces[0] = pieces[0][count:]


def _explained(error: OSError, subject: str) -> OSError:
    if error.errno == errno.ETOOMANYREFS:
        return LimitReached(
            "no more descriptors can be on their way",
            subject=subject,
            why="this user has as many in sockets, unreceived, as a process may open",
            remedy="let the peers receive them first, or raise the limit: ulimit -n",
        )
    if error.errno in LOST:
        return BrokenChannel(
            "the connection was lost",
            subject=subject,
            why=os.strerror(error.errno),
            remedy="connect again",
        )
    return error
