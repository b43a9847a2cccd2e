"""Memory that has a path: how it is created there, and how it is found. For POSIX shared memory and mapped files.

    create   a file without a name ── space ── flock ── mode ──>  publish: linkat(2)
    attach   path ── what is it, and whose? ── open ── fill holes ── membership

Rules:
1. What is at the path is looked at by a path descriptor before it is opened: to open a FIFO or a device does something.
2. A symbolic link is never followed, and another user's memory is refused unless that user was named.
"""

from __future__ import annotations

import errno
import os
import stat

from kinfolk import marks
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, InvalidValue, KinfolkError, NotFound, from_os_error
from kinfolk.memory.address import Address
from kinfolk.memory.contract import Attaching
from kinfolk.memory.file_segment import FileSegment, refuse_existing
from kinfolk.memory.membership import Membership
from kinfolk.memory.space import refuse, refuse_beyond_memory, reserve
from kinfolk.memory.trust import check_owner
from kinfolk.nameless_file import NamelessFile
from kinfolk.room import Room, room_in_file_system


def create(address: Address, path: str, size: int, *, on_disk: bool) -> FileSegment:
    """A new one, complete but for its name. Raises AlreadyExists, NotFound without a directory, NoSpace, LimitReached."""
    subject, options = str(address), address.options
    directory = os.path.dirname(path) or "."
    refuse_existing(path, subject, on_disk=on_disk)
    if not on_disk:
        refuse_beyond_memory(size, subject)
    try:
        nameless = NamelessFile(path)
    except OSError as error:
        raise _not_made(error, directory, subject) from error
    membership = None
    try:
        fd = nameless.descriptor.fileno()

        def room() -> Room:
            return room_in_file_system(fd, directory)

        refuse(size, room(), subject)
        reserve(fd, 0, size, room, subject)
        mode = 0o600 if options.mode is None else options.mode
        if options.lifetime == "peers":
            membership = Membership.begin(fd, path)
            marks.mark(fd, mode)
        else:
            os.fchmod(fd, mode)
        return FileSegment(
            nameless.descriptor,
            subject,
            path=path,
            membership=membership,
            on_disk=on_disk,
            nameless=nameless,
        )
    except BaseException:
        if membership is not None:
            membership.leave()
        nameless.close()
        raise


def _not_made(error: OSError, directory: str, subject: str) -> KinfolkError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(
            f"there is no directory {directory}", subject=subject, remedy="create it first"
        )
    if error.errno == errno.ENOSPC:
        return from_os_error(
            error, f"{directory} takes no more files", subject, "remove what nobody needs there"
        )
    return from_os_error(error, "can't be created", subject)


def attach(address: Address, path: str, how: Attaching, *, on_disk: bool) -> FileSegment:
    """The one at the path. Raises NotFound, UntrustedPeer, AddressError for what is no memory, AccessDenied, NoSpace; NotYet."""
    subject = str(address)
    descriptor = _open(path, how, subject)
    membership = None
    try:
        status = os.fstat(descriptor.fileno())
        if marks.is_marked(status.st_mode) and not on_disk:
            membership = Membership.join(descriptor.fileno(), path)
        check_size(status.st_size, address)
        segment = FileSegment(
            descriptor,
            subject,
            path=path,
            membership=membership,
            read_only=how.read_only,
            private=how.private,
            on_disk=on_disk,
        )
        segment.look()
        return segment
    except FileNotFoundError as error:
        descriptor.close()
        raise missing(subject) from error
    except BaseException:
        descriptor.close()
        if membership is not None:
            membership.leave()
        raise


def _open(path: str, how: Attaching, subject: str) -> Descriptor:
    try:
        there = Descriptor.opened(subject, os.open, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise missing(subject) from None
    try:
        status = os.fstat(there.fileno())
        _check_is_memory(status, subject)
        check_owner({status.st_uid}, how.owner, subject)
        flags = os.O_RDONLY if how.read_only or how.private else os.O_RDWR
        return Descriptor.opened(
            subject, os.open, f"/proc/self/fd/{there.fileno()}", flags | os.O_CLOEXEC
        )
    except PermissionError as error:
        raise _not_opened(error, how, subject) from error
    finally:
        there.close()


def _check_is_memory(status: os.stat_result, subject: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        what = "is a symbolic link, which is not followed"
    elif stat.S_ISDIR(status.st_mode):
        what = "is a directory"
    elif not stat.S_ISREG(status.st_mode):
        what = "is a FIFO, a socket or a device"
    else:
        return
    raise AddressError(f"this {what}", subject=subject, remedy="name what has memory behind it")


def _not_opened(error: PermissionError, how: Attaching, subject: str) -> KinfolkError:
    if isinstance(error, KinfolkError):
        return error
    remedy = "let its owner chmod() it" if how.read_only else "attach read-only"
    return from_os_error(error, "can't attach", subject, remedy)


def missing(subject: str) -> NotFound:
    """The error for a name that there is not."""
    return NotFound(
        "there is no such memory", subject=subject, remedy="create it first, or wait: timeout=5"
    )


def check_size(there: int, address: Address) -> None:
    """Raise InvalidValue for memory that is empty, or smaller than was asked for."""
    wanted = address.options.size
    if there == 0:
        raise InvalidValue(
            "it is empty", subject=str(address), remedy="let who made it give it a size"
        )
    if wanted is not None and there < wanted:
        raise InvalidValue(
            f"it has {there} bytes, and {wanted} are needed",
            subject=str(address),
            remedy="see who made it, or unlink it and create it anew",
        )
