"""What the kernel refuses by semop(2) and semctl(2), as errors for people."""

from __future__ import annotations

import errno
import os

from kinfolk._native import sysv_sem_about, sysv_sem_values
from kinfolk.errors import (
    AccessDenied,
    Closed,
    ForkedCopy,
    InvalidValue,
    KernelError,
    KinfolkError,
    LimitReached,
    NotFound,
    Timeout,
)
from kinfolk.sync.sysv_sem_limits import MOST, limits

_SHOWN = 8  # values in one line


def refused(error: int, number: int, n: int, subject: str) -> KinfolkError:
    """The error for an errno, of a set of n semaphores by its id."""
    match error:
        case errno.EINVAL | errno.EIDRM:
            return NotFound(
                "the set was removed",
                subject=subject,
                why="somebody has unlinked it",
                remedy="open it anew",
                code=errno.EIDRM,
            )
        case errno.EBADF:
            return Closed("this set is closed", subject=subject)
        case errno.EFBIG:
            return InvalidValue(
                "there is no semaphore of this index",
                subject=subject,
                why=f"the set has {n}, counted from 0",
                remedy="give a smaller one",
            )
        case errno.EDOM:
            return InvalidValue(
                "this count makes no sense",
                subject=subject,
                remedy=f"give a whole number from 1 to {MOST}",
            )
        case errno.ERANGE:
            return LimitReached(
                "this would be too many",
                subject=subject,
                why=f"a value is at most {MOST} (SEMVMX), and so is what is to be undone for one process; {_values(number)}",
                remedy="let the process release that acquired, or operate with undo=False",
                code=errno.ERANGE,
            )
        case errno.E2BIG:
            most = limits()
            return LimitReached(
                "these are too many operations for one call",
                subject=subject,
                why="" if most is None else f"SEMOPM is {most.operations}",
                remedy="give fewer"
                + (f", or raise it: {most.raised(operations=2 * most.operations)}" if most else ""),
                code=errno.E2BIG,
            )
        case errno.ENOMEM:
            return LimitReached(
                "what is to be undone can't be remembered",
                subject=subject,
                why=os.strerror(errno.ENOMEM),
                remedy="free memory, or operate with undo=False",
                code=errno.ENOMEM,
            )
        case errno.ECHILD:
            return ForkedCopy(
                "this process did not take it",
                subject=subject,
                why="the block was entered before the fork, by the parent, which will put it back",
                remedy="acquire it here too, or fork outside the with block",
            )
        case errno.EACCES | errno.EPERM:
            return AccessDenied(
                "this user may not do that",
                subject=subject,
                why=os.strerror(error),
                remedy="let its owner chmod() it, or do it himself",
                code=error,
            )
    return KernelError(os.strerror(error), subject=subject, code=error)


def timed_out(timeout: float, number: int, subject: str) -> Timeout:
    """The error for what could not be done in so many seconds."""
    return Timeout(
        "not acquired",
        subject=subject,
        why=f"it could not be done for all the {float(timeout):g} s; {_values(number)}",
        remedy="see who takes and does not put back, or wait longer",
    )


def _values(number: int) -> str:
    """What the values are just now, for people."""
    try:
        values = sysv_sem_values(number)
        pid = sysv_sem_about(number, 0)[0] if len(values) == 1 else 0
    except OSError as error:
        return f"its values can't be seen: {os.strerror(error.errno or 0)}"
    if len(values) > 1:
        shown = ", ".join(map(str, values[:_SHOWN]))
        return f"the values are {shown}{', …' if values[_SHOWN:] else ''}"
    return f"the value is {values[0]}" + (f", and process {pid} changed it last" if pid else "")
