"""System V shared memory as the kernel has it: one hold on a segment, and what it says of all (shmctl(2)).

Rules:
1. What kinfolk made for lifetime="peers" has, from the moment it exists, the execute bits of group and others without the owner's. They mean
   nothing here (shmget(2)); C programs say 0777 or 0700. A file beside it, in the runtime directory, says who its
   users are (`kinfolk.memory.membership`): processes of one user.
2. Only what has the mark *and* that file is ever removed; or the mark and nobody who was ever attached, so that nothing is in it: it was
   left by a maker who was killed before there was the file.
3. A segment without a key is marked for removal as soon as it is attached: it is there until the last one detaches,
   whatever ends him, and can be attached to by its id until then (on Linux, shmctl(2)).
4. To remove takes it from nobody who has it attached.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kinfolk import marks, runtime_directory
from kinfolk._native import (
    SysvAttachment,
    sysv_shm_remove,
    sysv_shm_set_mode,
    sysv_shm_status,
)
from kinfolk.errors import LimitReached, NotFound, Unsupported, from_os_error
from kinfolk.identity import is_dead, open_pidfd
from kinfolk.memory.address import Lifetime
from kinfolk.memory.contract import Mapping, Passed, Segment
from kinfolk.memory.membership import Membership
from kinfolk.room import no_space, room_in_memory

GONE = (errno.EINVAL, errno.EIDRM)  # there is no such id (any more)
_TABLE = "/proc/sysvipc/shm"


class Status(NamedTuple):
    """What IPC_STAT says of a segment."""

    size: int
    attachments: int
    owner: int
    creator: int
    mode: int
    key: int
    #: pid of who made it, 0 if it has none here
    made_by: int
    #: seconds since the epoch when somebody attached last; 0: nobody ever did
    attached_at: int

    @property
    def for_peers(self) -> bool:
        """Whether it has the mark."""
        return marks.is_sysv_marked(self.mode)

    @property
    def ours(self) -> bool:
        """Whether it has the mark, and is of this user."""
        return self.for_peers and self.creator == os.geteuid()


def status_of(number: int) -> Status:
    """What the kernel says of a segment. Raises OSError: `GONE`; EACCES without the right to read."""
    return Status(*sysv_shm_status(number))


class SysvMapping(SysvAttachment):
    """The memory of a segment, which keeps the hold on it."""

    segment: SysvSegment


class SysvSegment(Segment):
    """A hold on a System V segment."""

    def __init__(
        self,
        number: int,
        subject: str,
        *,
        read_only: bool,
        anonymous: bool,
        lifetime: Lifetime,
        membership: Membership | None = None,
    ) -> None:
        """Attach to a segment by its id. Raises OSError."""
        self._number, self.subject, self.read_only = number, subject, read_only
        # Kept until it is handed out: without anybody attached, a segment may be gone.
        self._first: SysvMapping | None = self._attached()
        self.size = len(self._first)
        self._anonymous, self._membership = anonymous, membership
        self.lifetime = lifetime

    def _attached(self) -> SysvMapping:
        try:
            return SysvMapping(self._number, self.read_only)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EMFILE):
                raise
            raise LimitReached(
                "it can't be attached",
                subject=self.subject,
                why=os.strerror(errno.ENOMEM),
                remedy="free address space, or raise the limit: ulimit -v, sysctl vm.max_map_count",
                code=errno.ENOMEM,
            ) from error

    def reserve(self) -> None:
        """Have its pages, before anybody touches them. For a new one. Raises NoSpace, OSError."""
        assert self._first is not None
        try:
            self._first.populate()
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise no_space(self.size, room_in_memory(), self.subject, errno.ENOMEM) from error

    def map(self) -> Mapping:
        """shmat(2)."""
        first, self._first = self._first, None
        mapping = self._attached() if first is None else first
        mapping.segment = self
        return mapping

    def identifier(self) -> int:
        """Shmid."""
        return self._number

    def mode(self) -> int:
        """shm_perm.mode."""
        return self._status().mode & 0o666

    def chmod(self, mode: int) -> None:
        """shmctl(2), IPC_SET."""
        mode = marks.sysv_marked(mode) if self._status().for_peers else marks.unmarked(mode)
        sysv_shm_set_mode(self._number, mode)

    def _status(self) -> Status:
        try:
            return status_of(self._number)
        except OSError as error:
            raise self._lost(error) from error

    def _lost(self, error: OSError) -> Exception:
        if error.errno not in GONE:
            return error
        return NotFound("it was removed already", subject=self.subject)

    def grow(self, size: int) -> None:
        """The kernel can't."""
        raise Unsupported(
            "a System V segment keeps its size",
            subject=self.subject,
            remedy="create another one, or use shm: or memfd:",
        )

    def look(self) -> int:
        """It never changes."""
        return self.size

    def unlink(self) -> None:
        """shmctl(2), IPC_RMID: the key is free at once, the memory goes with the last who is attached."""
        if self._anonymous:
            raise Unsupported(
                "there is no key to remove",
                subject=self.subject,
                remedy="close it: the memory goes with its last user",
            )
        try:
            if status_of(self._number).key == 0:
                raise OSError(errno.EIDRM, os.strerror(errno.EIDRM))
            sysv_shm_remove(self._number)
        except PermissionError as error:
            raise from_os_error(
                error, "can't remove it", self.subject, "its owner can, or root"
            ) from error
        except OSError as error:
            raise self._lost(error) from error

    def leave(self) -> None:
        """The last user removes the key, where the lifetime is "peers"."""
        if self._membership is not None:
            self._membership.leave()
            with runtime_directory.lock_for_leaving():
                pass  # which removes the directory of the members if it is empty

    def close(self) -> None:
        """Leave; an id is not to be given back."""
        self._first = None
        self.leave()

    def __del__(self) -> None:
        if hasattr(self, "lifetime"):  # else it was never finished
            self.close()

    def passable(self) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
        """By its id, which is the same in every process."""
        member = path = None
        if self._membership is not None:
            member, path = Passed(self._membership.fileno()), self._membership.path
        how = (self.read_only, self._anonymous, self.lifetime)
        return _passed, (self._number, self.subject, *how, member, path)


def _passed(
    number: int,
    subject: str,
    read_only: bool,
    anonymous: bool,
    lifetime: Lifetime,
    member: int | None,
    path: str | None,
) -> SysvSegment:
    membership = None
    if member is not None and path is not None:
        membership = Membership.passed(member, path, lambda: remove_if_ours(number))
    try:
        return SysvSegment(
            number,
            subject,
            read_only=read_only,
            anonymous=anonymous,
            lifetime=lifetime,
            membership=membership,
        )
    except OSError as error:
        if membership is not None:
            membership.leave()
        if error.errno not in GONE:
            raise
        raise NotFound(
            "it was removed before it arrived here",
            subject=subject,
            remedy="keep it open until the child has it",
        ) from None


def remove_if_ours(number: int) -> None:
    """Remove what has lifetime="peers", and has or had members, if it is ours. Never raises."""
    with contextlib.suppress(OSError):
        if status_of(number).ours:
            sysv_shm_remove(number)


def remove_if_abandoned(number: int) -> bool:
    """Remove what was left in the making; whether it was. It has no members, and nobody was ever attached. Raises OSError."""
    status = status_of(number)
    if not status.ours or status.attached_at or _runs(status.made_by):
        return False
    sysv_shm_remove(number)
    return True


def sweep() -> None:
    """Remove segments without a key whose makers were killed before they were attached. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        for number, status in all_segments():
            if status.key == 0 and status.ours:
                remove_if_abandoned(number)


def all_segments() -> Iterator[tuple[int, Status]]:
    """Every segment of this IPC namespace, by its id (proc_sysvipc(5)). Raises OSError."""
    with open(_TABLE) as table:
        next(table)
        for line in table:
            words = line.split()
            key, number, mode = int(words[0]), int(words[1]), int(words[2], 8)
            size, made_by, attachments = int(words[3]), int(words[4]), int(words[6])
            owner, creator, attached_at = int(words[7]), int(words[9]), int(words[11])
            yield number, Status(size, attachments, owner, creator, mode, key, made_by, attached_at)


def _runs(pid: int) -> bool:
    """Whether a maker may still be at it; of one in another pid namespace (0) nobody can tell."""
    if pid == 0:
        return True
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return False
    try:
        return not is_dead(pidfd)
    finally:
        os.close(pidfd)
