"""What the original, the guard and the daemon say to each other (`kinfolk.processes.daemon_birth`): packets on socket pairs."""

from __future__ import annotations

import contextlib
import os

import msgspec

from kinfolk import errors
from kinfolk.descriptors import Descriptor, above_standard
from kinfolk.errors import KinfolkError, SystemProblem

_PACKET = 1 << 16
_LONGEST = 4000  # characters of a text of an error: a packet has room for four


class Begun(msgspec.Struct, tag=True):
    """The daemon exists."""

    pid: int
    start_time: int


class Ready(msgspec.Struct, tag=True):
    """The daemon can do its work."""


class Failed(msgspec.Struct, tag=True):
    """It can't, and this error says why; ``code`` is what the original exits with."""

    kind: str
    what: str
    subject: str = ""
    why: str = ""
    remedy: str = ""
    errno: int | None = None
    code: int = 1

    @classmethod
    def by(cls, error: KinfolkError, code: int = 1) -> Failed:
        """By an error of kinfolk."""
        return cls(
            type(error).__name__,
            error.what[:_LONGEST],
            error.subject[:_LONGEST],
            error.why[:_LONGEST],
            error.remedy[:_LONGEST],
            getattr(error, "errno", None),
            code,
        )

    def error(self) -> KinfolkError:
        """The error, in the original."""
        kind = getattr(errors, self.kind, SystemProblem)
        made: KinfolkError = kind(
            self.what, subject=self.subject, why=self.why, remedy=self.remedy, code=self.errno
        )
        return made


Message = Begun | Ready | Failed
_decode = msgspec.msgpack.Decoder(Message).decode


def make() -> tuple[Descriptor, Descriptor]:
    """The two ends of a line, above the standard streams, which may be closed. Raises OSError."""
    import socket

    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    above, below = (
        Descriptor(above_standard(end.detach()), "the line of a daemon") for end in ends
    )
    return above, below


def say(line: Descriptor, message: Message) -> bool:
    """Say something; whether anybody still listens."""
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        # What a file name or an exception has of bytes that are no UTF-8 (surrogates) can't be packed.
        os.write(line.fileno(), _encode(message))
        return True
    return False


def hear(line: Descriptor) -> Message | None:
    """The next thing that was said; None when nobody is there any more to say anything."""
    packet = os.read(line.fileno(), _PACKET)
    return _decode(packet) if packet else None


def _encode(message: Message) -> bytes:
    if isinstance(message, Failed):
        for name in ("what", "subject", "why", "remedy"):
            text = getattr(message, name).encode(errors="backslashreplace").decode()
            setattr(message, name, text)
    return msgspec.msgpack.encode(message)
