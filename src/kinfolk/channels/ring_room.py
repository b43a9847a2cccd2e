"""A block of a ring in which a message is built where it will be read: a Room of `kinfolk.channels.reserving`.

Rule: a block has one message; once that is sent, or dropped, the block goes when nobody looks at it any more.
"""

from __future__ import annotations

from typing import Protocol

from kinfolk._native import Block
from kinfolk.interest import Steps


class SendsBlocks(Protocol):
    """The end that it is sent by."""

    def put_block_now(self, kind: int, block: Block) -> bool:
        """Send what is in a block, if that takes no wait."""

    def put_block(self, kind: int, block: Block) -> Steps[None]:
        """Send what is in a block."""


class RingRoom:
    """A block, until it is sent or dropped."""

    def __init__(self, end: SendsBlocks, block: Block) -> None:
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
