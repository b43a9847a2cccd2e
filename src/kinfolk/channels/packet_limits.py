"""What a packet socket is told, and where it ends: its options, its buffer, its largest packet, and what a larger message weighs.

The kernel charges what waits to the *sending* socket (SO_SNDBUF), each packet with some hundred bytes of its own, and lets a
packet in while less than the whole buffer is charged. A packet may be as long as the buffer, a little less.
"""

from __future__ import annotations

import errno
import socket

from kinfolk.channels.contract import DEFAULT_MAX_MESSAGE, Limits
from kinfolk.channels.packet_format import HEADER
from kinfolk.errors import LimitReached

#: The largest packet of ours, whatever the socket buffer: every receiver has so much room.
LARGEST_PACKET = 1 << 18
#: A message in memory of its own weighs this part of the socket buffer.
LARGE_SHARE = 8

_KERNEL_SHARE = 32  # of the socket buffer, see unix_dgram_sendmsg


def buffer_size(sock: socket.socket) -> int:
    """SO_SNDBUF: bytes that may wait before a sender blocks, with what the kernel adds to each packet."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def largest_packet(sock: socket.socket) -> int:
    """Bytes in the largest packet that the kernel takes from this socket."""
    return buffer_size(sock) - _KERNEL_SHARE


def largest_inline(sock: socket.socket) -> int:
    """Bytes in the largest message that goes in a packet itself."""
    return min(largest_packet(sock), LARGEST_PACKET) - HEADER.size


def packet_limits(
    mechanism: str,
    sock: socket.socket,
    max_message: int | None,
    *,
    raw: bool,
    presence: bool = True,
    depth: int | None = None,
    receivers: str = "many",
) -> Limits:
    """The limits of a packet socket, its buffer read from the kernel."""
    remedy = "open both ends with a larger max_message"
    notes = [
        "The capacity counts some hundred bytes more for each packet than it holds.",
        "A receiver learns of the death of a sending process when the kernel has torn it down: usually within"
        " 1 ms, later for a process of some GiB.",
    ]
    if raw:
        largest = largest_packet(sock)
        remedy = "use framing=framed, or open this end with a larger capacity"
    else:
        largest = max_message or DEFAULT_MAX_MESSAGE
        inline = largest_inline(sock)
        notes.append(
            f"Messages of more than {inline} bytes ride in memory of their own, at most {LARGE_SHARE} at once"
            " for each socket that sends; before Python 3.13 the receiver holds a descriptor for each that it keeps."
        )
    return Limits(
        mechanism,
        max_message=min(largest, max_message or largest),
        capacity=buffer_size(sock),
        depth=depth,
        senders="many",
        receivers=receivers,
        presence=presence,
        descriptors=True,
        empty_messages=not raw,
        too_big_remedy=remedy,
        notes=tuple(notes),
    )


def set_options(sock: socket.socket, capacity: int | None, subject: str) -> None:
    """What every packet socket needs before it gets a name or a peer. Raises LimitReached."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    if capacity is not None:
        set_capacity(sock, capacity, subject)


def set_capacity(sock: socket.socket, capacity: int, subject: str) -> None:
    """SO_SNDBUF. Raises LimitReached, naming the kernel's limit, which would else cut it down in silence."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, min(capacity, 2**31 - 1))
    if buffer_size(sock) // 2 < capacity:  # the kernel doubles it, see socket(7)
        with open("/proc/sys/net/core/wmem_max", encoding="ascii") as file:
            largest = int(file.read())
        raise LimitReached(
            f"the socket buffer can't be made {capacity} bytes large",
            subject=subject,
            why=f"the kernel gives {largest} at most",
            remedy=f"ask for less, or raise it: sysctl net.core.wmem_max={capacity}",
            code=errno.EPERM,
        )
