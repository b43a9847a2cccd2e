"""What the kernel allows for System V shared memory, and what to do when it says no (shmget(2))."""

from __future__ import annotations

import errno
import os

from kinfolk.errors import KinfolkError, LimitReached, NoSpace, from_os_error
from kinfolk.memory.sysv_segment import all_segments
from kinfolk.room import no_space, room_in_memory
from kinfolk.sysctl import kernel_number

_PAGE = os.sysconf("SC_PAGESIZE")


def refused(error: OSError, size: int, subject: str) -> KinfolkError:
    """The error for a segment of so many bytes that can't be made."""
    match error.errno:
        case errno.ENOMEM:
            return no_space(size, room_in_memory(), subject, errno.ENOMEM)
        case errno.EINVAL:
            return LimitReached(
                f"a segment of {size} bytes can't be made",
                subject=subject,
                why=f"kernel.shmmax is {kernel_number('kernel.shmmax')}",
                remedy=f"ask for less, or raise it: sysctl kernel.shmmax={size}",
                code=errno.EINVAL,
            )
        case errno.ENOSPC:
            return _full(size, subject)
    return from_os_error(error, "can't be created", subject)


def _full(size: int, subject: str) -> NoSpace:
    segments = [status for _, status in all_segments()]
    most = kernel_number("kernel.shmmni")
    if len(segments) >= most:
        what, why = "no more System V segments can be made", f"kernel.shmmni is {most}"
        raising = f"sysctl kernel.shmmni={2 * most}"
    else:
        pages = kernel_number("kernel.shmall")
        used = sum(-(-status.size // _PAGE) for status in segments)
        what = f"there is no room for {size} bytes"
        why = f"asked for {size}, free {(pages - used) * _PAGE}, kernel.shmall is {pages} pages in all"
        raising = f"sysctl kernel.shmall={used + 2 * -(-size // _PAGE)}"
    return NoSpace(
        what,
        subject=subject,
        why=why,
        remedy=f"remove segments that nobody needs (ipcs -m, ipcrm -m ID), or raise it: {raising}",
    )
