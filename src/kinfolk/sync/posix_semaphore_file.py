"""What a named POSIX semaphore is: the file /dev/shm/sem.NAME, with a sem_t in it (sem_overview(7)).

    made    a file without a name ── the sem_t, with its value ── mode ── linkat(2) ──> the name, unless somebody has it
    found   path ── what is it, and whose? ── open

sem_open(3) of glibc makes it like that, too, but for three things: it takes the umask, so that a mode of 0600 may become
0000; it opens what it finds whosever that is; and it does not say which of the two it did.

Rules:
1. Whoever finds the name finds a semaphore that has its value: the name comes last, by one system call, when it is mapped already.
2. What is at the path is looked at before it is opened. A symbolic link is never followed, and another user's file is refused unless
   that user was named.
"""

from __future__ import annotations

import errno
import os
import stat

from kinfolk._native import POSIX_SEMAPHORE, posix_semaphore
from kinfolk.descriptors import Descriptor
from kinfolk.errors import (
    CorruptObject,
    InvalidValue,
    KinfolkError,
    NotFound,
    UntrustedPeer,
    from_os_error,
)
from kinfolk.nameless_file import NamelessFile
from kinfolk.ownership import check_owner, check_user, mode_of
from kinfolk.room import no_shared_memory
from kinfolk.sync import places

SIZE, ALIGNMENT, MOST = POSIX_SEMAPHORE
_KIND = "POSIX semaphore"
_DIRECTORY = "/dev/shm"
_LONGEST_NAME = 251  # bytes: of what stands behind "sem." in a file name


def path_of(name: str) -> str:
    """The file of a name, with or without its slash. Raises InvalidValue for what is no name."""
    bare = name.removeprefix("/") if isinstance(name, str) else ""
    try:
        length = len(os.fsencode(bare))
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= _LONGEST_NAME or "/" in bare or "\0" in bare:
        raise InvalidValue(
            "this is no name of a POSIX semaphore",
            subject=repr(name),
            why=f"it is a slash, and then up to {_LONGEST_NAME} bytes without another one (sem_overview(7))",
            remedy='give one such as "/jobs"',
        )
    return f"{_DIRECTORY}/sem.{bare}"


def named(name: str, value: int | None, mode: int | str, owner: int | None) -> places.Place:
    """The place of the one that has a name, or of a new one; with ``value`` None there has to be one.

    Raises InvalidValue, NotFound, UntrustedPeer, CorruptObject, AccessDenied, NoSpace, LimitReached.
    """
    path = path_of(name)
    subject = f"POSIX semaphore /{name.removeprefix('/')}"
    bits = mode_of(mode, subject)
    check_user(owner, subject)
    try:
        return _found_or_made(path, subject, value, bits, owner)
    except KinfolkError:
        raise
    except PermissionError as error:
        raise from_os_error(
            error, "can't open it", subject, "let its owner give you the right to read and write it"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_shared_memory(SIZE, subject, errno.ENOSPC) from error
        raise from_os_error(error, "can't open it", subject) from error


def _found_or_made(
    path: str, subject: str, value: int | None, mode: int, owner: int | None
) -> places.Place:
    while True:
        try:
            number = _found(path, subject, owner)
            return places.found(_KIND, subject, number, path, lambda _: SIZE)
        except FileNotFoundError:
            if value is None:
                raise NotFound(
                    "there is no such semaphore",
                    subject=subject,
                    remedy="make it: give it the value that it shall have",
                ) from None
        try:
            return _made(path, subject, value, mode)
        except FileExistsError:
            continue  # somebody was quicker


def _found(path: str, subject: str, owner: int | None) -> int:
    there = Descriptor.opened(subject, os.open, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(there.fileno())
        if stat.S_ISLNK(status.st_mode):
            raise UntrustedPeer(
                "its name is a symbolic link, which is not followed",
                subject=subject,
                remedy="remove the link",
            )
        check_owner({status.st_uid}, owner, "a semaphore", subject, "open it")
        if not stat.S_ISREG(status.st_mode) or status.st_size < SIZE:
            raise CorruptObject(
                "this is no semaphore",
                subject=path,
                why=f"it has {status.st_size} bytes, and a sem_t {SIZE}",
                remedy="remove it",
            )
        return os.open(f"/proc/self/fd/{there.fileno()}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        there.close()


def _made(path: str, subject: str, value: int, mode: int) -> places.Place:
    file = NamelessFile(path)
    try:
        number = file.descriptor.fileno()
        os.pwrite(number, posix_semaphore(value), 0)
        os.fchmod(number, mode)  # the umask may have taken more than it should
        place = places.unnamed(_KIND, file, subject, SIZE)
        try:
            place.take_name(file)
        except BaseException:
            place.close()
            raise
        return place
    finally:
        file.close()
