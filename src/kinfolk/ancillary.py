"""What rides beside the bytes of a Unix socket: descriptors (SCM_RIGHTS) and credentials (SCM_CREDENTIALS), unix(7).

Rules:
1. `ROOM` holds all that the kernel can put there, so that it never has to drop a descriptor for want of it.
2. Descriptors that were read are the reader's, whatever else is wrong with the message.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from kinfolk.descriptors import above_standard
from kinfolk.errors import MessageTooBig
from kinfolk.identity import Peer

#: SCM_MAX_FD: more do not ride on one message.
MOST_DESCRIPTORS = 253

_UCRED = struct.Struct("@iII")

CREDENTIALS_ROOM = socket.CMSG_SPACE(_UCRED.size)
ROOM = CREDENTIALS_ROOM + socket.CMSG_SPACE(MOST_DESCRIPTORS * array.array("i").itemsize)


#: What sendmsg(2) takes beside the bytes.
Rights = Sequence[tuple[int, int, "array.array[int]"]]


def rights(descriptors: Sequence[int], subject: str) -> Rights:
    """What sendmsg(2) takes to let descriptors ride. Raises MessageTooBig for too many."""
    if not descriptors:
        return ()
    if len(descriptors) > MOST_DESCRIPTORS:
        raise MessageTooBig(
            f"{len(descriptors)} descriptors can't ride on one message",
            subject=subject,
            why=f"the kernel lets {MOST_DESCRIPTORS} ride, and a large message takes one of them",
            remedy="send them with several messages",
        )
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def read(ancillary: Iterable[tuple[int, int, bytes]]) -> tuple[Peer | None, list[int]]:
    """The sender, where the kernel says so, and the descriptors, which are the caller's from now on; none takes the number of a
    standard stream that is closed here. Raises OSError when none above is left: then they are lost.
    """
    sender, descriptors = None, array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            sender = Peer(*_UCRED.unpack(data))
    return sender, _above_standard(descriptors.tolist())


def _above_standard(descriptors: list[int]) -> list[int]:
    for place, number in enumerate(descriptors):
        if number <= 2:
            try:
                descriptors[place] = above_standard(number)
            except OSError:
                close_all(descriptors[:place] + descriptors[place + 1 :])
                raise
    return descriptors


def close_all(descriptors: Iterable[int]) -> None:
    """Give descriptors back that nobody wants."""
    for fd in descriptors:
        os.close(fd)
