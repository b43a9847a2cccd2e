"""What a receiver over many connections asks of each: a reader, of streams or of packets.

Rule: a reader never waits, and does not own its socket.
"""

from __future__ import annotations

from typing import Protocol

from kinfolk.channels.contract import Message


class MessageReader(Protocol):
    """Makes messages of what comes on one socket."""

    #: whether what came was kinfolk's, so that a sender is there, or was
    spoke: bool

    @property
    def dropped(self) -> int:
        """Messages that were dropped."""

    def next_message(self) -> Message | None:
        """The next message, None when none is whole. Raises EndOfChannel, CorruptChannel."""

    def buffered(self) -> bool:
        """Whether a message was read ahead."""

    def in_the_middle(self) -> bool:
        """Whether anything was read ahead, of which a forked copy knows nothing."""

    def has_part(self) -> bool:
        """Whether a message is in part here, so that nobody else can go on with it."""

    def give_ahead(self) -> bytes:
        """What was read ahead, for somebody who goes on."""

    def discard(self) -> None:
        """Give back what an incomplete message holds."""
