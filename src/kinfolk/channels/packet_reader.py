"""Packets from one socket to messages, one at a time, never waiting.

Rules:
1. A packet is looked at (MSG_PEEK) before it is taken: when descriptors ride on it and the process has no room for
   them, the kernel would drop them; so the packet stays, and LimitReached says why.
2. The buffer for descriptors always has room for as many as the kernel lets ride (`kinfolk.ancillary`).
3. Each packet carries its sender's credentials (SO_PASSCRED, set before the socket can get any). A pickle of a user who
   is neither ours nor root is dropped unseen, with its descriptors, and counted; so is one that nobody vouches for.
4. What is corrupt is consumed, with its descriptors, and the next packet stands on its own.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
from typing import ClassVar, NoReturn

from kinfolk import memfd
from kinfolk.ancillary import CREDENTIALS_ROOM, ROOM, close_all, read
from kinfolk.channels.codec import OUT_OF_BAND, PICKLE, RAW
from kinfolk.channels.contract import Buffer, Message
from kinfolk.channels.packet_format import CONNECTION, HEADER, read_header
from kinfolk.channels.packet_limits import LARGEST_PACKET
from kinfolk.channels.trust import is_trusted
from kinfolk.errors import CorruptChannel, EndOfChannel, LimitReached
from kinfolk.identity import Peer

# Plain ints: arithmetic with the flags of the socket module costs more than the system call.
_PEEK = int(socket.MSG_PEEK | socket.MSG_TRUNC | socket.MSG_DONTWAIT)
_TAKE = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_TRUNC | socket.MSG_DONTWAIT)
_PEEK_ALL = int(_TAKE | socket.MSG_PEEK)
_DESCRIPTORS_CUT = int(socket.MSG_CTRUNC)

_BREATH = 64  # messages dropped at a stretch, so that a flood of them holds up neither a close nor a timeout


class PacketReader:
    """Reads one socket, which it does not own. Several processes may each read theirs of the same socket."""

    goes_on: ClassVar[bool] = True

    def __init__(
        self,
        sock: socket.socket,
        max_message: int,
        subject: str,
        *,
        raw: bool,
        connections: bool = False,
    ) -> None:
        """``connections`` takes messages of the kind `CONNECTION`, and only those; without, they are dropped."""
        self._socket, self._max_message, self._subject = sock, max_message, subject
        self._raw, self._connections = raw, connections
        self._head = bytearray(HEADER.size)
        self._room = _room(LARGEST_PACKET)
        self._ended = False
        self.dropped = 0
        #: whether the last `next_message` found the socket empty
        self.dry = False
        #: whether anything of kinfolk's came
        self.spoke = False

    def next_message(self) -> Message | None:
        """The next message, None when there is none now. Raises EndOfChannel, CorruptChannel, LimitReached."""
        if self._ended:
            self.end()
        self.dry = False
        for _ in range(_BREATH):
            try:
                message = self._take()
            except BlockingIOError:
                self.dry = True
                return None
            except ConnectionResetError:
                continue  # the peer closed without reading all; what it sent before is still here
            if message is not None:
                return message
            self.dropped += 1
        return None

    def end(self) -> NoReturn:
        """Nobody sends any more, and all was read: from now on this is all there is to say."""
        self._ended = True
        self.spoke = True  # who connected and left without a word was a sender with nothing to say
        raise EndOfChannel("every sender has gone", subject=self._subject)

    def buffered(self) -> bool:
        """Nothing is ever read ahead: a packet is taken when it is asked for."""
        return False

    def in_the_middle(self) -> bool:
        """Never."""
        return False

    def has_part(self) -> bool:
        """Never."""
        return False

    def give_ahead(self) -> bytes:
        """Nothing."""
        return b""

    def keep_ahead(self) -> None:
        """Nothing was given."""

    def discard(self) -> None:
        """Nothing is held."""

    def _take(self) -> Message | None:
        length, ancillary, flags, _ = self._socket.recvmsg_into(
            [self._head], CREDENTIALS_ROOM, _PEEK
        )
        if not length and not ancillary:  # even an empty packet has credentials
            self.end()
        if flags & _DESCRIPTORS_CUT:
            self._check_descriptors_fit()
        if length > len(self._room) and self._raw:
            self._room = _room(length)
        length, ancillary, flags, _ = self._socket.recvmsg_into([self._room], ROOM, _TAKE)
        if not length and not ancillary:  # another process took the packet that was looked at
            self.end()
        self.spoke = True  # also with what is corrupt
        sender, descriptors = read(ancillary)
        try:
            if flags & _DESCRIPTORS_CUT:
                raise _no_room(self._subject)
            message = self._opened(length, sender, descriptors)
        except BaseException:
            close_all(descriptors)
            raise
        if message is None:
            close_all(descriptors)
        return message

    def _check_descriptors_fit(self) -> None:
        _, ancillary, flags, _ = self._socket.recvmsg_into([self._head], ROOM, _PEEK_ALL)
        close_all(read(ancillary)[1])
        if flags & _DESCRIPTORS_CUT:
            raise _no_room(self._subject)

    def _opened(self, length: int, sender: Peer | None, descriptors: list[int]) -> Message | None:
        """The message of a packet, None for one that we may not take. Raises CorruptChannel."""
        room = self._room
        if self._raw:
            if length > len(room):
                raise CorruptChannel(f"a packet of {length} bytes was cut", subject=self._subject)
            return Message(RAW, (room[:length],), descriptors=descriptors, sender=sender)
        packet = read_header(room, length, len(descriptors), self._max_message, self._subject)
        if packet.kind & ~OUT_OF_BAND == PICKLE and not (sender and is_trusted(sender.uid)):
            return None
        if (packet.kind == CONNECTION) != self._connections:
            return None
        body: Buffer
        if packet.large:
            body = memfd.view(descriptors[0], packet.size, self._subject)
            os.close(descriptors.pop(0))
        else:
            body = room[HEADER.size : length]
        return Message(packet.kind, (body,), descriptors=descriptors, sender=sender)


def _room(size: int) -> mmap.mmap:
    """Memory of this process, of which only what was written to takes any."""
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _no_room(subject: str) -> LimitReached:
    return LimitReached(
        "there is no room for the descriptors of the next message",
        subject=subject,
        why=os.strerror(errno.EMFILE),
        remedy="close descriptors, or raise the limit: ulimit -n; then receive again",
    )
