"""Messages over the descriptors of a pipe, anonymous or named: what `pipe:` and `fifo:` share.

The pipe is used in packet mode (O_DIRECT, pipe(7)): one write of at most PIPE_BUF bytes is one packet, and one read
takes one packet. So a chunk costs one system call on either side, the receiver never reads ahead (a killed one
loses at most the message it was assembling), and a receiver that takes over finds the next header where a packet begins.

    senders="many"  every chunk is one packet of at most PIPE_BUF bytes; any number of processes may send
    senders="one"   messages up to PIPE_BUF as above; larger ones in chunks of up to 1 MiB: the header is a packet, the
                    body follows as a plain stream (O_DIRECT off meanwhile). A second sending process raises Busy
    framing="raw"   bare bytes, as cat and C programs write them

Rules:
1. Descriptors are non-blocking; waiting is the driver's (`kinfolk.waiting`).
2. A send that is given up after its first chunk is aborted before the next one begins; a raw one is finished.
3. What a dead process left incomplete is dropped: its death is seen by a pidfd, and because it may have written until
   then, only after the pipe was read empty once more.
"""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Callable
from typing import Any

from kinfolk._native import try_read
from kinfolk.channels.claims import RECEIVING, SENDING, Claim
from kinfolk.channels.codec import RAW
from kinfolk.channels.contract import (
    Buffer,
    Limits,
    Message,
    Passed,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.framing import (
    ATOMIC_CHUNK,
    HEADER,
    MAX_CHUNK,
    PIPE_BUF,
    Assembler,
    Chunk,
    Chunker,
    pid_namespace,
)
from kinfolk.channels.pipe_size import bytes_waiting
from kinfolk.channels.presence import FifoEnd
from kinfolk.descriptors import Descriptor
from kinfolk.errors import CorruptChannel, EndOfChannel
from kinfolk.identity import is_dead, open_pidfd
from kinfolk.waiting import Interest, Steps

#: What one slot of a pipe holds.
_PAGE = os.sysconf("SC_PAGESIZE")


_DEAD = -1  # in place of a pidfd: the process had ended before one could be opened


class PipeSender(SendTransport):
    """The write end of a pipe."""

    def __init__(self, descriptor: Descriptor, limits: Limits, subject: str, *, raw: bool) -> None:
        """Take over the write end."""
        self._descriptor, self.limits, self._subject, self._raw = descriptor, limits, subject, raw
        self._alone = limits.senders == "one"
        self._chunker = Chunker()
        self._claim = Claim(descriptor.fileno(), SENDING, subject)
        self._rest = b""  # of a chunk (or of raw bytes) that was given up half written
        self._abort_owed = False
        os.set_blocking(descriptor.fileno(), False)
        self._packets(not raw)

    def send(self, message: Message) -> Steps[None]:
        """Write one message."""
        if self._alone and not self._raw:
            self._claim.take()
        yield from self._settle()
        if self._raw:
            parts = message.parts
            whole = parts[0] if len(parts) == 1 else b"".join(parts)
            yield from self._write_stream(whole, owed=False)
            return
        long = self._alone and message.size > ATOMIC_CHUNK
        begun = False
        try:
            for pieces in self._chunker.chunks(
                message, MAX_CHUNK if long else ATOMIC_CHUNK, committed=long
            ):
                yield from self._write_chunk(pieces)
                begun = True
            begun = False
        finally:
            self._abort_owed = self._abort_owed or begun

    def try_send(self, message: Message) -> bool:
        """Write a message that is one packet."""
        if message.size > ATOMIC_CHUNK or self._abort_owed or self._rest or self._raw:
            return False
        if self._alone:
            self._claim.take()
        try:
            os.writev(self._descriptor.fileno(), self._chunker.single(message))
        except BlockingIOError:
            return False
        return True

    def _write_chunk(self, pieces: list[Buffer]) -> Steps[None]:
        if sum(map(len, pieces)) <= PIPE_BUF:
            yield from self._write_packet(pieces)
            return
        yield from self._write_packet(pieces[:1])
        self._abort_owed = True  # unless the body goes out whole
        yield from self._write_body(pieces[1] if len(pieces) == 2 else b"".join(pieces[1:]))
        self._abort_owed = False

    def _write_body(self, body: Buffer) -> Steps[None]:
        """Whole pages as a plain stream, the odd bytes behind them as a packet.

        To a page that a stream has left half full the kernel adds what is written next, packet or not, and the
        receiver would find two headers in one read.
        """
        view = memoryview(body)
        pages = len(view) // _PAGE * _PAGE
        self._packets(False)
        try:
            yield from self._write_stream(view[:pages])
        except GeneratorExit:
            self._rest += view[pages:]
            raise
        self._packets(True)
        if len(view) > pages:
            yield from self._write_stream(view[pages:])

    def _settle(self) -> Steps[None]:
        """Bring to an end what an earlier call left half done."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield from self._write_stream(rest) if self._raw else self._write_body(rest)
        if self._abort_owed:
            yield from self._write_packet([self._chunker.abort()])
            self._abort_owed = False

    def _write_packet(self, pieces: list[Buffer]) -> Steps[None]:
        fd = self._descriptor.fileno()
        while True:
            try:
                os.writev(fd, pieces)
                return
            except BlockingIOError:
                yield Interest(writable=(fd,))

    def _write_stream(self, data: Buffer, *, owed: bool = True) -> Steps[None]:
        """Write bytes; what is unwritten when it is given up is owed, unless nothing was written and it was not before."""
        fd = self._descriptor.fileno()
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:
                    yield Interest(writable=(fd,))
        except GeneratorExit:
            if owed or len(rest) < len(data):
                self._rest = bytes(rest)  # a copy: the caller may change his buffer from now on
            raise

    def _packets(self, on: bool) -> None:
        fd = self._descriptor.fileno()
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
        if wanted != flags:
            fcntl.fcntl(fd, fcntl.F_SETFL, wanted)

    def fileno(self) -> int:
        """Writable when there is room; reports an error when no receiver is left."""
        return self._descriptor.fileno()

    def depth(self) -> int:
        """Bytes in the pipe, headers included."""
        return bytes_waiting(self._descriptor.fileno())

    def close(self) -> None:
        """Close the write end."""
        self._descriptor.close()
        self._claim.closed()

    def unlink(self) -> None:
        """Remove the FIFO's name."""
        if not isinstance(self._descriptor, FifoEnd):
            super().unlink()
        else:
            self._descriptor.unlink()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same write end in another process."""
        return rebuild_sender, (
            Passed(self._descriptor.fileno()),
            _name_of(self._descriptor),
            self.limits,
            self._subject,
            self._raw,
        )


class PipeReceiver(ReceiveTransport):
    """The read end of a pipe."""

    def __init__(self, descriptor: Descriptor, limits: Limits, subject: str, *, raw: bool) -> None:
        """Take over the read end."""
        self._descriptor, self.limits, self._subject, self._raw = descriptor, limits, subject, raw
        self._assembler = Assembler(limits.max_message, subject)
        self._claim = Claim(descriptor.fileno(), RECEIVING, subject)
        self._body: tuple[Chunk, memoryview | None, int] | None = (
            None  # a long chunk of which some bytes are in
        )
        self._pidfds: dict[tuple[int, int], int] = {}  # of senders with an incomplete message
        self._namespace = pid_namespace()
        self._ended = False
        self.interest = self._idle = Interest(readable=(descriptor.fileno(),))
        os.set_blocking(descriptor.fileno(), False)

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Incomplete messages that were dropped."""
        return self._assembler.dropped

    def receive(self) -> Steps[Message]:
        """Read until a message is whole."""
        while (message := self.try_receive()) is None:
            yield self.interest
        return message

    def try_receive(self) -> Message | None:
        """Read until a message is whole or the pipe is empty."""
        self._claim.take()
        fd = self._descriptor.fileno()
        doomed: list[tuple[int, int]] = []
        message: Message | None
        while True:
            try:
                if self._body is not None:
                    message = self._read_body(fd)
                else:
                    message = self._read_raw(fd) if self._raw else self._read_packet(fd)
                if message is not None:
                    return message
            except _Nothing:
                if not self._pidfds:
                    return None
                for sender in doomed:
                    self._forget(sender)
                doomed = [sender for sender, pidfd in self._pidfds.items() if _is_gone(pidfd)]
                if not doomed:
                    self.interest = Interest(readable=(fd, *self._pidfds.values()))
                    return None

    def _read_raw(self, fd: int) -> Message:
        return Message(RAW, (self._read(fd, self.limits.capacity or PIPE_BUF),))

    def _read_packet(self, fd: int) -> Message | None:
        data = self._read(fd, PIPE_BUF)
        if len(data) < HEADER.size:
            raise CorruptChannel(
                f"{len(data)} bytes came that are no chunk of kinfolk's",
                subject=self._subject,
                remedy="does the other side write raw bytes? then open this end with framing='raw'",
            )
        if (message := self._assembler.single(data)) is not None:
            return message
        chunk = self._assembler.parse(data)
        here = len(data) - HEADER.size
        if here == chunk.length:
            message = self._assembler.whole(chunk, data[HEADER.size :])
            self._watch(chunk)
            return message
        if here:
            raise CorruptChannel(
                f"a chunk of {chunk.length} bytes came with {here}", subject=self._subject
            )
        self._body = chunk, self._assembler.room(chunk), chunk.length
        return None

    def _read_body(self, fd: int) -> Message | None:
        assert self._body is not None
        chunk, room, missing = self._body
        if room is None:
            missing -= len(self._read(fd, missing))
        else:
            try:
                count = os.readv(fd, [room[chunk.length - missing :]])
            except BlockingIOError:
                raise _Nothing from None
            if count == 0:
                self._end(fd)
            missing -= count
        if missing:
            self._body = chunk, room, missing
            return None
        self._body = None
        if room is not None:
            room.release()
        return self._assembler.filled(chunk)

    def _read(self, fd: int, size: int) -> bytes:
        data = b"" if self._ended else try_read(fd, size)
        if data is None:
            raise _Nothing
        if not data:
            self._end(fd)
        return data

    def _end(self, fd: int) -> None:
        """Nobody has the write end open: nobody any more, or (of a FIFO) nobody yet."""
        poll = select.poll()
        poll.register(fd, 0)
        if not self._ended and not poll.poll(0):
            raise _Nothing
        self._ended = True
        self._body = None
        self._assembler.forget_all()
        self._unwatch_all()
        raise EndOfChannel("every sender has gone", subject=self._subject)

    def _watch(self, chunk: Chunk) -> None:
        incomplete = chunk.sender in self._assembler.partials
        if incomplete and chunk.sender not in self._pidfds:
            pid, nonce = chunk.sender
            # A pid of another namespace says nothing here: then the end of the pipe has to do.
            if nonce >> 16 == self._namespace:
                pidfd = open_pidfd(pid)
                self._pidfds[chunk.sender] = _DEAD if pidfd is None else pidfd
        elif not incomplete and chunk.sender in self._pidfds:
            self._unwatch(chunk.sender)

    def _forget(self, sender: tuple[int, int]) -> None:
        self._assembler.forget(sender)
        self._unwatch(sender)

    def _unwatch(self, sender: tuple[int, int]) -> None:
        if (pidfd := self._pidfds.pop(sender)) != _DEAD:
            os.close(pidfd)
        self.interest = self._idle

    def _unwatch_all(self) -> None:
        for sender in list(self._pidfds):
            self._unwatch(sender)

    def fileno(self) -> int:
        """Readable when a chunk is there or the last sender has gone."""
        return self._descriptor.fileno()

    def depth(self) -> int:
        """Bytes in the pipe, headers included."""
        return bytes_waiting(self._descriptor.fileno())

    def close(self) -> None:
        """Close the read end; incomplete messages are gone with it."""
        self._body = None
        self._unwatch_all()
        self._descriptor.close()
        self._claim.closed()

    def unlink(self) -> None:
        """Remove the FIFO's name."""
        if not isinstance(self._descriptor, FifoEnd):
            super().unlink()
        else:
            self._descriptor.unlink()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same read end in another process."""
        return rebuild_receiver, (
            Passed(self._descriptor.fileno()),
            _name_of(self._descriptor),
            self.limits,
            self._subject,
            self._raw,
        )


class _Nothing(Exception):
    """The pipe is empty, or nobody has come to send yet."""


def _is_gone(pidfd: int) -> bool:
    return pidfd == _DEAD or is_dead(pidfd)


def rebuild_sender(
    fd: int, name: str | None, limits: Limits, subject: str, raw: bool
) -> PipeSender:
    """A sender around a descriptor that came from another process; ``name`` is that of a FIFO."""
    return PipeSender(_owned(fd, name, subject), limits, subject, raw=raw)


def rebuild_receiver(
    fd: int, name: str | None, limits: Limits, subject: str, raw: bool
) -> PipeReceiver:
    """A receiver around a descriptor that came from another process; ``name`` is that of a FIFO."""
    return PipeReceiver(_owned(fd, name, subject), limits, subject, raw=raw)


def _owned(fd: int, name: str | None, subject: str) -> Descriptor:
    return Descriptor(fd, subject) if name is None else FifoEnd(fd, name)


def _name_of(descriptor: Descriptor) -> str | None:
    return descriptor.path if isinstance(descriptor, FifoEnd) else None
