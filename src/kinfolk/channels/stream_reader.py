"""Messages out of one connected stream socket, never waiting.

    the kernel ── recv, up to READ_AHEAD ──> read ahead ── headers, small bodies ──> messages
         └──────── recv, straight into the room of a long chunk ──────────────────────┘

So a small message costs at most one system call, and a long one is copied once.

Rules:
1. One socket has one writing process at a time: a message that begins drops any other that is incomplete.
2. Descriptors (SCM_RIGHTS) ride on the first byte of a chunk that says so. The kernel ends a recv behind the bytes
   that they rode on, so at most two parties of them wait for their header; whatever nobody claims is closed.
3. Room for all the descriptors that may come at once (253) is given with every recv, so that none is cut off. When this
   process may open no more, the kernel drops them: the message is lost with them, and LimitReached says so.
4. ECONNRESET means that the peer went without reading all that we sent; what it sent before is still there.
5. A process that reads ahead takes bytes that no other will see. It leaves a mark on the socket, in an option that means
   nothing here (SO_BROADCAST), because the mark must outlive a kill: a copy that finds it may not go on (ForkedCopy). Who
   closes with nothing read ahead takes the mark away.
6. After the end, or something corrupt, nothing more is read: there is no way to find the next header.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from kinfolk.ancillary import ROOM, close_all, read
from kinfolk.channels.codec import RAW
from kinfolk.channels.contract import Message
from kinfolk.channels.framing import ABORT, DESCRIPTORS, FIRST, HEADER, MAGIC, Assembler, Chunk
from kinfolk.errors import BrokenChannel, CorruptChannel, EndOfChannel, ForkedCopy, LimitReached

_READ_AHEAD = 1 << 16
# As plain numbers: the enum's operators would cost more than the system call.
_CLOSE_ON_EXEC, _CUT_OFF = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)

#: The network, not the peer, has ended a TCP connection.
LOST = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN)


class StreamReader:
    """Reads one socket; it does not own it. Not thread-safe."""

    goes_on: ClassVar[bool] = False

    def __init__(
        self,
        sock: socket.socket,
        max_message: int,
        subject: str,
        *,
        raw: bool,
        ahead: bytes = b"",
    ) -> None:
        """``ahead`` is what another reader of this socket had read already."""
        self._sock, self._subject, self._raw = sock, subject, raw
        self._descriptors = sock.family == socket.AF_UNIX
        self._assembler = Assembler(max_message, subject)
        self._ahead, self._at = ahead, 0
        self._taken = len(ahead)  # bytes of the stream that have been received in all
        self._body: tuple[Chunk, memoryview | None, int] | None = None  # and the bytes missing
        # Parties that came, each with where the stream stood after it. None: they were lost.
        self._arrived: deque[tuple[int, list[int] | None]] = deque()
        self._riding: list[int] | None = []  # with the message that is incomplete
        self._corrupt: CorruptChannel | None = None
        self._ended = self._reset = False
        # Whether bytes were received and not kept, as a KeyboardInterrupt came in between.
        self._in_doubt = False
        self._pid = 0  # of the process that reads
        if ahead:
            self._begin()
        #: whether a header came: there is a program of kinfolk's at the other end
        self.spoke = False

    @property
    def dropped(self) -> int:
        """Incomplete messages that were dropped."""
        return self._assembler.dropped

    def next_message(self) -> Message | None:
        """The next message, None when it is not here yet.

        Raises EndOfChannel, CorruptChannel (both again and again), LimitReached, ForkedCopy, and BrokenChannel after
        a KeyboardInterrupt at a moment that makes the place in the stream unknown.
        """
        if self._pid != os.getpid():
            self._check_copy()
            self._begin()
        if self._corrupt is not None:
            raise CorruptChannel(self._corrupt.what, subject=self._subject, remedy="connect again")
        if self._in_doubt:
            raise BrokenChannel(
                "the stream is torn",
                subject=self._subject,
                why="an earlier call was interrupted while it read",
                remedy="connect again",
            )
        try:
            return self._next_raw() if self._raw else self._next()
        except BlockingIOError:
            return None
        except CorruptChannel as error:
            self._corrupt = error
            self.discard()
            raise

    def _check_copy(self) -> None:
        if self.in_the_middle() or self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST):
            raise ForkedCopy(
                "this copy can't receive",
                subject=self._subject,
                why="another process has received here, and may have read ahead",
                remedy="let it close its end first, or pass the end to a process instead of forking",
            )

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mark(True)

    def _mark(self, reading: bool) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, reading)

    def buffered(self) -> bool:
        """Whether a message, or what is no message, waits in user space."""
        rest = len(self._ahead) - self._at
        if self._raw or rest < HEADER.size or not self._ahead.startswith(MAGIC, self._at):
            return rest >= HEADER.size or (self._raw and rest > 0)
        length: int = HEADER.unpack_from(self._ahead, self._at)[3]
        return length <= rest - HEADER.size

    def in_the_middle(self) -> bool:
        """Whether the reader holds part of the stream: another one could not go on from the socket alone."""
        return self._at < len(self._ahead) or self.has_part()

    def has_part(self) -> bool:
        """Whether a message is half received, or descriptors wait for theirs."""
        return bool(self._body or self._assembler.partials or self._arrived)

    def give_ahead(self) -> bytes:
        """What was read ahead, for another reader of the same socket."""
        if self._pid == os.getpid():
            self._mark(False)
            self._pid = 0
        return self._ahead[self._at :]

    def keep_ahead(self) -> None:
        """Nobody goes on with what was given: this reader does."""
        self._begin()

    def discard(self) -> None:
        """Forget what is incomplete, and close the descriptors that nobody will get."""
        if self._pid == os.getpid() and not self.in_the_middle():
            self._mark(False)
        self._body = None
        self._assembler.forget_all()
        self._ahead, self._at = b"", 0
        self._leave_riding()
        while self._arrived:
            close_all(self._arrived.popleft()[1] or ())

    # ── chunks ───────────────────────────────────────────────────────────────────────────────

    def _next(self) -> Message | None:
        while True:
            if self._body is not None:
                message = self._fill()
            else:
                data, at = self._ahead, self._at
                here = len(data) - at - HEADER.size
                if here < 0:
                    self._read_on()
                    continue
                if at == 0 and not self._arrived and not self._assembler.partials:
                    # A single message, all that came: most often so when one side waits for the other.
                    single = self._assembler.single(data)
                    if single is not None:
                        self._ahead, self.spoke = b"", True
                        return single
                message = self._take_chunk(data, at, here)
            if message is not None:
                return self._with_descriptors(message)

    def _take_chunk(self, data: bytes, at: int, here: int) -> Message | None:
        # Also what is refused is somebody's of kinfolk: a message larger than this end takes.
        self.spoke = self.spoke or data.startswith(MAGIC, at)
        chunk = self._assembler.parse(data, at)
        self._board(chunk, self._taken - (len(data) - at))
        start = at + HEADER.size
        if chunk.length <= here:
            self._at = start + chunk.length
            return self._assembler.whole(chunk, data[start : self._at])
        room = self._assembler.room(chunk)
        if room is not None:
            room[:here] = data[start:]
        self._body = chunk, room, chunk.length - here
        self._ahead, self._at = b"", 0
        return None

    def _fill(self) -> Message | None:
        assert self._body is not None
        chunk, room, missing = self._body
        while missing:
            if room is None:
                missing -= len(self._receive(min(missing, _READ_AHEAD)))
            else:
                missing -= self._receive_into(room[chunk.length - missing :])
            self._body = chunk, room, missing
            self._in_doubt = False
        self._body = None
        if room is not None:
            room.release()
        return self._assembler.filled(chunk)

    def _read_on(self) -> None:
        if self._arrived:
            self._disembark(self._taken - (len(self._ahead) - self._at))
        data = self._receive(_READ_AHEAD, keep=True)
        self._ahead, self._at = self._ahead[self._at :] + data, 0
        self._in_doubt = False

    def _next_raw(self) -> Message:
        data, self._ahead = self._ahead, b""
        if not data:
            data = self._receive(_READ_AHEAD, keep=True)
            self._in_doubt = False
        riding: list[int] | None = []
        if self._arrived:
            riding = self._arrived.popleft()[1]
        if riding is None:
            self._ahead = data
            raise self._lost()
        return Message(RAW, (data,), descriptors=tuple(riding))

    # ── descriptors ──────────────────────────────────────────────────────────────────────────

    def _board(self, chunk: Chunk, position: int) -> None:
        """A chunk begins at ``position``: its descriptors go with its message."""
        if chunk.flags & FIRST:
            self._assembler.forget_all()
        if chunk.flags & (FIRST | ABORT):
            self._leave_riding()
        self._disembark(position)
        if chunk.flags & DESCRIPTORS:
            if not chunk.flags & FIRST or not self._arrived:
                raise CorruptChannel(
                    "descriptors were announced, and none came", subject=self._subject
                )
            self._riding = self._arrived.popleft()[1]

    def _disembark(self, position: int) -> None:
        """Close those that rode on bytes before ``position``: no header claimed them."""
        while self._arrived and self._arrived[0][0] <= position:
            close_all(self._arrived.popleft()[1] or ())

    def _with_descriptors(self, message: Message) -> Message:
        riding, self._riding = self._riding, []
        if riding is None:
            raise self._lost()
        message.descriptors = tuple(riding)
        return message

    def _leave_riding(self) -> None:
        riding, self._riding = self._riding, []
        close_all(riding or ())

    def _lost(self) -> LimitReached:
        return LimitReached(
            "the descriptors of a message were lost",
            subject=self._subject,
            why="this process may open no more",
            remedy="close descriptors, or raise the limit (ulimit -n), and have them sent again",
        )

    # ── the socket ───────────────────────────────────────────────────────────────────────────

    def _receive(self, size: int, *, keep: bool = False) -> bytes:
        """At least one byte; descriptors are kept where a header may begin, and unwanted elsewhere."""
        data: bytes = b""
        self._in_doubt = True
        while not self._ended:
            try:
                if not self._descriptors:
                    data = self._sock.recv(size)
                else:
                    data, control, flags, _ = self._sock.recvmsg(size, ROOM, _CLOSE_ON_EXEC)
                    if control or flags & _CUT_OFF:
                        self._meet(control, flags, len(data), keep=keep)
                break
            except BlockingIOError:
                self._in_doubt = False
                raise
            except OSError as error:
                self._reset_or_lost(error)
        if not data:
            self._end()
        self._taken += len(data)
        return data

    def _receive_into(self, room: memoryview) -> int:
        count = 0
        self._in_doubt = True
        while not self._ended:
            try:
                if not self._descriptors:
                    count = self._sock.recv_into(room)
                else:
                    count, control, flags, _ = self._sock.recvmsg_into([room], ROOM, _CLOSE_ON_EXEC)
                    if control or flags & _CUT_OFF:
                        self._meet(control, flags, count, keep=False)
                break
            except BlockingIOError:
                self._in_doubt = False
                raise
            except OSError as error:
                self._reset_or_lost(error)
        if not count:
            self._end()
        self._taken += count
        return count

    def _meet(
        self, control: Sequence[tuple[int, int, bytes]], flags: int, size: int, *, keep: bool
    ) -> None:
        party: list[int] | None
        _, party = read(control)
        if not keep or not size:
            close_all(party)
            return
        if flags & _CUT_OFF:
            close_all(party)
            party = None
        self._arrived.append((self._taken + size, party))
        if len(self._arrived) > 2:
            raise CorruptChannel("descriptors came without a message", subject=self._subject)

    def _reset_or_lost(self, error: OSError) -> None:
        if error.errno == errno.ECONNRESET and not self._reset:
            self._reset = True
            return
        self._in_doubt = False
        if error.errno in LOST:
            raise BrokenChannel(
                "the connection was lost",
                subject=self._subject,
                why=os.strerror(error.errno),
                remedy="connect again",
            ) from error
        raise error

    def _end(self) -> None:
        self._ended, self._in_doubt = True, False
        self.discard()
        lossy = self._reset and not self._descriptors
        raise EndOfChannel(
            "every sender has gone",
            subject=self._subject,
            why="the connection was reset, so what it sent last may be missing" if lossy else "",
        )
