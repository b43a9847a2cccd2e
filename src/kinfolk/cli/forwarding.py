"""Messages that are passed on as they came: bytes as bytes, objects as objects.

With bare bytes there is no message without bytes on a stream, and none is passed on where it can't be told from an end.
"""

from __future__ import annotations

from typing import Any

from kinfolk.cli.ends import Receiving, Sending, Style


async def receive(end: Receiving, style: Style) -> Any:
    """The next message: bytes, or an object if it came as one."""
    return await (end.arecv_bytes() if style is Style.RAW else end.arecv())


async def send(end: Sending, style: Style, message: Any) -> None:
    """Send what `receive` gave."""
    if isinstance(message, bytes):
        if message or end.limits.empty_messages:
            await in_pieces(end, style, message)
    else:
        await end.asend(message)


async def in_pieces(end: Sending, style: Style, data: bytes) -> None:
    """Send bytes as one message; bare ones in as many as the limits ask for."""
    largest = end.limits.max_message
    if style is not Style.RAW or len(data) <= largest:
        await end.asend_bytes(data)
        return
    for start in range(0, len(data), largest):
        await end.asend_bytes(memoryview(data)[start : start + largest])
