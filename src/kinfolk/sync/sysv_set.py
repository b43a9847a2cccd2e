"""System V semaphore sets as the kernel has them: what it says of one, and how one is made that nobody finds half made.

A set is made by one system call (semget(2)) and gets its values by another. Between the two anybody may find it, with zeros
in it, and its maker may be killed; the kernel does not say who that was.

    maker    lock ── semget, mode with MAKING ── SETALL ── semop that changes nothing ── mode without MAKING ── unlock
                                                           └ sets sem_otime
    kinfolk  lock ── MAKING? its maker held the lock, so he is dead:  sem_otime 0? fill it.  Take the mark away. ── unlock
    C        as ever: wait until sem_otime is not 0

Rules:
1. MAKING is execute bits, which mean nothing here (semget(2)), in a combination that nobody gives: of a program's 0700 and 0777
   it can be told. The lock is that of this user's runtime directory. So between processes of kinfolk nothing is left to guess, or to
   wait for.
2. A set without the mark was made by another program. It is ready when somebody has operated on it (sem_otime), or every
   semaphore has a value, or a process that gave it one. Else it is being made, or its maker is dead. That can't be told: after
   PATIENCE it is an error, which names the set. It is never filled here, for its maker may only be slow.
3. A key is anybody's: a set of another user is refused, unless that user was named.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kinfolk._native import (
    sysv_sem_about,
    sysv_sem_get,
    sysv_sem_remove,
    sysv_sem_set_mode,
    sysv_sem_set_values,
    sysv_sem_stamp,
    sysv_sem_status,
    sysv_sem_values,
)
from kinfolk.errors import (
    AccessDenied,
    CorruptObject,
    InvalidValue,
    KinfolkError,
    NotFound,
    from_os_error,
)
from kinfolk.interest import Interest, Steps
from kinfolk.ownership import check_owner
from kinfolk.rendezvous import NotYet
from kinfolk.sync import name_lock, sysv_sem_limits

MAKING = 0o011
_EXECUTE = 0o111
PATIENCE = 5.0  # seconds that a maker may take
GONE = (errno.EINVAL, errno.EIDRM)  # there is no such id (any more)
_LOOK_AGAIN = 0.005
_IPC_CREAT, _IPC_EXCL = 0o1000, 0o2000
_TABLE = "/proc/sysvipc/sem"


class Status(NamedTuple):
    """What IPC_STAT says of a set."""

    n: int
    owner: int
    creator: int
    mode: int
    key: int
    #: seconds since the epoch: of the last semop, 0 before the first; of the last change by semctl, or of its making
    operated: int
    changed: int

    @property
    def in_the_making(self) -> bool:
        """Whether a process of kinfolk has not completed it."""
        return self.mode & _EXECUTE == MAKING


class Terms(NamedTuple):
    """How a set is to be, if it is made."""

    n: int
    #: None: it is not to be made
    values: Sequence[int] | None
    mode: int


def status_of(number: int) -> Status:
    """What the kernel says of a set. Raises OSError: `GONE`; EACCES without the right to read."""
    return Status(*sysv_sem_status(number))


def all_sets() -> Iterator[tuple[int, Status]]:
    """Every set of this IPC namespace, by its id (proc_sysvipc(5)). Raises OSError."""
    with open(_TABLE) as table:
        next(table)
        for line in table:
            words = line.split()
            key, number, mode = int(words[0]), int(words[1]), int(words[2], 8)
            n, owner, creator = int(words[3]), int(words[4]), int(words[6])
            yield number, Status(n, owner, creator, mode, key, int(words[8]), int(words[9]))


# ── by key ───────────────────────────────────────────────────────────────────────────────────


def find_or_make(key: int, terms: Terms, owner: int | None, subject: str) -> Steps[int]:
    """The id of the set of a key, which is made if there is none. Raises KinfolkError."""
    patience = time.monotonic() + PATIENCE
    while True:
        with (yield from name_lock.lock(subject)):
            number = _look(key, terms, owner, subject)
        if number is not None:
            return number
        if time.monotonic() > patience and (number := _found(key)) is not None:
            raise _abandoned(number, subject)
        yield Interest(again_in=_LOOK_AGAIN)


def _look(key: int, terms: Terms, owner: int | None, subject: str) -> int | None:
    """The id of the set, complete; None while somebody else is making it. Under the lock."""
    while True:
        with contextlib.suppress(NotYet):
            number = _found(key)
            if number is None:
                return make(key, terms, subject)
            status = _trusted(number, owner, subject)
            if status.in_the_making and status.creator == os.geteuid():
                _complete(number, status, terms, subject)
                continue
            if not _is_ready(number, status):
                return None
            if status.n < terms.n:
                raise InvalidValue(
                    f"the set has {status.n}, and {terms.n} are needed",
                    subject=subject,
                    remedy="see who made it, or remove it (unlink, ipcrm -s) and make it anew",
                )
            return number


def _found(key: int) -> int | None:
    try:
        return sysv_sem_get(key, 0, 0)
    except FileNotFoundError:
        return None


def _trusted(number: int, owner: int | None, subject: str) -> Status:
    """What is known of a set, after a look at whose it is. Raises NotYet when it has gone."""
    denied = None
    try:
        status = status_of(number)
    except PermissionError as error:  # the table tells everybody
        denied, status = error, _in_table(number)
    except OSError as error:
        if error.errno in GONE:
            raise NotYet from None
        raise from_os_error(error, "can't see whose it is", subject) from error
    for user in (status.owner, status.creator):
        check_owner({user}, owner, "a semaphore set", subject, "open it")
    if denied is not None:
        raise AccessDenied(
            "can't open it",
            subject=subject,
            why=f"its mode is {status.mode & 0o777:04o}",
            remedy="let its owner give you the right to read and alter it",
        ) from denied
    return status


def _in_table(number: int) -> Status:
    for there, status in all_sets():
        if there == number:
            return status
    raise NotYet


def _is_ready(number: int, status: Status) -> bool:
    """Rule 2."""
    if status.in_the_making:
        return False
    if status.operated:
        return True
    try:
        values = sysv_sem_values(number)
        return all(value or sysv_sem_about(number, at)[0] for at, value in enumerate(values))
    except OSError as error:
        if error.errno in GONE:
            raise NotYet from None
        raise


def _abandoned(number: int, subject: str) -> KinfolkError:
    return CorruptObject(
        "this set has no values",
        subject=subject,
        why=f"whoever made it has given it none for {PATIENCE:g} s, and may have been killed before",
        remedy=f"remove it (ipcrm -s {number}), so that it is made anew",
    )


# ── making ───────────────────────────────────────────────────────────────────────────────────


def make(
    key: int, terms: Terms, subject: str, prepare: Callable[[int], object] = lambda number: None
) -> int:
    """A new set, complete; ``prepare(id)`` is called before it is. Under the lock.

    Raises NotYet when somebody was quicker, NotFound when it is not to be made.
    """
    if terms.values is None:
        raise NotFound(
            "there is no such set",
            subject=subject,
            remedy="make it: give it the value that it shall have",
        )
    try:
        number = sysv_sem_get(key, terms.n, _IPC_CREAT | _IPC_EXCL | terms.mode | MAKING)
    except FileExistsError:
        raise NotYet from None
    except OSError as error:
        raise sysv_sem_limits.not_made(error, terms.n, subject) from error
    try:
        prepare(number)
        _fill(number, terms.values, terms.mode)
    except BaseException as error:
        with contextlib.suppress(OSError):
            sysv_sem_remove(number)
        if not isinstance(error, OSError) or isinstance(error, KinfolkError):
            raise
        if error.errno in GONE:
            raise NotYet from None
        denied = isinstance(error, PermissionError)
        remedy = "give a mode= that lets you in" if denied else ""
        raise from_os_error(error, "can't use what was made", subject, remedy) from error
    return number


def _fill(number: int, values: Sequence[int], mode: int) -> None:
    sysv_sem_set_values(number, packed(values))
    with contextlib.suppress(BlockingIOError):  # a C program has operated on it already: as good
        sysv_sem_stamp(number, values[0])
    sysv_sem_set_mode(number, mode)


def _complete(number: int, status: Status, terms: Terms, subject: str) -> None:
    """What a maker of ours left when he was killed: make it whole, or remove it. Under the lock. Raises NotYet."""
    try:
        if status.operated:
            sysv_sem_set_mode(number, status.mode & 0o666)
        elif terms.values is not None and terms.n == status.n:
            _fill(number, terms.values, terms.mode)
        else:
            sysv_sem_remove(number)
    except OSError as error:
        if error.errno in GONE:
            raise NotYet from None
        raise from_os_error(error, "can't be completed", subject) from error


def packed(values: Sequence[int]) -> bytes:
    """As SETALL takes them."""
    return struct.pack(f"@{len(values)}H", *values)
