"""The processes that use an object, its members, who watch each other (native/members.c): how many, and what stands against it."""

from __future__ import annotations

import errno
import os

from kinfolk import process_limit
from kinfolk.errors import InvalidValue, KinfolkError, LimitReached, from_os_error

#: bytes of shared memory that each takes
ROW = 64
#: how many at a time, unless it is said otherwise; and at most
USUAL, MOST = 64, 1024


def check(members: int, kind: str) -> None:
    """Raise InvalidValue for a number of ``members`` that a ``kind`` of object can't have."""
    if not isinstance(members, int) or isinstance(members, bool) or not 1 <= members <= MOST:
        raise InvalidValue(
            f"a {kind} can't have members={members!r}",
            remedy=f"give a whole number from 1 to {MOST:,}",
        )


def refused(error: int, subject: str, most: int) -> KinfolkError | None:
    """The error for an errno of joining the others, up to so many, or of watching them; None for any other."""
    match error:
        case errno.EUSERS:
            return LimitReached(
                "too many processes use it",
                subject=subject,
                why=f"it was made for {most} at a time",
                remedy="close it where it is not needed, or make it with more members=",
                code=error,
            )
        case errno.EAGAIN:
            return process_limit.refused(
                error, "no thread that watches the others can be started", subject
            )
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            return from_os_error(
                OSError(error, os.strerror(error)), "can't watch who else uses it", subject
            )
        case errno.ENOSPC:
            return LimitReached(
                "can't watch who else uses it",
                subject=subject,
                why="this user watches too many descriptors",
                remedy="raise the limit: sysctl fs.epoll.max_user_watches",
                code=error,
            )
        case _:
            return None
