"""The write end of a pipe: see `kinfolk.channels.pipe_transport` for what travels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from kinfolk.channels.claims import SENDING, Claim
from kinfolk.channels.contract import Buffer, Limits, Message, Passed, SendTransport
from kinfolk.channels.framing import ATOMIC_CHUNK, MAX_CHUNK, PIPE_BUF, Chunker
from kinfolk.channels.kernel_buffers import bytes_waiting
from kinfolk.channels.pipe_transport import (
    INSIDE,
    PipeName,
    flags_of,
    name_of,
    owned,
    set_flags,
    unlink,
)
from kinfolk.descriptors import Descriptor
from kinfolk.errors import BrokenChannel
from kinfolk.interest import Interest, Steps

#: What one slot of a pipe holds.
_PAGE = os.sysconf("SC_PAGESIZE")


class PipeSender(SendTransport):
    """The write end of a pipe."""

    def __init__(self, descriptor: Descriptor, limits: Limits, subject: str, *, raw: bool) -> None:
        """Take over the write end."""
        self._descriptor, self.limits, self._subject, self._raw = descriptor, limits, subject, raw
        self._alone = limits.senders == "one"
        self._chunker = Chunker()
        self._claim = Claim(descriptor.fileno(), SENDING, subject, sole=self._alone)
        self._rest = b""  # of a chunk (or of raw bytes) that was given up half written
        self._abort_owed = False
        self._pid = os.getpid()  # whose debts these are
        self._torn = False  # nobody knows how much of a long chunk was written
        os.set_blocking(descriptor.fileno(), False)
        if raw:
            set_flags(descriptor.fileno(), off=os.O_DIRECT)
        else:
            set_flags(descriptor.fileno(), on=os.O_DIRECT)

    def send(self, message: Message) -> Steps[None]:
        """Write one message."""
        if self._pid != os.getpid():
            self._pid, self._rest, self._abort_owed = os.getpid(), b"", False
        if self._alone and not self._raw:
            self._take()
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
            self._take()
        try:
            os.writev(self._descriptor.fileno(), self._chunker.single(message))
        except BlockingIOError:
            return False
        return True

    def _take(self) -> None:
        fresh = self._claim.take()
        if fresh and not self._rest and flags_of(self._descriptor.fileno()) & INSIDE:
            self._torn = True
        if self._torn:
            raise BrokenChannel(
                "the stream is torn",
                subject=self._subject,
                why="a sender was interrupted in the middle of a long message",
                remedy="make a new channel, or use senders=many",
            )

    def _write_chunk(self, pieces: list[Buffer]) -> Steps[None]:
        if sum(map(len, pieces)) <= PIPE_BUF:
            yield from self._write_packet(pieces)
        else:
            yield from self._in_one_piece(self._write_long(pieces))

    def _write_long(self, pieces: list[Buffer]) -> Steps[None]:
        fd = self._descriptor.fileno()
        set_flags(fd, on=INSIDE)
        try:
            yield from self._write_packet(pieces[:1])
        except GeneratorExit:
            set_flags(fd, off=INSIDE)
            raise
        self._abort_owed = True  # unless the body goes out whole
        yield from self._write_body(pieces[1] if len(pieces) == 2 else b"".join(pieces[1:]))
        self._abort_owed = False

    def _in_one_piece(self, steps: Steps[None]) -> Steps[None]:
        """Run steps that tear the stream if anything interrupts them but a wait that is given up."""
        self._torn = True
        try:
            yield from steps
        except (GeneratorExit, OSError):
            self._torn = False
            raise
        self._torn = False  # not after a KeyboardInterrupt

    def _write_body(self, body: Buffer) -> Steps[None]:
        """Whole pages as a plain stream, the odd bytes behind them as a packet.

        To a page that a stream has left half full the kernel adds what is written next, packet or not, and the
        receiver would find two headers in one read.
        """
        fd, view = self._descriptor.fileno(), memoryview(body)
        pages = len(view) // _PAGE * _PAGE
        set_flags(fd, off=os.O_DIRECT)
        try:
            yield from self._write_stream(view[:pages])
        except GeneratorExit:
            self._rest += view[pages:]
            raise
        set_flags(fd, on=os.O_DIRECT)
        if len(view) > pages:
            yield from self._write_stream(view[pages:])
        set_flags(fd, off=INSIDE)

    def _settle(self) -> Steps[None]:
        """Bring to an end what an earlier call left half done."""
        if self._rest:
            rest, self._rest = self._rest, b""
            if self._raw:
                yield from self._write_stream(rest)
            else:
                yield from self._in_one_piece(self._write_body(rest))
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

    def fileno(self) -> int:
        """Writable when there is room; reports an error when no receiver is left."""
        return self._descriptor.fileno()

    def depth(self) -> int:
        """Bytes in the pipe, headers included."""
        return bytes_waiting(self._descriptor.fileno())

    def close(self) -> None:
        """Close the write end."""
        if self._abort_owed and not (self._rest or self._torn) and self._pid == os.getpid():
            with contextlib.suppress(OSError):  # if there is no room, our death will tell it
                os.write(self._descriptor.fileno(), self._chunker.abort())
        self._claim.closing()
        self._descriptor.close()
        self._claim.closed()

    def unlink(self) -> None:
        """Remove the FIFO's name."""
        if not unlink(self._descriptor):
            super().unlink()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same write end in another process."""
        return rebuild_sender, (
            Passed(self._descriptor.fileno()),
            name_of(self._descriptor),
            self.limits,
            self._subject,
            self._raw,
        )


def rebuild_sender(fd: int, name: PipeName, limits: Limits, subject: str, raw: bool) -> PipeSender:
    """A sender around a descriptor that came from another process; ``name`` is that of a FIFO."""
    return PipeSender(owned(fd, name, subject), limits, subject, raw=raw)
