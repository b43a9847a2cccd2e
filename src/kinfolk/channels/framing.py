"""Whole messages on byte streams: pipes, FIFOs, stream sockets.

A message is a run of chunks. A chunk is a header and at most `MAX_CHUNK` bytes; where several processes send on one
stream it is at most PIPE_BUF bytes in all, so that the kernel writes it whole (pipe(7)):

    0      2      3      4        8        12       16         20        28
    ├──────┼──────┼──────┼────────┼────────┼────────┼──────────┼─────────┼─────────────
    │ "kC" │flags │ kind │ length │ sender │ nonce  │ sequence │ total   │ length bytes
    └──────┴──────┴──────┴────────┴────────┴────────┴──────────┴─────────┴─────────────
                          of this   pid      of the   of the     of the    little-endian
                          chunk              end      message    message

    flags   1 FIRST · 2 LAST · 4 ABORT (forget this message) · 8 descriptors ride on the first byte

Rules:
1. (sender, nonce) names a sending end, sequence its messages. Chunks of several ends may alternate. The nonce is a
   counter of the process below 16 bits of its pid namespace: a pid means something only to a receiver in the same one.
   The counter goes round, past the numbers of ends that live: no two of a process have the same at the same time.
2. FIRST opens a message, LAST closes it; the lengths of its chunks add up to `total`, or the stream is corrupt.
3. A message is delivered when its LAST chunk is in; before that nobody sees any of it. ABORT, a new FIRST of the
   same end, the end of the stream, or the death of the sender drop what is incomplete.
4. A chunk that continues no open message is skipped: a receiver that takes over in the middle of a message finds
   the next one.
5. `total` is a promise of the peer: it is checked against the limit, and memory grows with what really came.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from kinfolk.channels.contract import Buffer, Message
from kinfolk.errors import CorruptChannel, LimitReached

HEADER = struct.Struct("<2sBBIIIIQ")
MAGIC = b"kC"
FIRST, LAST, ABORT, DESCRIPTORS = 1, 2, 4, 8

#: The largest chunk on a stream with one writing process, header not counted.
MAX_CHUNK = 1 << 20
#: pipe(7): writes up to this size are atomic, on every Linux.
PIPE_BUF = 4096
#: The largest chunk where several processes write.
ATOMIC_CHUNK = PIPE_BUF - HEADER.size
#: Messages that may be incomplete at the same time: a sending end has one.
MOST_PARTIALS = 4096


# ── sending ──────────────────────────────────────────────────────────────────────────────────


_ends = itertools.count()  # of this process that ever sent
_MOST_ENDS = 1 << 16
#: who has which number: setdefault is atomic, so no lock is needed that a fork could find taken
_numbers: dict[int, object] = {}


def _new_number(owner: object) -> int:
    """A number that no other living end of this process has. Raises LimitReached."""
    for count in itertools.islice(_ends, _MOST_ENDS):
        number = count % _MOST_ENDS
        if _numbers.setdefault(number, owner) is owner:
            return number
    raise LimitReached(
        f"this process has {_MOST_ENDS} sending ends",
        why="a receiver could not tell another one from them",
        remedy="close those that are not needed, or use several processes",
    )


def pid_namespace() -> int:
    """16 bits that differ between the pid namespaces of a host (their inode numbers follow one another)."""
    return os.stat("/proc/self/ns/pid").st_ino & 0xFFFF


class Chunker:
    """Cuts the messages of one sending end into chunks."""

    _owner: object = "nobody as yet"  # an interrupt may come before it has one
    _number = -1

    def __init__(self) -> None:
        self._owner = object()
        self._renew()

    def _renew(self) -> None:
        self._leave_number()  # of the process that was forked
        self._number = _new_number(self._owner)
        self._nonce = pid_namespace() << 16 | self._number
        self._pid = os.getpid()
        self._sequence = 0

    def _leave_number(self, numbers: dict[int, object] = _numbers) -> None:
        if numbers.get(self._number) is self._owner:
            del numbers[self._number]

    def __del__(self) -> None:
        self._leave_number()

    def single(self, message: Message) -> list[Buffer]:
        """The only chunk of a message that fits into one."""
        if os.getpid() != self._pid:
            self._renew()  # a forked copy is an end of its own
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        flags = FIRST | LAST | DESCRIPTORS if message.descriptors else FIRST | LAST
        return [self._header(flags, message.kind, message.size, message.size), *message.parts]

    def chunks(
        self, message: Message, largest: int, *, committed: bool = False
    ) -> Iterator[list[Buffer]]:
        """The chunks of one message, each as pieces to be written together, the header first.

        With ``committed``, an empty LAST chunk follows the others, whatever the size: for streams that may take
        part of a chunk, where a message given up in the middle of its last one could not be taken back.
        """
        total, kind = message.size, message.kind
        if total <= largest and not committed:
            yield self.single(message)
            return
        if os.getpid() != self._pid:
            self._renew()
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        riding = DESCRIPTORS if message.descriptors else 0
        sent = 0
        for pieces, length in _cut(message, largest):
            flags = FIRST | riding if sent == 0 else 0
            sent += length
            if sent == total and not committed:
                flags |= LAST
            yield [self._header(flags, kind, length, total), *pieces]
        if committed:
            yield [self._header(LAST if sent else FIRST | LAST, kind, 0, total)]

    def abort(self) -> bytes:
        """The chunk that makes the receiver forget the message that `chunks` began last."""
        return self._header(ABORT, 0, 0, 0)

    def _header(self, flags: int, kind: int, length: int, total: int) -> bytes:
        return HEADER.pack(
            MAGIC, flags, kind, length, self._pid, self._nonce, self._sequence, total
        )


def _cut(message: Message, largest: int) -> Iterator[tuple[list[Buffer], int]]:
    pieces: list[Buffer] = []
    length = 0
    for part in message.parts:
        rest = memoryview(part)
        while rest:
            piece, rest = rest[: largest - length], rest[largest - length :]
            pieces.append(piece)
            length += len(piece)
            if length == largest:
                yield pieces, length
                pieces, length = [], 0
    if pieces:
        yield pieces, length


# ── receiving ────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Chunk:
    """A header, parsed and checked."""

    flags: int
    kind: int
    length: int
    sender: tuple[int, int]
    sequence: int
    total: int


class _Body(io.BytesIO):
    """The bytes of a message, which may be dropped while somebody looks at them: both go as garbage, in whatever order.

    The finalizer calls `close`, which from Python 3.13 on complains of that. `flush` does nothing, and is no Python, in
    which a signal handler's exception would come to nobody.
    """

    __slots__ = ()
    close = io.BytesIO.flush


@dataclass(slots=True)
class Partial:
    """A message of which some chunks are in."""

    kind: int
    sequence: int
    total: int
    received: int = 0
    body: _Body = field(default_factory=_Body)
    size: int = 0  # of the body's memory

    def room(self, length: int) -> memoryview:
        """A view of the next ``length`` bytes of the body, to be filled; release it before the next call."""
        end = self.received + length
        if end > self.size:
            size = min(self.total, max(end, self.size * 2))
            self.body.seek(size - 1)
            self.body.write(b"\0")
            self.size = size  # now: an interrupt before would promise memory that is not there
        return self.body.getbuffer()[self.received : end]


class Assembler:
    """Puts the chunks of any number of sending ends together again."""

    def __init__(self, max_message: int, subject: str) -> None:
        """``max_message`` bounds what one message may promise; ``subject`` is for messages."""
        self._max_message = max_message
        self._subject = subject
        self.partials: dict[tuple[int, int], Partial] = {}
        self.dropped = 0

    def parse(self, data: Buffer, offset: int = 0) -> Chunk:
        """The chunk whose header lies at ``offset``. Raises CorruptChannel for anything else."""
        magic, flags, kind, length, pid, nonce, sequence, total = HEADER.unpack_from(data, offset)
        if magic != MAGIC or flags > 15:
            raise self._corrupt(
                "what came is no chunk of kinfolk's",
                "does the other side write raw bytes? then open this end with framing=raw",
            )
        if total > self._max_message:
            raise self._corrupt(
                f"a message of {total} bytes was announced, and the limit is {self._max_message}",
                f"open this end with max_message={total} if the sender is right",
            )
        if length > MAX_CHUNK or length > total:
            raise self._corrupt(f"a chunk of {length} bytes was announced in a message of {total}")
        return Chunk(flags, kind, length, (pid, nonce), sequence, total)

    def single(self, data: bytes) -> Message | None:
        """The message in a header and bytes that are all of it; None for anything else.

        Here for speed alone, for most messages are small: `parse` and `whole` give the same.
        """
        magic, flags, kind, length, pid, nonce, _, total = HEADER.unpack_from(data)
        if (
            magic != MAGIC
            or flags != FIRST | LAST
            or not length == total == len(data) - HEADER.size
        ):
            return None
        if self.partials:
            self._drop((pid, nonce))
        return Message(kind, (data[HEADER.size :],)) if total <= self._max_message else None

    def whole(self, chunk: Chunk, body: bytes) -> Message | None:
        """Take a chunk whose bytes are all here; the message, if that was its last chunk."""
        if chunk.flags & (FIRST | LAST) == FIRST | LAST:
            self._drop(chunk.sender)
            if len(body) != chunk.total:
                raise self._corrupt(f"a message of {chunk.total} bytes came with {len(body)}")
            return Message(chunk.kind, (body,))
        room = self.room(chunk)
        if room is not None:
            room[:] = body
            room.release()
        return self.filled(chunk)

    def room(self, chunk: Chunk) -> memoryview | None:
        """Where the bytes of a chunk belong; None when they are to be read and thrown away.

        When they are there, release the view and call `filled`.
        """
        if chunk.flags & FIRST:
            self._drop(chunk.sender)
            if len(self.partials) >= MOST_PARTIALS:
                raise self._corrupt(f"{MOST_PARTIALS} messages were begun and none was finished")
            self.partials[chunk.sender] = Partial(chunk.kind, chunk.sequence, chunk.total)
        partial = self.partials.get(chunk.sender)
        if partial is None or partial.sequence != chunk.sequence or chunk.flags & ABORT:
            self._drop(chunk.sender)
            return None
        if chunk.total != partial.total or partial.received + chunk.length > partial.total:
            self._drop(chunk.sender)
            raise self._corrupt("the chunks of a message do not add up to its length")
        return partial.room(chunk.length) if chunk.length else memoryview(bytearray())

    def filled(self, chunk: Chunk) -> Message | None:
        """The bytes of a chunk are where `room` said; the message, if that was its last chunk."""
        partial = self.partials.get(chunk.sender)
        if partial is None or partial.sequence != chunk.sequence:
            return None
        partial.received += chunk.length
        if not chunk.flags & LAST:
            return None
        if partial.received != partial.total:
            self._drop(chunk.sender)
            raise self._corrupt(
                f"a message of {partial.total} bytes ended after {partial.received}"
            )
        del self.partials[chunk.sender]
        # getvalue gives the memory itself away, without a copy, as nobody else refers to it.
        return Message(partial.kind, (partial.body.getvalue(),))

    def forget(self, sender: tuple[int, int]) -> None:
        """Drop what a dead sender left incomplete."""
        self._drop(sender)

    def forget_all(self) -> None:
        """Drop everything incomplete: the stream has ended."""
        for sender in list(self.partials):
            self._drop(sender)

    def _drop(self, sender: tuple[int, int]) -> None:
        if self.partials.pop(sender, None) is not None:
            self.dropped += 1

    def _corrupt(self, what: str, remedy: str = "") -> CorruptChannel:
        return CorruptChannel(what, subject=self._subject, remedy=remedy)
