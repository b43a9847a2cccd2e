"""How sizes and shapes are written: ``48``, ``4KiB``, ``8MiB``; ``4x1`` is four senders and one
receiver.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from kinfolk.errors import InvalidValue

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*(?:([kmg])(?:ib)?|b)?", re.IGNORECASE)
_SHAPE = re.compile(r"(\d+)\s*[x×]\s*(\d+)", re.IGNORECASE)

#: More would be processes without a CPU in any machine that this was tried on.
_MOST_ENDS = 256


def parse_size(text: str) -> int:
    """Bytes. Raises InvalidValue."""
    found = _SIZE.fullmatch(text.strip())
    size = int(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0
    if size < 1:
        raise InvalidValue(
            f"size {text!r} makes no sense", remedy="give bytes, such as 48, 4KiB or 8MiB"
        )
    return size


def format_size(size: int) -> str:
    """The shortest exact spelling, with a space before the unit."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} B"


class Shape(NamedTuple):
    """How many processes send, and how many receive."""

    senders: int = 1
    receivers: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``4x1``. Raises InvalidValue."""
        found = _SHAPE.fullmatch(text.strip())
        if found:
            shape = cls(int(found[1]), int(found[2]))
            if min(shape) >= 1 and max(shape) <= _MOST_ENDS:
                return shape
        raise InvalidValue(
            f"shape {text!r} makes no sense",
            remedy=f"give senders x receivers, such as 4x1, each from 1 to {_MOST_ENDS}",
        )

    def __str__(self) -> str:
        return f"{self.senders}×{self.receivers}"
