"""What --framed adds: one transfer with a header and a trailer, so that the receiver knows that it has all of it.

    {"kinfolk": "transfer", "bytes": N or null}     an object, as msgpack
    bytes  bytes  bytes …                           messages of bytes
    {"kinfolk": "end", "bytes": N, "sha256": "…"}   an object, as msgpack

Rules:
1. Data are messages of bytes, header and trailer are objects: no data can be taken for a trailer.
2. The receiver ends at the trailer, so a transfer has an end on a message queue too.
3. Anything else than this order is CorruptChannel, and so is an end before the trailer.
"""

from __future__ import annotations

import hashlib
from typing import Any

import kinfolk as kin

_TRANSFER, _END = "transfer", "end"


def header(size: int | None) -> dict[str, Any]:
    """What is sent first; ``size`` in bytes, None when nobody knows it."""
    return {"kinfolk": _TRANSFER, "bytes": size}


class Checksum:
    """Counts and hashes what goes out or comes in."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        self._hash.update(data)
        self._bytes += len(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 so far, in hexadecimal."""
        return self._hash.hexdigest()

    def trailer(self) -> dict[str, Any]:
        """What is sent last."""
        return {"kinfolk": _END, "bytes": self._bytes, "sha256": self.sha256}

    def verify(self, trailer: object, subject: str) -> None:
        """Raise CorruptChannel unless the trailer says what came."""
        if trailer == self.trailer():
            return
        why = "an object came instead of the end of the transfer"
        if isinstance(trailer, dict) and trailer.get("kinfolk") == _END:
            why = f"{trailer.get('bytes')} bytes were sent and {self._bytes} came"
            if trailer.get("bytes") == self._bytes:
                why = "the SHA-256 of what was sent is another one"
        elif isinstance(trailer, dict) and trailer.get("kinfolk") == _TRANSFER:
            why = "another transfer began in the middle"
        raise kin.CorruptChannel(
            "what came is not what was sent",
            subject=subject,
            why=why,
            remedy="send it again, one sender at a time",
        )


def read_header(obj: object, subject: str) -> int | None:
    """The size that a header announces. Raises CorruptChannel for anything else."""
    if isinstance(obj, dict) and obj.get("kinfolk") == _TRANSFER:
        size = obj.get("bytes")
        return size if isinstance(size, int) and size >= 0 else None
    raise kin.CorruptChannel(
        "what came is not the beginning of a transfer",
        subject=subject,
        why="it is something that was left there, or was not sent by kin send --framed",
        remedy="receive messages of other programs with --codec raw, json or msgpack",
    )


def goes_on_after(message: object, inside: bool) -> bool:
    """Whether a transfer is open once ``message`` has passed; ``inside`` says whether one was before."""
    if isinstance(message, bytes):
        return inside
    return isinstance(message, dict) and message.get("kinfolk") == _TRANSFER


def cut_short(received: int, subject: str) -> kin.CorruptChannel:
    """The error for an end before the trailer."""
    return kin.CorruptChannel(
        "the transfer was cut short",
        subject=subject,
        why=f"the sender left after {received} bytes without saying that it was all",
        remedy="send it again",
    )
