"""What a ring can do, where it ends, and why one can't be opened."""

from __future__ import annotations

import errno
import os
from typing import NoReturn

from kinfolk._native import Ring
from kinfolk.channels.contract import Limits
from kinfolk.errors import (
    Closed,
    CorruptChannel,
    KinfolkError,
    LimitReached,
    MessageTooBig,
    NoSpace,
    Unsupported,
    UsageError,
)
from kinfolk.sync.findings import Finding

_LIFETIME = (
    "Nobody's exit is an end: the file and what is in it stay until unlink().",
    "What was sent is on the disk when the machine goes down in order; before a power cut, as far as fsync(2) of the file has come.",
)


def limits_of(native: Ring, wanted: int | None, *, presence: bool) -> Limits:
    """Of a ring that is open; ``wanted`` bytes in a message at most. Without ``presence`` it is a file."""
    return Limits(
        "ring" if presence else "file",
        presence=presence,
        max_message=min(native.most_in_block, native.most_in_block if wanted is None else wanted),
        capacity=native.capacity + native.arena,
        receivers="many",
        too_big_remedy="open it first with an arena= of twice the message",
        notes=(
            "Messages above 64 KiB lie in blocks of the arena: the largest has half of it. Arrays in them are read where they are, "
            "and keep their block as long as somebody looks at them; past half of the arena they are copied.",
            "Senders that found the ring full sleep until a quarter is free.",
            "Up to 64 processes at a time can have blocks.",
            "fileno() takes an inotify instance, of which a user has 128 by default; without one a task waits in a helper thread.",
            "A process that is stopped in the middle of a call holds up those who do the same.",
            "For processes of one user, in one pid namespace.",
            *(() if presence else _LIFETIME),
        ),
    )


def cut_short(subject: str, size: int) -> CorruptChannel:
    """The error for a ring that does not fit into its file any more."""
    return CorruptChannel(
        "this ring can't be used",
        subject=subject,
        why=f"its file was made shorter, to {size} bytes",
        remedy="remove the file; what was in it is lost",
    )


def name_goes_by_itself(subject: str) -> Unsupported:
    """The error for who would remove the name of a ring that has no file of its user's."""
    return Unsupported(
        "a ring's name goes with its last peer", subject=subject, remedy="close it: that is all"
    )


def raise_dropped(subject: str) -> NoReturn:
    """Raise Closed: the end was garbage when one of its shortcuts was called."""
    raise Closed(
        "this end is closed",
        subject=subject,
        why="nobody had it any more, but for one of its methods",
        remedy="keep the end in a variable, or use it in a with block",
    )


def refusal(found: int, subject: str) -> KinfolkError:
    """What a kin_finding means."""
    match found:
        case Finding.OTHER_VERSION:
            why = "another version of kinfolk made it"
        case Finding.OTHER_NAMESPACE:
            why = "it belongs to another pid namespace, where thread ids mean something else"
        case Finding.OTHER_BOOT:
            why = "another machine has it open, or it was overwritten"
        case Finding.OTHER_TERMS:
            return UsageError(
                "this ring was made on other terms",
                subject=subject,
                why="all of its receivers acknowledge what they receive, or none does",
                remedy="open it with acknowledge=, or without, as its first receiver did",
            )
        case Finding.EXHAUSTED:
            return LimitReached(
                "it can't be opened",
                subject=subject,
                why="this process may open no more files",
                remedy="close some, or raise the limit (ulimit -n)",
                code=errno.EMFILE,
            )
        case Finding.UNSUPPORTED:
            return Unsupported(
                "there can be no ring here",
                subject=subject,
                why="it takes futex_waitv(2), of Linux 5.16, and a robust list as glibc makes them",
                remedy="use unix: or fifo:",
            )
        case _:
            why = "it is no ring, or damaged"
    return CorruptChannel("this ring can't be opened", subject=subject, why=why)


def failure(
    error: OSError, subject: str, memory: int, native: Ring, limits: Limits
) -> OSError | KinfolkError:
    """What an errno of a ring that is open means."""
    made = _meaning(error, subject, memory, native, limits)
    made.__cause__ = None if made is error else error
    return made


def _meaning(
    error: OSError, subject: str, memory: int, native: Ring, limits: Limits
) -> OSError | KinfolkError:
    if isinstance(error, KinfolkError):
        return error
    if error.errno == errno.EMSGSIZE:
        return MessageTooBig(
            "it is too large for this ring",
            subject=subject,
            remedy=limits.too_big_remedy,
        )
    if error.errno == errno.ENOSPC:
        size = os.fstat(memory).st_size
        if size < sum(Ring.sizes(native.capacity, native.arena)[1:]):
            return cut_short(subject, size)
        room = os.fstatvfs(memory)
        return NoSpace(
            "there is no memory for a block",
            subject=subject,
            why=f"{room.f_bavail * room.f_frsize} bytes are free where the ring lies, and the arena may take {native.arena}",
            remedy="open it with a smaller arena=, so that senders wait; or remove what nobody needs there",
        )
    if error.errno == errno.EUSERS:
        return LimitReached(
            "as many processes have blocks of this ring as can",
            subject=subject,
            why="it has a row for 64",
            remedy="use a second ring, or smaller messages",
            code=errno.EUSERS,
        )
    if error.errno == errno.EINVAL:
        return UsageError(
            "this memory was reserved in another process, or by another end",
            subject=subject,
            remedy="reserve it where it is sent",
        )
    if error.errno in {errno.EBADMSG, errno.EILSEQ, errno.EDEADLK, errno.ENOTRECOVERABLE}:
        return CorruptChannel(
            "the memory of the ring was overwritten",
            subject=subject,
            remedy="close it on all sides, and open it anew",
        )
    return error
