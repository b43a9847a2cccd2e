"""Blocks for large messages, as an end of a ring that sends waits for one, and builds a message in it."""

from __future__ import annotations

from typing import Protocol

from kinfolk._native import Block
from kinfolk.interest import Steps


class BlockSender(Protocol):
    """What the end has to offer."""

    def block_for(self, size: int, milliseconds: int | None) -> None:
        """Sleep until there may be a block."""

    def wake(self) -> None:
        """End a blocked call, in whatever thread."""

    def put_block(self, kind: int, block: Block) -> Steps[None]:
        """Send what is in a block."""

    def put_block_now(self, kind: int, block: Block) -> bool:
        """Send it if that takes no wait."""


class BlockWait:
    """A BlockingCall: until there may be a block of so many bytes."""

    def __init__(self, end: BlockSender, size: int) -> None:
        self._end, self._size = end, size

    def block(self, milliseconds: int | None) -> bool:
        """Sleep until it may be worth another try."""
        self._end.block_for(self._size, milliseconds)
        return False

    def wake(self) -> None:
        """End a blocked call, in whatever thread."""
        self._end.wake()


class RingRoom:
    """A block in which a message is built: a Room of `kinfolk.channels.reserving`."""

    def __init__(self, end: BlockSender, block: Block) -> None:
        """Of an end that sends."""
        self._end, self._block = end, block

    def memory(self) -> memoryview:
        """All of it."""
        return memoryview(self._block)

    def send_now(self, kind: int) -> bool:
        """Send it, if that takes no wait."""
        self._block.seal()
        return self._end.put_block_now(kind, self._block)

    def send(self, kind: int) -> Steps[None]:
        """Send it."""
        return self._end.put_block(kind, self._block)

    def drop(self) -> None:
        """Give it back, or leave that to the last view."""
        del self._block
