"""The read end of a pipe: see `kinfolk.channels.pipe_transport` for what travels."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any

from kinfolk._native import try_read
from kinfolk.channels.claims import OPENED, RECEIVING, Claim
from kinfolk.channels.codec import RAW
from kinfolk.channels.contract import Limits, Message, Passed, ReceiveTransport
from kinfolk.channels.framing import (
    ATOMIC_CHUNK,
    HEADER,
    PIPE_BUF,
    Assembler,
    Chunk,
    pid_namespace,
)
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
from kinfolk.channels.presence import FifoEnd
from kinfolk.descriptors import Descriptor
from kinfolk.errors import CorruptChannel, EndOfChannel, KinfolkError
from kinfolk.identity import is_dead, owned_pidfd
from kinfolk.interest import Interest, Steps


class PipeReceiver(ReceiveTransport):
    """The read end of a pipe."""

    def __init__(self, descriptor: Descriptor, limits: Limits, subject: str, *, raw: bool) -> None:
        """Take over the read end."""
        self._descriptor, self.limits, self._subject, self._raw = descriptor, limits, subject, raw
        self._assembler = Assembler(limits.max_message, subject)
        self._claim = Claim(descriptor.fileno(), RECEIVING, subject, sole=True)
        self._opened = Claim(descriptor.fileno(), OPENED, subject, sole=True)
        self._pid = os.getpid()  # who received what is incomplete
        self._in_doubt = False  # nobody knows what was read of a long chunk
        self._alone = limits.senders == "one"
        self._body: tuple[Chunk, memoryview | None, int] | None = (
            None  # a long chunk of which some bytes are in
        )
        # Of processes with an incomplete message, by pid; None: it had ended before one could be opened.
        self._pidfds: dict[int, Descriptor | None] = {}
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
        fd = self._descriptor.fileno()
        if self._ended:
            raise EndOfChannel("every sender has gone", subject=self._subject)
        if self._claim.take():
            self._begin()
        doomed: list[int] = []
        message: Message | None
        while True:
            try:
                if self._body is not None:
                    message = self._read_body(fd)
                elif self._raw:
                    message = self._read_raw(fd)
                else:
                    message = self._read_begin(fd) if self._alone else self._read_packet(fd)
                if message is not None:
                    return message
            except _Nothing:
                if not self._pidfds:
                    return None
                for pid in doomed:
                    self._forget(pid)
                doomed = [pid for pid, pidfd in self._pidfds.items() if _is_gone(pidfd)]
                if not doomed:
                    watched = (pidfd.fileno() for pidfd in self._pidfds.values() if pidfd)
                    self.interest = Interest(readable=(fd, *watched))
                    return None

    def reserve(self) -> None:
        """Make sure that nobody else receives here, or has opened the name to do so. Raises Busy.

        Not yet by receiving: the end may be meant for a forked child, which begins before it is closed here.
        """
        self._claim.take()
        self._claim.release()
        self._opened.take()

    def _begin(self) -> None:
        """This process has begun to receive, or has had to take its claim anew."""
        if self._pid != os.getpid():
            self._pid, self._body = os.getpid(), None
            self._assembler.partials.clear()
            self._unwatch_all()
        if self._body is None and not self._raw and flags_of(self._descriptor.fileno()) & INSIDE:
            self._claim.release()  # so that the next call comes here too
            raise self._torn()

    def _torn(self) -> CorruptChannel:
        return CorruptChannel(
            "the stream is torn",
            subject=self._subject,
            why="a receiver was interrupted in the middle of a long message",
            remedy="make a new channel, or use senders=many",
        )

    def _read_raw(self, fd: int) -> Message:
        return Message(RAW, (self._read(fd, self.limits.capacity or PIPE_BUF),))

    def _read_begin(self, fd: int) -> Message | None:
        """A packet that may be the header of a long chunk."""
        if self._in_doubt:
            raise self._torn()
        # Until it is done with, for a KeyboardInterrupt may come in between.
        self._in_doubt = True
        try:
            message = self._read_packet(fd)
        except (_Nothing, KinfolkError, OSError):
            self._in_doubt = False
            raise
        self._in_doubt = False
        return message

    def _read_packet(self, fd: int) -> Message | None:
        data = self._read(fd, PIPE_BUF)
        if len(data) < HEADER.size:
            raise CorruptChannel(
                f"{len(data)} bytes came that are no chunk of kinfolk's",
                subject=self._subject,
                remedy="does the other side write raw bytes? then open this end with framing=raw",
            )
        if (message := self._assembler.single(data)) is not None:
            return message
        chunk = self._assembler.parse(data)
        here = len(data) - HEADER.size
        if here == chunk.length:
            message = self._assembler.whole(chunk, data[HEADER.size :])
            self._watch(chunk)
            return message
        # Only a lone sender may leave the packets, and only for what fits into none: of anybody else's
        # promise, what the others write would become the body.
        if here or not self._alone or chunk.length <= ATOMIC_CHUNK:
            raise CorruptChannel(
                f"a chunk of {chunk.length} bytes came with {here}",
                subject=self._subject,
                remedy="open both ends with the same senders=",
            )
        set_flags(fd, on=INSIDE)
        self._body = chunk, self._assembler.room(chunk), chunk.length
        self._watch(chunk)
        return None

    def _read_body(self, fd: int) -> Message | None:
        assert self._body is not None
        if self._in_doubt:
            raise self._torn()
        chunk, room, missing = self._body
        self._in_doubt = True
        try:
            if room is None:
                missing -= len(self._read(fd, missing))
            else:
                missing -= self._read_into(fd, room[chunk.length - missing :])
        except (_Nothing, KinfolkError, OSError):
            self._in_doubt = False
            raise
        self._body = (chunk, room, missing) if missing else None
        self._in_doubt = False
        if missing:
            return None
        set_flags(fd, off=INSIDE)
        if room is not None:
            room.release()
        message = self._assembler.filled(chunk)
        self._watch(chunk)
        return message

    def _read_into(self, fd: int, room: memoryview) -> int:
        try:
            count = os.readv(fd, [room])
        except BlockingIOError:
            raise _Nothing from None
        if count == 0:
            self._end()
        return count

    def _read(self, fd: int, size: int) -> bytes:
        data = b"" if self._ended else try_read(fd, size)
        if data == b"" and not self._ended:
            if not _hung_up(fd):
                raise _Nothing  # nobody has come yet
            data = try_read(fd, size)  # somebody may have come, sent and gone since the first look
        if data is None:
            raise _Nothing
        if not data:
            self._end()
        return data

    def _end(self) -> None:
        """Nobody has the write end open any more."""
        if isinstance(self._descriptor, FifoEnd) and not self._descriptor.keep_name:
            fd = self._descriptor.fileno()
            if not self._descriptor.end(lambda: bytes_waiting(fd) > 0 or not _hung_up(fd)):
                raise _Nothing
            for claim in (self._claim, self._opened):
                claim.closed()
        self._ended = True
        self._body = None
        self._assembler.forget_all()
        self._unwatch_all()
        raise EndOfChannel("every sender has gone", subject=self._subject)

    def _watch(self, chunk: Chunk) -> None:
        pid, nonce = chunk.sender
        if chunk.sender in self._assembler.partials:
            # A pid of another namespace says nothing here: then the end of the pipe has to do.
            if pid not in self._pidfds and nonce >> 16 == self._namespace:
                self._pidfds[pid] = owned_pidfd(pid)
        elif pid in self._pidfds and not self._incomplete_of(pid):
            self._unwatch(pid)

    def _incomplete_of(self, pid: int) -> list[tuple[int, int]]:
        """The ends of a process that have an incomplete message."""
        return [
            (sender, nonce)
            for sender, nonce in self._assembler.partials
            if sender == pid and nonce >> 16 == self._namespace
        ]

    def _forget(self, pid: int) -> None:
        for sender in self._incomplete_of(pid):
            if self._body is not None and self._body[0].sender == sender:
                self._body = None
                set_flags(self._descriptor.fileno(), off=INSIDE)
            self._assembler.forget(sender)
        self._unwatch(pid)

    def _unwatch(self, pid: int) -> None:
        self.interest = self._idle  # first: an interrupt may come before each line
        if (pidfd := self._pidfds[pid]) is not None:
            pidfd.close()
        del self._pidfds[pid]

    def _unwatch_all(self) -> None:
        for pid in list(self._pidfds):
            self._unwatch(pid)

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
        self._claim.closing()
        self._opened.closing()
        self._descriptor.close()
        self._claim.closed()

    def unlink(self) -> None:
        """Remove the FIFO's name."""
        if not unlink(self._descriptor):
            super().unlink()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same read end in another process."""
        return rebuild_receiver, (
            Passed(self._descriptor.fileno()),
            name_of(self._descriptor),
            self.limits,
            self._subject,
            self._raw,
        )


class _Nothing(Exception):
    """The pipe is empty, or nobody has come to send yet."""


def _is_gone(pidfd: Descriptor | None) -> bool:
    """Also one that an interrupt left closed: nothing incomplete is its process's any more."""
    return pidfd is None or pidfd.closed or is_dead(pidfd.fileno())


def _hung_up(fd: int) -> bool:
    """Whether somebody had the write end open, and nobody has now."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def rebuild_receiver(
    fd: int, name: PipeName, limits: Limits, subject: str, raw: bool
) -> PipeReceiver:
    """A receiver around a descriptor that came from another process; ``name`` is that of a FIFO."""
    return PipeReceiver(owned(fd, name, subject), limits, subject, raw=raw)
