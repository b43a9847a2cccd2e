"""What the address of a ring may ask for: how large it is, for whom, and on which terms. For `ring:` and `file:`.

capacity      bytes for small messages: 1 MiB
arena         bytes of blocks for large ones: 256 MiB, or twice `max_message`
mode          of its file, without a bit for others: 0600
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kinfolk.channels.address import Address
from kinfolk.errors import AddressError, UntrustedPeer

_CAPACITY = 1 << 20
_SMALLEST, _LARGEST = 1 << 12, 1 << 34
_ARENA = 256 << 20
_SMALLEST_ARENA, _LARGEST_ARENA = 1 << 16, 1 << 40


class Terms(NamedTuple):
    """What an end was asked to be."""

    #: bytes in the largest message, if that is less than fit
    most: int | None = None
    #: whether messages are bare bytes
    raw: bool = False
    #: whether who receives a message has to acknowledge it
    acknowledge: bool = False


def refuse_others(address: Address) -> None:
    """Raise UntrustedPeer for a mode that lets other users in."""
    if (address.options.mode or 0o600) & 0o077:
        raise UntrustedPeer(
            "a ring is for processes of one user",
            subject=str(address),
            why="whoever may write to its memory can do with its peers what he likes",
            remedy="leave mode out, or use unix: or fifo: with codec=msgpack between users",
        )


def refuse_acknowledging(address: Address) -> None:
    """Raise AddressError for a sender that is told to acknowledge."""
    if address.options.acknowledge is not None:
        raise AddressError(
            "acknowledge= is for receivers",
            subject=str(address),
            remedy="leave it out: senders see it in the ring",
        )


def for_sender(address: Address) -> Address:
    """The address of both ends, as that of the one that sends."""
    return replace(address, options=replace(address.options, acknowledge=None))


def terms_of(address: Address) -> Terms:
    """What its ends are asked to be."""
    options = address.options
    return Terms(options.max_message, options.framing == "raw", bool(options.acknowledge))


def sizes_of(address: Address) -> tuple[int, int]:
    """Of the ring, and of its arena: powers of two. Raises AddressError."""
    options = address.options
    arena = options.arena
    if arena is None:
        arena = max(_ARENA, 2 * (options.max_message or 0))
    capacity = options.capacity or _CAPACITY
    return (
        _rounded("a ring", capacity, _SMALLEST, _LARGEST, address),
        _rounded("an arena", arena, _SMALLEST_ARENA, _LARGEST_ARENA, address),
    )


def _rounded(what: str, wanted: int, smallest: int, largest: int, address: Address) -> int:
    if wanted > largest:
        raise AddressError(
            f"{what} of {wanted} bytes is too large",
            subject=str(address),
            why=f"the limit is {largest}",
            remedy="ask for less, or a smaller max_message",
        )
    return max(smallest, 1 << (wanted - 1).bit_length())
