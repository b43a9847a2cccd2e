"""What opening an object in shared memory can find there (native/sync_object.c), as errors for people."""

from __future__ import annotations

import enum
import errno
import os

from kinfolk.errors import (
    CorruptObject,
    InvalidValue,
    KinfolkError,
    LimitReached,
    Timeout,
    Unsupported,
)

#: What every object lies at a multiple of: a cache line, which no neighbour's writes take away.
ALIGNMENT = 64


class Finding(enum.IntEnum):
    """``kin_finding`` of include/kinfolk.h."""

    SOUND = 0
    MISPLACED = 1
    ALIEN = 2
    OTHER_VERSION = 3
    OTHER_KIND = 4
    OTHER_NAMESPACE = 5
    OTHER_BOOT = 6
    UNSUPPORTED = 7
    TOO_MANY = 8
    EXHAUSTED = 9
    BEING_MADE = 10


def refusal(finding: int, kind: str, subject: str, size: int) -> KinfolkError:
    """The error for a ``kind`` of object, of so many bytes, that can't be opened there."""
    match finding:
        case Finding.MISPLACED:
            return InvalidValue(
                f"no {kind} can lie there",
                subject=subject,
                why=f"it takes {size} bytes, at a multiple of {ALIGNMENT}",
                remedy="choose another offset, or more memory",
            )
        case Finding.OTHER_VERSION:
            return CorruptObject(
                f"this {kind} has another layout",
                subject=subject,
                why="another version of kinfolk made it",
                remedy="let both sides run the same version, or make a new one",
            )
        case Finding.OTHER_KIND:
            return CorruptObject(
                f"what lies there is no {kind}, but another object of kinfolk", subject=subject
            )
        case Finding.OTHER_NAMESPACE:
            return Unsupported(
                f"this {kind} belongs to another pid namespace",
                subject=subject,
                why="it is released by the number of its owner's thread, which means something else here",
                remedy="use it in the container it was made in, or a file lock or a socket between containers",
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
                f"no {kind} can be had in this thread",
                subject=subject,
                why="it has no robust list as glibc makes them",
                remedy="use it in a thread that Python started",
            )
        case Finding.TOO_MANY:
            return too_many(subject)
        case _:
            return CorruptObject(f"what lies there is no {kind}", subject=subject)


def too_many(subject: str) -> LimitReached:
    """The error for a thread that holds as many robust locks as are safe."""
    return LimitReached(
        "this thread holds too many",
        subject=subject,
        why="the kernel releases 2,048 locks of a thread that dies, and not more",
        remedy="release some",
        code=errno.ENOLCK,
    )


def being_made(maker: int, kind: str, subject: str) -> Timeout:
    """The error for an object that a thread, its ``maker``, has been making for seconds; 0 if that has just gone."""
    return Timeout(
        f"this {kind} is still being made",
        subject=subject,
        why=f"{described(maker) if maker else 'somebody'} began that seconds ago, and it takes microseconds",
        remedy="see whether that is stopped: let it go on (kill -CONT), or end it, and open again",
    )


def described(thread: int) -> str:
    """A thread, wherever it is, for people."""
    try:
        with open(f"/proc/{thread}/status", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file)
        name, process = fields["Name"].strip(), int(fields["Tgid"])
    except (OSError, KeyError, ValueError):
        return f"thread {thread}"
    return (
        f"thread {thread} of this process"
        if process == os.getpid()
        else f"process {process} ({name})"
    )
