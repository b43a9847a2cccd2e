"""Objects as JSON, for a person or another program; and JSON texts as objects."""

from __future__ import annotations

import json
from typing import Any

import kinfolk as kin


def as_json_line(obj: object) -> bytes:
    """One line with the object.

    What JSON lacks is shown: bytes as text with escapes where they are no UTF-8, arrays as lists,
    anything else as Python would print it.
    """
    return (
        json.dumps(obj, default=_shown, ensure_ascii=False).encode(errors="backslashreplace")
        + b"\n"
    )


def _shown(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode(errors="backslashreplace")
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    return repr(value)


def from_json(text: bytes) -> Any:
    """The object that a JSON text says. Raises CodecError."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise kin.CodecError(
            "the message is no JSON text",
            why=str(error),
            remedy='write it as JSON ("text", 1, {"key": "value"}), or send bytes with --codec raw',
        ) from None


def excerpt(message: object) -> str:
    """A message as one short piece of text in quotes, for a log."""
    text = (
        message.decode(errors="backslashreplace") if isinstance(message, bytes) else repr(message)
    )
    return f'"{text[:_EXCERPT]}"' + ("…" if len(text) > _EXCERPT else "")


_EXCERPT = 200
