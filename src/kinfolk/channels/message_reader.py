"""What a receiver over many connections asks of each: a reader, of streams or of packets.

Rules:
1. A reader never waits, and does not own its socket.
2. What it has read ahead is known to this process alone: it goes along when the end is passed on, and a forked copy
   may not go on without it.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from kinfolk.channels.contract import Message
from kinfolk.errors import Busy, ForkedCopy


class MessageReader(Protocol):
    """Makes messages of what comes on one socket."""

    #: whether what came was kinfolk's, so that a sender is there, or was
    spoke: bool
    #: whether the next message can be found behind something corrupt
    goes_on: ClassVar[bool]

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

    def keep_ahead(self) -> None:
        """Nobody goes on with what was given: this reader does."""

    def discard(self) -> None:
        """Give back what an incomplete message holds."""


def check_copy(reader: MessageReader, subject: str) -> None:
    """Raise ForkedCopy in a forked process whose parent holds a part of the stream."""
    if reader.in_the_middle():
        raise ForkedCopy(
            "this copy can't receive",
            subject=subject,
            why="the process that was forked had read ahead here",
            remedy="fork before the first receive, or pass the end to the process instead",
        )


def pass_ahead(reader: MessageReader, subject: str) -> bytes:
    """What a reader has read ahead, to go on elsewhere. Raises Busy in the middle of a message."""
    if reader.has_part():
        raise Busy(
            "an end can't be passed on in the middle of a message",
            subject=subject,
            remedy="receive it first",
        )
    return reader.give_ahead()
