"""What a packet looks like: one message, on a socket that keeps packets whole.

    0      2      3      4        6      8         16
    ├──────┼──────┼──────┼────────┼──────┼─────────┼──────────────────────────────
    │ "kP" │flags │ kind │ riding │  0   │ length  │ the message, or padding
    └──────┴──────┴──────┴────────┴──────┴─────────┴──────────────────────────────
                          the user's       of the        little-endian
                          descriptors      message

    flags   1 LARGE: the message is in a sealed memfd, the first descriptor that rides (`kinfolk.memfd`)

Rules:
1. Nothing that is announced is believed: lengths and numbers are compared with what came, and with the limit.
2. What does not fit is CorruptChannel; the next packet stands on its own again.
3. Only the packet of a LARGE message may be longer than what the receiver reads of it: the rest is padding.
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

from kinfolk.channels.contract import Message
from kinfolk.errors import CorruptChannel

HEADER = struct.Struct("<2sBBHHQ")
#: The kind of a message that carries a connection: see `kinfolk.channels.unix_dgram`.
CONNECTION = 0x7F

_MAGIC = b"kP"
_LARGE = 1


class Packet(NamedTuple):
    """What a header says, and what is true."""

    kind: int
    #: of the message
    size: int
    #: whether it is in memory of its own
    large: bool


def write_header(message: Message, size: int, *, large: bool = False) -> bytes:
    """The header of a message of so many bytes."""
    flags = _LARGE if large else 0
    return HEADER.pack(_MAGIC, flags, message.kind, len(message.descriptors), 0, size)


def read_header(room: mmap.mmap, length: int, riding: int, limit: int, subject: str) -> Packet:
    """The header of a packet of ``length`` bytes, of which ``room`` has the first, with ``riding`` descriptors.

    Raises CorruptChannel for a packet that kinfolk would not send, or a message above the ``limit``.
    """
    if length < HEADER.size:
        raise _corrupt(f"a packet of {length} bytes came that kinfolk did not send", subject)
    magic, flags, kind, announced, zero, size = HEADER.unpack_from(room)
    if magic != _MAGIC or flags & ~_LARGE or zero:
        raise _corrupt("a packet came that kinfolk did not send", subject)
    large = bool(flags & _LARGE)
    if size > limit:
        raise CorruptChannel(
            f"a message of {size} bytes was announced, and the limit is {limit}",
            subject=subject,
            remedy=f"open this end with max_message={size} if the sender is right",
        )
    if riding != announced + large:
        raise _corrupt(f"{announced} descriptors were announced, and {riding} came", subject)
    if not large and (length > len(room) or size != length - HEADER.size):
        raise _corrupt(f"a message of {size} bytes was announced in a packet of {length}", subject)
    return Packet(kind, size, large)


def _corrupt(what: str, subject: str) -> CorruptChannel:
    return CorruptChannel(
        what,
        subject=subject,
        remedy="does the other side send bare bytes? then open this end with framing=raw",
    )
