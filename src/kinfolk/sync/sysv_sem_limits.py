"""What the kernel allows for System V semaphores, and what to do when it says no (semget(2), semop(2)).

``kernel.sem`` is four numbers: of semaphores in a set (SEMMSL), in all sets (SEMMNS), of operations in one call (SEMOPM), of
sets (SEMMNI). That a value, and what is to be undone for one process, is at most 32,767 (SEMVMX, SEMAEM) is the kernel's own.
"""

from __future__ import annotations

import errno
import os
from typing import Any, NamedTuple

from kinfolk.errors import InvalidValue, KinfolkError, LimitReached, NoSpace, from_os_error
from kinfolk.sysctl import kernel_numbers

#: The greatest value (SEMVMX).
MOST = 32767

#: An index is an unsigned short (semop(2)).
_INDICES = 65536


def check_n(n: object, subject: str) -> None:
    """How many semaphores a set is to have. Raises InvalidValue, LimitReached."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InvalidValue(f"n={n!r} makes no sense", subject=subject, remedy="give 1 or more")
    if n > _INDICES:  # the kernel takes an int
        raise not_made(OSError(errno.EINVAL, os.strerror(errno.EINVAL)), n, subject)


def check_values(values: object, n: int, subject: str) -> list[int]:
    """The values of n semaphores: a number for all, or one for each. Raises InvalidValue, LimitReached."""
    given = [values] * n if isinstance(values, int) else values
    listed: list[Any]
    try:
        listed = list(given)  # type: ignore[call-overload]
    except TypeError:
        listed = [given]
    for value in listed:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidValue(
                f"a semaphore can't have the value {value!r}",
                subject=subject,
                remedy="give a whole number from 0 up, or one for each of the set",
            )
        if value > MOST:
            raise LimitReached(
                f"a semaphore can't have the value {value}",
                subject=subject,
                why=f"SEMVMX is {MOST}",
                remedy="give a smaller one, or use kin.Semaphore",
                code=errno.ERANGE,
            )
    if len(listed) != n:
        raise InvalidValue(
            f"there are {n} semaphores, and {len(listed)} values",
            subject=subject,
            remedy="give one number for all, or one for each",
        )
    return listed


class Limits(NamedTuple):
    """The four numbers of ``kernel.sem``."""

    in_a_set: int
    in_all: int
    operations: int
    sets: int

    def raised(self, **to: int) -> str:
        """How to raise some of them."""
        return f'sysctl kernel.sem="{" ".join(map(str, self._replace(**to)))}"'


def limits() -> Limits | None:
    """Those of just now; None when they can't be read (without a descriptor left, for one)."""
    try:
        return Limits(*kernel_numbers("kernel.sem"))
    except OSError:
        return None


def not_made(error: OSError, n: int, subject: str) -> KinfolkError:
    """The error for a set of n semaphores that can't be made."""
    most = limits()
    if most is not None and error.errno == errno.EINVAL:
        return LimitReached(
            f"a set of {n} semaphores can't be made",
            subject=subject,
            why=f"SEMMSL is {most.in_a_set}",
            remedy=f"ask for fewer, or raise it: {most.raised(in_a_set=n)}",
            code=errno.EINVAL,
        )
    if most is not None and error.errno == errno.ENOSPC:
        return NoSpace(
            f"a set of {n} semaphores can't be made",
            subject=subject,
            why=f"there may be {most.sets} sets (SEMMNI), and {most.in_all} semaphores in all (SEMMNS)",
            remedy="remove sets that nobody needs (ipcs -s, ipcrm -s ID), or raise it: "
            + most.raised(in_all=most.in_all + 2 * n, sets=2 * most.sets),
        )
    return from_os_error(error, "can't be made", subject)
