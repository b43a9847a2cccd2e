"""Messages that are passed on as they came: bytes as bytes, objects as objects.

Rules:
1. With bare bytes there is no message without bytes on a stream, and none is passed on where it can't be told from an end.
2. Bare bytes, and the blocks of a checked transfer (`kinfolk.cli.transfer`), are cut where the next mechanism carries
   less: whoever receives them puts them together. Any other message is whole or an error.
"""

from __future__ import annotations

from typing import Any

from kinfolk.cli import transfer
from kinfolk.cli.ends import Receiving, Sending, Style


async def receive(end: Receiving, style: Style) -> Any:
    """The next message: bytes, or an object if it came as one."""
    return await (end.arecv_bytes() if style is Style.RAW else end.arecv())


async def send(end: Sending, style: Style, message: Any, *, divisible: bool = False) -> None:
    """Send what `receive` gave; ``divisible`` bytes in as many messages as the limits ask for."""
    if not isinstance(message, bytes):
        await end.asend(message)
    elif message or end.limits.empty_messages:
        largest = end.limits.max_message
        if len(message) <= largest or not (divisible or style is Style.RAW):
            await end.asend_bytes(message)
            return
        for start in range(0, len(message), largest):
            await end.asend_bytes(memoryview(message)[start : start + largest])


class Passage:
    """One direction between two ends."""

    def __init__(self, source: Receiving, style: Style, sink: Sending, sink_style: Style) -> None:
        """The styles are how data travels on either side."""
        self._source, self._style = source, style
        self._sink, self._sink_style = sink, sink_style
        self._in_transfer = False

    async def receive(self) -> Any:
        """The next message. A cancelled call loses none."""
        return await receive(self._source, self._style)

    async def pass_on(self, message: Any) -> None:
        """Send what was received."""
        self._in_transfer = transfer.goes_on_after(message, self._in_transfer)
        await send(self._sink, self._sink_style, message, divisible=self._in_transfer)
