"""What the address of a ring may ask for: how large it is, and for whom. For `ring:` and `file:`.

capacity      bytes for small messages: 1 MiB
arena         bytes of blocks for large ones: 256 MiB, or twice `max_message`
mode          of its file, without a bit for others: 0600
"""

from __future__ import annotations

from kinfolk.channels.address import Address
from kinfolk.errors import AddressError, UntrustedPeer

_CAPACITY = 1 << 20
_SMALLEST, _LARGEST = 1 << 12, 1 << 34
_ARENA = 256 << 20
_SMALLEST_ARENA, _LARGEST_ARENA = 1 << 16, 1 << 40


def refuse_others(address: Address) -> None:
    """Raise UntrustedPeer for a mode that lets other users in."""
    if (address.options.mode or 0o600) & 0o077:
        raise UntrustedPeer(
            "a ring is for processes of one user",
            subject=str(address),
            why="whoever may write to its memory can do with its peers what he likes",
            remedy="leave mode out, or use unix: or fifo: with codec=msgpack between users",
        )


def terms_of(address: Address) -> tuple[int | None, bool]:
    """The largest message, if that is less than fits; and whether bare bytes are sent."""
    return address.options.max_message, address.options.framing == "raw"


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
